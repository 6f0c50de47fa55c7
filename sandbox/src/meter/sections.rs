//! The sections of a module, kept as bytes, with entries appended to them.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use wasm_encoder::reencode::{Reencode, RoundtripReencoder};
use wasm_encoder::{ConstExpr, Encode, ExportKind, Instruction, Module, RawSection};
use wasmparser::{
    BinaryReader, BinaryReaderError, ElementItems, ExternalKind, Operator, Parser, Payload, TableInit,
    TypeRef, ValType,
};

use super::function::Body;
use super::{FUEL_GET, FUEL_SET, Layout, MeterConfig, MeterError, Metered, RESERVED};

const TYPE: u8 = 1;
const IMPORT: u8 = 2;
const FUNCTION: u8 = 3;
const TABLE: u8 = 4;
const MEMORY: u8 = 5;
const GLOBAL: u8 = 6;
const EXPORT: u8 = 7;
const START: u8 = 8;
const ELEMENT: u8 = 9;
const CODE: u8 = 10;
const DATA: u8 = 11;
const DATA_COUNT: u8 = 12;
/// All sections of a module without tags, in the order that the format asks.
const ORDER: [u8; 12] =
    [TYPE, IMPORT, FUNCTION, TABLE, MEMORY, GLOBAL, EXPORT, START, ELEMENT, DATA_COUNT, CODE, DATA];

/// Function types that metering appends to the type section.
#[derive(Default)]
pub(super) struct AddedTypes {
    entries: Vec<Vec<u8>>,
    by_results: HashMap<Vec<ValType>, u32>,
}

impl AddedTypes {
    /// Position, among the added types, of `[] -> results`.
    pub(super) fn block(&mut self, results: &[ValType]) -> Result<u32, MeterError> {
        if let Some(&index) = self.by_results.get(results) {
            return Ok(index);
        }
        let index = self.entries.len() as u32;
        self.entries.push(function_type(&[], results)?);
        self.by_results.insert(results.to_vec(), index);
        Ok(index)
    }
}

fn function_type(params: &[ValType], results: &[ValType]) -> Result<Vec<u8>, MeterError> {
    let mut bytes = vec![0x60];
    for types in [params, results] {
        (types.len() as u32).encode(&mut bytes);
        for &ty in types {
            value_type(ty)?.encode(&mut bytes);
        }
    }
    Ok(bytes)
}

/// The encoder's form of a value type.
pub(super) fn value_type(ty: ValType) -> Result<wasm_encoder::ValType, MeterError> {
    RoundtripReencoder
        .val_type(ty)
        .map_err(|error| MeterError::Invalid { offset: 0, message: error.to_string() })
}

/// Where each section of the original lies, and what had to be counted.
#[derive(Default)]
pub(super) struct Sections {
    contents: [Option<Range<usize>>; 13],
    /// Imported functions: the index of the first defined one.
    imported_functions: u32,
    imported_globals: u32,
    /// Types of the original.
    types: u32,
    globals: u32,
    functions: u32,
    named_functions: BTreeSet<u32>,
}

impl Sections {
    /// Takes note of one part of the module.
    pub(super) fn note(&mut self, payload: &Payload<'_>) -> Result<(), MeterError> {
        if let Some((id, range)) = payload.as_section()
            && id != 0
            && let Some(slot) = self.contents.get_mut(usize::from(id))
        {
            *slot = Some(range);
        }
        match payload {
            Payload::TypeSection(types) => self.types = types.count(),
            Payload::ImportSection(imports) => {
                for import in imports.clone().into_imports() {
                    match import?.ty {
                        TypeRef::Func(_) | TypeRef::FuncExact(_) => self.imported_functions += 1,
                        TypeRef::Global(_) => self.imported_globals += 1,
                        _ => {}
                    }
                }
            }
            Payload::FunctionSection(functions) => self.functions = functions.count(),
            Payload::GlobalSection(globals) => {
                self.globals = globals.count();
                for global in globals.clone() {
                    self.name_functions(&global?.init_expr)?;
                }
            }
            Payload::TableSection(tables) => {
                for table in tables.clone() {
                    if let TableInit::Expr(value) = table?.init {
                        self.name_functions(&value)?;
                    }
                }
            }
            Payload::ElementSection(segments) => {
                for segment in segments.clone() {
                    match segment?.items {
                        ElementItems::Functions(functions) => {
                            for function in functions {
                                self.named_functions.insert(function?);
                            }
                        }
                        ElementItems::Expressions(_, values) => {
                            for value in values {
                                self.name_functions(&value?)?;
                            }
                        }
                    }
                }
            }
            Payload::StartSection { func, .. } => {
                self.named_functions.insert(*func);
            }
            Payload::ExportSection(exports) => {
                for export in exports.clone() {
                    let wasmparser::Export { name, kind, index } = export?;
                    if name.contains(RESERVED) {
                        return Err(MeterError::ReservedExport { name: name.to_owned() });
                    }
                    if matches!(kind, ExternalKind::Func | ExternalKind::FuncExact) {
                        self.named_functions.insert(index);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Functions that something else than a direct call can reach: exported,
    /// started, or referred to outside of the code. (Code can only refer to
    /// those: that is part of being valid.)
    pub(super) fn named_functions(&self) -> &BTreeSet<u32> {
        &self.named_functions
    }

    fn name_functions(&mut self, value: &wasmparser::ConstExpr<'_>) -> Result<(), MeterError> {
        for operator in value.get_operators_reader() {
            if let Operator::RefFunc { function_index } = operator? {
                self.named_functions.insert(function_index);
            }
        }
        Ok(())
    }

    /// Where the additions lie; known once the sections before the code are.
    pub(super) fn layout(&self) -> Layout {
        let fuel_global = self.imported_globals + self.globals;
        Layout {
            imported_functions: self.imported_functions,
            first_added_type: self.types,
            fuel_global,
            stack_global: fuel_global + 1,
        }
    }

    /// Writes the new module.
    pub(super) fn finish(
        self,
        wasm: &[u8],
        mut bodies: Vec<Body>,
        added: &AddedTypes,
        config: &MeterConfig,
    ) -> Result<Metered, MeterError> {
        let metered_functions = self.functions;
        let Layout { fuel_global: fuel, stack_global: stack, .. } = self.layout();
        let accessor_type = self.types + added.entries.len() as u32;
        let accessor = self.imported_functions + self.functions;

        let mut types = added.entries.clone();
        types.push(function_type(&[], &[ValType::I64])?);
        types.push(function_type(&[ValType::I64], &[])?);
        let functions = [encoded(accessor_type), encoded(accessor_type + 1)];
        let globals = [
            global(wasm_encoder::ValType::I64, &ConstExpr::i64_const(config.instantiation_fuel as i64)),
            global(wasm_encoder::ValType::I32, &ConstExpr::i32_const(config.stack as i32)),
        ];
        let exports = [export(FUEL_GET, accessor), export(FUEL_SET, accessor + 1)];
        bodies.push(Body::bare(&[Instruction::GlobalGet(fuel), Instruction::End]));
        bodies.push(Body::bare(&[
            Instruction::LocalGet(0),
            Instruction::I64Const(0),
            Instruction::LocalGet(0),
            Instruction::I64Const(0),
            Instruction::I64GtS,
            Instruction::Select,
            Instruction::GlobalSet(fuel),
            Instruction::I32Const(config.stack as i32),
            Instruction::GlobalSet(stack),
            Instruction::End,
        ]));

        let mut module = Module::new();
        for id in ORDER {
            let original = self.contents[usize::from(id)].clone().map(|range| &wasm[range]);
            let data = match id {
                TYPE => Some(append(original, &types)?),
                FUNCTION => Some(append(original, &functions)?),
                GLOBAL => Some(append(original, &globals)?),
                EXPORT => Some(append(original, &exports)?),
                CODE => {
                    let mut code = Vec::new();
                    (bodies.len() as u32).encode(&mut code);
                    for body in &bodies {
                        body.bytes.as_slice().encode(&mut code);
                    }
                    Some(code)
                }
                _ => original.map(<[u8]>::to_vec),
            };
            if let Some(data) = &data {
                module.section(&RawSection { id, data });
            }
        }
        let module = module.finish();
        if u32::try_from(module.len()).is_err() {
            return Err(MeterError::TooLarge { bytes: module.len() });
        }

        // The offsets are read off the finished module, so that they cannot
        // disagree with what the engine sees.
        let mut out_of_fuel_offsets = Vec::new();
        let mut stack_depth_offsets = Vec::new();
        let mut bodies = bodies.iter();
        for payload in Parser::new(0).parse_all(&module) {
            if let Payload::CodeSectionEntry(code) = payload?
                && let Some(body) = bodies.next()
            {
                let start = code.range().start as u32;
                out_of_fuel_offsets.extend(body.fuel_traps.iter().map(|offset| start + offset));
                stack_depth_offsets.extend(body.stack_traps.iter().map(|offset| start + offset));
            }
        }
        Ok(Metered {
            module,
            out_of_fuel_offsets,
            stack_depth_offsets,
            functions: metered_functions,
            leaves: 0,
            starts: self.contents[usize::from(START)].is_some(),
        })
    }
}

/// The section with entries added at its end; a section is a count and that
/// many entries.
fn append(original: Option<&[u8]>, added: &[Vec<u8>]) -> Result<Vec<u8>, BinaryReaderError> {
    let (count, entries) = match original {
        None => (0, &[][..]),
        Some(bytes) => {
            let mut reader = BinaryReader::new(bytes, 0);
            let count = reader.read_var_u32()?;
            (count, &bytes[reader.current_position()..])
        }
    };
    let mut section = Vec::with_capacity(entries.len() + 64);
    (count + added.len() as u32).encode(&mut section);
    section.extend_from_slice(entries);
    for entry in added {
        section.extend_from_slice(entry);
    }
    Ok(section)
}

fn encoded(value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.encode(&mut bytes);
    bytes
}

fn global(ty: wasm_encoder::ValType, init: &ConstExpr) -> Vec<u8> {
    let mut bytes = Vec::new();
    ty.encode(&mut bytes);
    bytes.push(1); // mutable
    init.encode(&mut bytes);
    bytes
}

fn export(name: &str, function: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    name.encode(&mut bytes);
    ExportKind::Func.encode(&mut bytes);
    function.encode(&mut bytes);
    bytes
}
