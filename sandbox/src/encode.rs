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

/// The module name under which programs import the older WASI.
const PREVIEW1: &str = "wasi_snapshot_preview1";

/// The functions of the older WASI that a core module imports.
fn wasi_imports(module: &[u8]) -> impl Iterator<Item = &str> {
    wasmparser::Parser::new(0)
        .parse_all(module)
        .map_while(Result::ok)
        .filter_map(|payload| match payload {
            wasmparser::Payload::ImportSection(section) => Some(section),
            _ => None,
        })
        .flat_map(|section| section.into_imports().map_while(Result::ok))
        .filter(|import| import.module == PREVIEW1)
        .map(|import| import.name)
}

/// Whether a core module imports WASI.
pub fn imports_wasi(module: &[u8]) -> bool {
    wasi_imports(module).next().is_some()
}

/// What a core module of `world` may import where WASI is on. The names and
/// signatures of WASI's functions are checked when the adapter is linked.
pub fn allowed_with_wasi(world: World, module: &[u8]) -> ImportAllowList {
    let mut allowed = match world {
        World::Command => ImportAllowList::new(),
        world => allowed_imports(world),
    };
    for name in wasi_imports(module) {
        allowed.allow(PREVIEW1, name, None);
    }
    allowed
}

/// Encodes a core module that imports WASI as a component: an adapter (a small
/// core module of the WASI project) stands between the two versions of WASI.
/// Nothing is metered here.
pub fn adapt(module: &[u8], world: World) -> Result<Vec<u8>, EncodeError> {
    use wasi_preview1_component_adapter_provider as adapters;
    let refuse =
        |reason: String| EncodeError { world: world.name(), reason: crate::text::clean(&reason, 2_000) };
    let mut module = without_custom_sections(module).map_err(|e| refuse(e.to_string()))?;
    let adapter = match world {
        World::Command => adapters::WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
        _ => {
            let (resolve, _) = resolve();
            embed_component_metadata(&mut module, resolve, world_id(world.name()), StringEncoding::UTF8)
                .map_err(|e| refuse(format!("{e:#}")))?;
            adapters::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER
        }
    };
    ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|encoder| encoder.adapter(adapters::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, adapter))
        .and_then(|mut encoder| encoder.encode())
        .map_err(|e| refuse(format!("{e:#}")))
}

/// The module without what its author says about its own types.
fn without_custom_sections(module: &[u8]) -> Result<Vec<u8>, wasmparser::BinaryReaderError> {
    let mut plain = wasm_encoder::Module::new();
    for payload in wasmparser::Parser::new(0).parse_all(module) {
        let payload = payload?;
        if !matches!(payload, wasmparser::Payload::CustomSection(_))
            && let Some((id, range)) = payload.as_section()
            && let Some(data) = module.get(range)
        {
            plain.section(&wasm_encoder::RawSection { id, data });
        }
    }
    Ok(plain.finish())
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
    fn a_program_with_a_start_becomes_a_command_and_its_custom_sections_are_gone() {
        let text = "(module (import \"wasi_snapshot_preview1\" \"proc_exit\" (func $x (param i32)))
            (memory (export \"memory\") 1) (func (export \"_start\") (call $x (i32.const 0)))
            (@custom \"component-type\" \"lies\"))";
        let module = wat::parse_str(text).unwrap();
        assert!(imports_wasi(&module));
        assert!(!without_custom_sections(&module).unwrap().windows(4).any(|w| w == b"lies"));
        let component = adapt(&module, World::Command).unwrap();
        let shown = String::from_utf8_lossy(&component).into_owned();
        assert!(shown.contains("wasi:cli/run@0.2"), "the adapter exports it");
        assert!(adapt(&module, World::Function).unwrap_err().to_string().contains("function"));
    }

    #[test]
    fn a_module_without_the_exports_is_refused_by_name() {
        let empty = b"\0asm\x01\0\0\0";
        let error = encode(empty, World::Function).unwrap_err().to_string();
        assert!(error.contains("function"), "{error}");
    }
}
