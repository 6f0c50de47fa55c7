//! What a guest module may contain, and what one did contain.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Declares the limits once: the struct, its defaults, the report of what was
/// counted, and the names of the limits in errors.
macro_rules! module_limits {
    ($($(#[doc = $doc:literal])+ $field:ident / $limit:ident = $default:expr;)+) => {
        /// The largest module that is let through to the compiler.
        ///
        /// The defaults admit an optimised Rust guest several times over
        /// (400 KB: about 1,500 functions) and keep the worst module that
        /// passes cheap to compile.
        #[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct ModuleLimits {
            $($(#[doc = $doc])+ pub $field: u64,)+
        }

        impl Default for ModuleLimits {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        /// What was counted in a module that passed: the largest value seen
        /// for limits "per function" and the like, the total for the others.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct GateReport {
            $($(#[doc = $doc])+ pub $field: u64,)+
        }

        /// One of the limits of [`ModuleLimits`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Limit {
            $($(#[doc = $doc])+ $limit,)+
        }

        impl Limit {
            /// The name of the field of [`ModuleLimits`].
            pub fn name(self) -> &'static str {
                match self { $(Limit::$limit => stringify!($field),)+ }
            }

            pub(super) fn allowed(self, limits: &ModuleLimits) -> u64 {
                match self { $(Limit::$limit => limits.$field,)+ }
            }

            pub(super) fn counted(self, report: &mut GateReport) -> &mut u64 {
                match self { $(Limit::$limit => &mut report.$field,)+ }
            }
        }
    };
}

module_limits! {
    /// Size of the module in bytes.
    bytes / Bytes = 2 << 20;
    /// Function types.
    types / Types = 1_000;
    /// Parameters of one function type.
    params / Params = 64;
    /// Results of one function type.
    results / Results = 16;
    /// Imports.
    imports / Imports = 256;
    /// Defined functions.
    functions / Functions = 10_000;
    /// Size of one function body in bytes.
    function_body_bytes / FunctionBodyBytes = 128 << 10;
    /// Parameters and locals of one function.
    locals_per_function / LocalsPerFunction = 1_000;
    /// Parameters and locals of all functions together.
    locals / Locals = 200_000;
    /// Blocks open at once in one function.
    nesting / Nesting = 2_000;
    /// Parameters and results of all blocks of one function together.
    block_values_per_function / BlockValuesPerFunction = 8_192;
    /// Targets of all `br_table`s of one function together.
    br_table_targets_per_function / BrTableTargetsPerFunction = 4_096;
    /// Targets of all `br_table`s together.
    br_table_targets / BrTableTargets = 32_768;
    /// Tables.
    tables / Tables = 1;
    /// Elements that tables start with.
    table_elements / TableElements = 20_000;
    /// Memories.
    memories / Memories = 1;
    /// Pages of 64 KiB that the memory starts with.
    memory_pages / MemoryPages = 1_024;
    /// Globals.
    globals / Globals = 256;
    /// Exports.
    exports / Exports = 256;
    /// Length of a name of an import or export in bytes.
    name_bytes / NameBytes = 512;
    /// Element segments.
    element_segments / ElementSegments = 64;
    /// Elements of all element segments together.
    segment_elements / SegmentElements = 20_000;
    /// Data segments.
    data_segments / DataSegments = 1_024;
    /// Bytes of all data segments together.
    data_bytes / DataBytes = 2 << 20;
    /// Custom sections (they are dropped, not read).
    custom_sections / CustomSections = 64;
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A core value type of an import's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CoreType {
    /// 32-bit integer.
    I32,
    /// 64-bit integer.
    I64,
    /// 32-bit float.
    F32,
    /// 64-bit float.
    F64,
}

/// The core signature of an imported function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Signature {
    /// Parameters.
    pub params: Vec<CoreType>,
    /// Results.
    pub results: Vec<CoreType>,
}

/// The functions that a module may import, by module and field name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportAllowList {
    functions: BTreeMap<String, BTreeMap<String, Option<Signature>>>,
}

impl ImportAllowList {
    /// An empty list: a module that imports anything is refused.
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows a function. Without a signature, whoever links the module has
    /// to check it.
    pub fn allow(
        &mut self,
        module: impl Into<String>,
        name: impl Into<String>,
        signature: Option<Signature>,
    ) -> &mut Self {
        self.functions.entry(module.into()).or_default().insert(name.into(), signature);
        self
    }

    /// What is known of a function: `None` if it is not allowed, else its
    /// signature if the list has it.
    pub fn get(&self, module: &str, name: &str) -> Option<Option<&Signature>> {
        Some(self.functions.get(module)?.get(name)?.as_ref())
    }
}
