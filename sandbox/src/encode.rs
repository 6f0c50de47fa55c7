//! From a metered core module to a component, by the WIT package alone.
//!
//! What a guest says about its own types (its `component-type` sections) is
//! dropped by the metering pass; the host knows which world it asked for and
//! embeds that.

use crate::World;
use crate::gate::{CoreType, ImportAllowList, Signature};
use std::sync::OnceLock;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::abi::{AbiVariant, WasmType};
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

/// The functions that a core module built for `world` may import, with the
/// core signatures that the canonical ABI gives them.
pub fn allowed_imports(world: World) -> ImportAllowList {
    let (resolve, _) = resolve();
    let mut allowed = ImportAllowList::new();
    for (key, item) in &resolve.worlds[world_id(world.name())].imports {
        if let WorldItem::Interface { id, .. } = item {
            let module = resolve.name_world_key(key);
            for (field, function) in &resolve.interfaces[*id].functions {
                let signature = resolve.wasm_signature(AbiVariant::GuestImport, function);
                allowed.allow(
                    module.clone(),
                    field.clone(),
                    Some(Signature {
                        params: core_types(&signature.params),
                        results: core_types(&signature.results),
                    }),
                );
            }
        }
    }
    allowed
}

fn core_types(types: &[WasmType]) -> Vec<CoreType> {
    types
        .iter()
        .map(|t| match t {
            WasmType::I32 | WasmType::Pointer | WasmType::Length => CoreType::I32,
            WasmType::I64 | WasmType::PointerOrI64 => CoreType::I64,
            WasmType::F32 => CoreType::F32,
            WasmType::F64 => CoreType::F64,
        })
        .collect()
}

/// Encodes a metered module as a component of `metered-<world>`.
pub fn encode(metered: &[u8], world: World) -> Result<Vec<u8>, EncodeError> {
    let refuse =
        |reason: String| EncodeError { world: world.name(), reason: crate::text::clean(&reason, 2_000) };
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
        let compute = "terrarium:guest/compute@0.1.0";
        let function = allowed_imports(World::Function);
        assert!(function.get(compute, "submit").is_none());
        assert!(function.get("terrarium:guest/data@0.1.0", "next-batch").is_none());
        let log = function.get("terrarium:guest/report@0.1.0", "log").unwrap().unwrap();
        assert_eq!(log.params, [CoreType::I32, CoreType::I32]);
        let trainer = allowed_imports(World::Trainer);
        assert!(trainer.get(compute, "submit").is_some());
        assert!(trainer.get(compute, "exec").is_none());
    }

    #[test]
    fn a_module_without_the_exports_is_refused_by_name() {
        let empty = b"\0asm\x01\0\0\0";
        let error = encode(empty, World::Function).unwrap_err().to_string();
        assert!(error.contains("function"), "{error}");
    }
}
