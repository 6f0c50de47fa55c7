//! The gate: what a guest module must satisfy before a compiler sees it.
//!
//! A small module can cost a compiler minutes (nets of `br_table`, tens of
//! thousands of locals, thousands of wide types), and compile-time denial of
//! service is no vulnerability to its authors. So every count is bounded
//! here, in one pass that does nothing costly, and each bound is tested as
//! soon as the number is known, before the part it bounds is read. The module
//! is then valid, uses only the accepted proposals, and imports nothing but
//! allowed functions. The compiler still belongs in a process that can be
//! killed.
//!
//! Accepted beyond the MVP: mutable globals, sign extension, saturating float
//! conversion, multi-value, bulk memory, reference types (functions only) and
//! fixed-width SIMD. Refused are all others: memory64, multiple memories,
//! threads, tail calls, exceptions, garbage collection, typed function
//! references, relaxed SIMD (its results differ between machines), extended
//! constants, custom page sizes, wide arithmetic.

mod component;
mod limits;

use serde::{Deserialize, Serialize};
use wasmparser::{
    BinaryReader, BinaryReaderError, BlockType, CompositeInnerType, ElementItems, Encoding, FuncToValidate,
    FuncValidatorAllocations, FunctionBody, Operator, OperatorsReader, Parser, Payload, TypeRef, ValType,
    ValidPayload, Validator, ValidatorResources, WasmFeatures, WasmModuleResources,
};

pub use self::component::{ComponentLimits, ComponentReport, check_component};
pub use self::limits::{CoreType, GateReport, ImportAllowList, Limit, ModuleLimits, Signature};
use crate::meter::RESERVED;

/// The proposals that a guest may use; everything else is refused.
pub fn accepted_features() -> WasmFeatures {
    WasmFeatures::FLOATS
        | WasmFeatures::MUTABLE_GLOBAL
        | WasmFeatures::SIGN_EXTENSION
        | WasmFeatures::SATURATING_FLOAT_TO_INT
        | WasmFeatures::MULTI_VALUE
        | WasmFeatures::BULK_MEMORY
        | WasmFeatures::REFERENCE_TYPES
        | WasmFeatures::SIMD
}

/// Why a module was refused. Names from the module are cut to 100 characters;
/// they are still a stranger's text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "rejection", rename_all = "snake_case")]
pub enum Rejection {
    /// A count or size is above its limit.
    #[error("{limit} is {found}, at most {allowed} are allowed{}{}; make the program smaller or simpler",
        .function.map(|f| format!(" (function {f})")).unwrap_or_default(),
        .offset.map(|o| format!(" (offset {o})")).unwrap_or_default())]
    TooMuch {
        /// Which limit.
        limit: Limit,
        /// What the module has, or had when counting stopped.
        found: u64,
        /// What is allowed.
        allowed: u64,
        /// Index of the function, imports first, where it was found.
        function: Option<u32>,
        /// Offset in the module in bytes, where known.
        offset: Option<usize>,
    },
    /// It imports something that the host does not offer.
    #[error("unknown import {module:?} {name:?}; use only the functions of the host interface")]
    UnknownImport {
        /// The module name of the import.
        module: String,
        /// The field name of the import.
        name: String,
    },
    /// It imports a function of the host with another signature.
    #[error(
        "import {module:?} {name:?} has another type than the host's: {found}; rebuild with the current bindings"
    )]
    ImportType {
        /// The module name of the import.
        module: String,
        /// The field name of the import.
        name: String,
        /// The type in the module.
        found: String,
    },
    /// It imports a memory, table or global.
    #[error("import {module:?} {name:?} is a {kind}; only functions may be imported")]
    ImportKind {
        /// The module name of the import.
        module: String,
        /// The field name of the import.
        name: String,
        /// What it is.
        kind: String,
    },
    /// A count or size of a component is above its limit.
    #[error("{limit} is {found}, at most {allowed} are allowed in a component; make it smaller or simpler")]
    ComponentTooMuch {
        /// Name of the field of [`ComponentLimits`].
        limit: String,
        /// What the component has, or had when counting stopped.
        found: u64,
        /// What is allowed.
        allowed: u64,
    },
    /// It imports WASI, which is off unless it is asked for.
    #[error("imports {interface:?}, and WASI is off; do without it, or turn WASI on for this task")]
    WasiIsOff {
        /// The first interface or module of WASI that it imports.
        interface: String,
    },
    /// A component imports something that the host does not offer.
    #[error(
        "unknown import {interface:?}; a component may import terrarium:guest/knobs, /report and /host, \
             and the interfaces of WASI 0.2 where it is on"
    )]
    UnknownInterface {
        /// Its name.
        interface: String,
    },
    /// It uses a proposal that is not accepted.
    #[error(
        "the module uses {feature}, which is not accepted (offset {offset}): {message}; compile without it"
    )]
    Feature {
        /// Name of the proposal.
        feature: String,
        /// Offset in the module in bytes.
        offset: usize,
        /// What the validator said.
        message: String,
    },
    /// It exports a name that the host uses.
    #[error("export {name:?} uses the reserved name {RESERVED:?}; rename it")]
    ReservedExport {
        /// The name.
        name: String,
    },
    /// It is not a valid core module.
    #[error("not a valid WebAssembly module (offset {offset}): {message}")]
    Malformed {
        /// Offset in the module in bytes.
        offset: usize,
        /// What the validator said.
        message: String,
    },
}

impl From<BinaryReaderError> for Rejection {
    fn from(error: BinaryReaderError) -> Self {
        let (offset, message) = (error.offset(), error.message().to_owned());
        match error.missing_wasm_feature() {
            Some(features) => {
                let names: Vec<String> =
                    features.iter_names().map(|(name, _)| name.to_lowercase().replace('_', "-")).collect();
                Rejection::Feature { feature: names.join(" or "), offset, message }
            }
            None => Rejection::Malformed { offset, message },
        }
    }
}

/// Checks a core module, and says what was counted in it.
///
/// # Errors
///
/// The first [`Rejection`] that applies, for any bytes.
pub fn check(wasm: &[u8], limits: &ModuleLimits, imports: &ImportAllowList) -> Result<GateReport, Rejection> {
    Gate { limits, imports, inner: false, report: GateReport::default() }.module(wasm)
}

struct Gate<'a> {
    limits: &'a ModuleLimits,
    imports: &'a ImportAllowList,
    /// A module inside of a component, which says where its imports come from.
    inner: bool,
    report: GateReport,
}

impl Gate<'_> {
    fn module(mut self, wasm: &[u8]) -> Result<GateReport, Rejection> {
        self.add(Limit::Bytes, wasm.len() as u64, None, None)?;
        let features = if self.inner { component::features() } else { accepted_features() };
        let mut validator = Validator::new_with_features(features);
        let mut allocations = FuncValidatorAllocations::default();
        let mut parser = Parser::new(0);
        parser.set_features(features);
        for payload in parser.parse_all(wasm) {
            let payload = payload?;
            self.section(&payload)?;
            let valid = validator.payload(&payload)?;
            if let Payload::ImportSection(section) = payload {
                self.import_types(section, &validator)?;
            } else if let ValidPayload::Func(function, body) = valid {
                allocations = self.function(function, &body, allocations)?;
            }
        }
        Ok(self.report)
    }

    /// Counts towards a total.
    fn add(
        &mut self,
        limit: Limit,
        amount: u64,
        function: Option<u32>,
        offset: Option<usize>,
    ) -> Result<(), Rejection> {
        let counted = limit.counted(&mut self.report);
        *counted = counted.saturating_add(amount);
        let found = *counted;
        self.bound(limit, found, function, offset)
    }

    /// Takes the maximum.
    fn peak(
        &mut self,
        limit: Limit,
        found: u64,
        function: Option<u32>,
        offset: Option<usize>,
    ) -> Result<(), Rejection> {
        let counted = limit.counted(&mut self.report);
        *counted = found.max(*counted);
        self.bound(limit, found, function, offset)
    }

    fn bound(
        &self,
        limit: Limit,
        found: u64,
        function: Option<u32>,
        offset: Option<usize>,
    ) -> Result<(), Rejection> {
        let allowed = limit.allowed(self.limits);
        if found > allowed {
            return Err(Rejection::TooMuch { limit, found, allowed, function, offset });
        }
        Ok(())
    }

    fn name(&mut self, name: &str, offset: usize) -> Result<(), Rejection> {
        self.peak(Limit::NameBytes, name.len() as u64, None, Some(offset))
    }

    /// Bounds one section before the validator reads it.
    fn section(&mut self, payload: &Payload<'_>) -> Result<(), Rejection> {
        match payload {
            Payload::Version { encoding: Encoding::Component, .. } => {
                return Err(Rejection::Malformed {
                    offset: 0,
                    message: "this is a component; a core module is expected".to_owned(),
                });
            }
            Payload::TypeSection(section) => {
                let start = section.range().start;
                self.add(Limit::Types, section.count().into(), None, Some(start))?;
                for group in section.clone().into_iter_with_offsets() {
                    let (offset, group) = group?;
                    for ty in group.types() {
                        if let CompositeInnerType::Func(ty) = &ty.composite_type.inner {
                            let (params, results) = (ty.params().len(), ty.results().len());
                            self.peak(Limit::Params, params as u64, None, Some(offset))?;
                            self.peak(Limit::Results, results as u64, None, Some(offset))?;
                        }
                    }
                }
            }
            Payload::ImportSection(section) => {
                let start = section.range().start;
                self.add(Limit::Imports, section.count().into(), None, Some(start))?;
                for import in section.clone().into_imports_with_offsets() {
                    let (offset, import) = import?;
                    self.name(import.module, offset)?;
                    self.name(import.name, offset)?;
                    self.import(&import)?;
                }
            }
            Payload::FunctionSection(section) => {
                let start = section.range().start;
                self.add(Limit::Functions, section.count().into(), None, Some(start))?;
            }
            Payload::TableSection(section) => {
                let start = section.range().start;
                self.add(Limit::Tables, section.count().into(), None, Some(start))?;
                for table in section.clone() {
                    self.add(Limit::TableElements, table?.ty.initial, None, Some(start))?;
                }
            }
            Payload::MemorySection(section) => {
                let start = section.range().start;
                self.add(Limit::Memories, section.count().into(), None, Some(start))?;
                for memory in section.clone() {
                    self.add(Limit::MemoryPages, memory?.initial, None, Some(start))?;
                }
            }
            Payload::GlobalSection(section) => {
                let start = section.range().start;
                self.add(Limit::Globals, section.count().into(), None, Some(start))?;
            }
            Payload::ExportSection(section) => {
                let start = section.range().start;
                self.add(Limit::Exports, section.count().into(), None, Some(start))?;
                for export in section.clone().into_iter_with_offsets() {
                    let (offset, export) = export?;
                    self.name(export.name, offset)?;
                    if export.name.contains(RESERVED) {
                        return Err(Rejection::ReservedExport { name: shown(export.name) });
                    }
                }
            }
            Payload::ElementSection(section) => {
                let start = section.range().start;
                self.add(Limit::ElementSegments, section.count().into(), None, Some(start))?;
                for segment in section.clone().into_iter_with_offsets() {
                    let (offset, segment) = segment?;
                    let elements = match segment.items {
                        ElementItems::Functions(items) => items.count(),
                        ElementItems::Expressions(_, items) => items.count(),
                    };
                    self.add(Limit::SegmentElements, elements.into(), None, Some(offset))?;
                }
            }
            Payload::DataSection(section) => {
                let start = section.range().start;
                self.add(Limit::DataSegments, section.count().into(), None, Some(start))?;
                for segment in section.clone().into_iter_with_offsets() {
                    let (offset, segment) = segment?;
                    self.add(Limit::DataBytes, segment.data.len() as u64, None, Some(offset))?;
                }
            }
            Payload::CustomSection(section) => {
                self.add(Limit::CustomSections, 1, None, Some(section.range().start))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Only functions on the list come in.
    fn import(&self, import: &wasmparser::Import<'_>) -> Result<(), Rejection> {
        if self.inner {
            return Ok(());
        }
        let (module, name) = (shown(import.module), shown(import.name));
        let kind = match import.ty {
            TypeRef::Func(_) | TypeRef::FuncExact(_) => {
                return match self.imports.get(import.module, import.name) {
                    Some(_) => Ok(()),
                    None => Err(Rejection::UnknownImport { module, name }),
                };
            }
            TypeRef::Table(_) => "table",
            TypeRef::Memory(_) => "memory",
            TypeRef::Global(_) => "global",
            TypeRef::Tag(_) => "tag",
        };
        Err(Rejection::ImportKind { module, name, kind: kind.to_owned() })
    }

    /// Compares the signatures, once the section has been validated.
    fn import_types(
        &self,
        section: wasmparser::ImportSectionReader<'_>,
        validator: &Validator,
    ) -> Result<(), Rejection> {
        let Some(types) = validator.types(0) else {
            return Ok(());
        };
        for import in section.into_imports() {
            let import = import?;
            let (TypeRef::Func(ty), Some(Some(signature))) =
                (import.ty, self.imports.get(import.module, import.name))
            else {
                continue;
            };
            let ty = types[types.core_type_at_in_module(ty)].unwrap_func();
            let same = |found: &[ValType], host: &[CoreType]| {
                found.len() == host.len()
                    && found.iter().zip(host).all(|(&found, &host)| found == value_type(host))
            };
            if !(same(ty.params(), &signature.params) && same(ty.results(), &signature.results)) {
                return Err(Rejection::ImportType {
                    module: shown(import.module),
                    name: shown(import.name),
                    found: ty.to_string(),
                });
            }
        }
        Ok(())
    }

    /// Bounds and validates one body.
    fn function(
        &mut self,
        function: FuncToValidate<ValidatorResources>,
        body: &FunctionBody<'_>,
        allocations: FuncValidatorAllocations,
    ) -> Result<FuncValidatorAllocations, Rejection> {
        let index = Some(function.index);
        let start = Some(body.range().start);
        self.peak(Limit::FunctionBodyBytes, body.range().len() as u64, index, start)?;

        let mut checker = function.into_validator(allocations);
        let mut locals = u64::from(checker.len_locals());
        for group in body.get_locals_reader()? {
            locals = locals.saturating_add(u64::from(group?.0));
            self.peak(Limit::LocalsPerFunction, locals, index, start)?;
        }
        self.peak(Limit::LocalsPerFunction, locals, index, start)?;
        self.add(Limit::Locals, locals, index, start)?;
        let mut reader: BinaryReader<'_> = body.get_binary_reader();
        checker.read_locals(&mut reader)?;

        let mut targets = 0u64;
        let mut block_values = 0u64;
        let mut reader = OperatorsReader::new(reader);
        while !reader.eof() {
            let offset = reader.original_position();
            let operator = reader.read()?;
            match &operator {
                Operator::Block { blockty } | Operator::Loop { blockty } | Operator::If { blockty } => {
                    let open = u64::from(checker.control_stack_height());
                    self.peak(Limit::Nesting, open, index, Some(offset))?;
                    block_values += match *blockty {
                        BlockType::Empty => 0,
                        BlockType::Type(_) => 1,
                        BlockType::FuncType(ty) => checker
                            .resources()
                            .sub_type_at(ty)
                            .and_then(|ty| match &ty.composite_type.inner {
                                CompositeInnerType::Func(ty) => Some(ty),
                                _ => None,
                            })
                            .map_or(0, |ty| (ty.params().len() + ty.results().len()) as u64),
                    };
                    self.peak(Limit::BlockValuesPerFunction, block_values, index, Some(offset))?;
                }
                Operator::BrTable { targets: table } => {
                    let count = u64::from(table.len()) + 1;
                    targets += count;
                    self.peak(Limit::BrTableTargetsPerFunction, targets, index, Some(offset))?;
                    self.add(Limit::BrTableTargets, count, index, Some(offset))?;
                }
                _ => {}
            }
            checker.op(offset, &operator)?;
        }
        reader.finish()?;
        Ok(checker.into_allocations())
    }
}

fn value_type(ty: CoreType) -> ValType {
    match ty {
        CoreType::I32 => ValType::I32,
        CoreType::I64 => ValType::I64,
        CoreType::F32 => ValType::F32,
        CoreType::F64 => ValType::F64,
    }
}

/// A stranger's name, at a length that can be shown.
fn shown(name: &str) -> String {
    name.chars().take(100).collect()
}

#[cfg(test)]
mod tests;
