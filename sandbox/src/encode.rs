//! From a metered core module to a component, by the WIT package alone.
//!
//! What a guest says about its own types (its `component-type` sections) is
//! dropped by the metering pass; the host knows which world it asked for and
//! embeds that.

use crate::World;
use std::collections::BTreeSet;
use std::sync::OnceLock;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, WorldId, WorldItem};

/// The only definition of the host interface.
pub const WIT: &str = include_str!("../wit/terrarium.wit");

/// The module does not fit the world that was asked for.
#[derive(Debug, thiserror::Error)]
#[error("the module does not implement the world `{world}`: {reason}")]
pub struct EncodeError {
    world: &'static str,
    reason: String,
}

fn resolve() -> &'static (Resolve, wit_parser::PackageId) {
    static PARSED: OnceLock<(Resolve, wit_parser::PackageId)> = OnceLock::new();
    PARSED.get_or_init(|| {
        let mut resolve = Resolve::default();
        let package = resolve
            .push_str("terrarium.wit", WIT)
            .expect("the WIT package in this crate is valid; a test parses it");
        (resolve, package)
    })
}

fn world_id(name: &str) -> WorldId {
    let (resolve, package) = resolve();
    resolve
        .select_world(&[*package], Some(name))
        .expect("the worlds are part of the WIT package; a test selects each")
}

/// The imports that a core module built for `world` may have: pairs of
/// module and field.
pub fn allowed_imports(world: World) -> BTreeSet<(String, String)> {
    let (resolve, _) = resolve();
    let mut allowed = BTreeSet::new();
    for (key, item) in &resolve.worlds[world_id(world.name())].imports {
        if let WorldItem::Interface { id, .. } = item {
            let module = resolve.name_world_key(key);
            for field in resolve.interfaces[*id].functions.keys() {
                allowed.insert((module.clone(), field.clone()));
            }
        }
    }
    allowed
}

/// Encodes a metered module as a component of `metered-<world>`.
pub fn encode(metered: &[u8], world: World) -> Result<Vec<u8>, EncodeError> {
    let refuse = |reason: String| EncodeError {
        world: world.name(),
        reason: crate::text::clean(&reason, 2_000),
    };
    let (resolve, _) = resolve();
    let mut module = metered.to_vec();
    let name = format!("metered-{}", world.name());
    embed_component_metadata(&mut module, resolve, world_id(&name), StringEncoding::UTF8)
        .map_err(|e| refuse(format!("{e:#}")))?;
    ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|e| refuse(format!("{e:#}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_world_of_the_package_can_be_selected() {
        for world in [World::Trainer, World::Function] {
            world_id(world.name());
            world_id(&format!("metered-{}", world.name()));
        }
    }

    #[test]
    fn a_function_may_import_nothing_of_the_device() {
        let function = allowed_imports(World::Function);
        assert!(function.iter().all(|(m, _)| !m.contains("compute") && !m.contains("/data")));
        assert!(function.iter().any(|(m, f)| m.contains("report") && f == "log"));
        let trainer = allowed_imports(World::Trainer);
        assert!(trainer.iter().any(|(m, f)| m == "terrarium:guest/compute@0.1.0" && f == "submit"));
        assert!(function.is_subset(&trainer));
    }

    #[test]
    fn a_module_without_the_exports_is_refused_by_name() {
        let empty = b"\0asm\x01\0\0\0";
        let error = encode(empty, World::Function).unwrap_err().to_string();
        assert!(error.contains("function"), "{error}");
    }
}
