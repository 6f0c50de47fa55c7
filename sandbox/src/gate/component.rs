//! The gate for components that somebody else put together.
//!
//! Each core module in it passes the same limits on its shape as a guest's
//! own module; what the modules import of one another is the component's
//! business, and validated with it. What the component imports of the host
//! must be on a list.

use serde::{Deserialize, Serialize};
use wasmparser::{Encoding, Parser, Payload, Validator, WasmFeatures};

use super::{Gate, GateReport, ImportAllowList, ModuleLimits, Rejection, accepted_features, shown};
use crate::machine;

macro_rules! component_limits {
    ($($(#[doc = $doc:literal])+ $field:ident = $default:expr;)+) => {
        /// The largest component that is let through to the compiler. Limits
        /// of one core module are [`ModuleLimits`]; its size is only bounded
        /// by the component's.
        #[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct ComponentLimits {
            $($(#[doc = $doc])+ pub $field: u64,)+
        }

        impl Default for ComponentLimits {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        /// What was counted in a component that passed.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct ComponentReport {
            $($(#[doc = $doc])+ pub $field: u64,)+
            /// Interfaces that it imports (a stranger's text, checked against
            /// the list).
            pub interfaces: Vec<String>,
        }

        impl ComponentReport {
            fn exceeded(&self, limits: &ComponentLimits) -> Option<(&'static str, u64, u64)> {
                [$((stringify!($field), self.$field, limits.$field),)+]
                    .into_iter()
                    .find(|(_, found, allowed)| found > allowed)
            }
        }
    };
}

component_limits! {
    /// Size in bytes.
    bytes = 8 << 20;
    /// Core modules.
    modules = 24;
    /// Components inside of it.
    components = 8;
    /// Instances of core modules.
    core_instances = machine::CORE_INSTANCES as u64;
    /// Instances of components.
    instances = 64;
    /// Types, of components and of core modules.
    types = 2_000;
    /// Aliases.
    aliases = 4_000;
    /// Functions that are lifted, lowered or made for resources.
    canonical_functions = 2_000;
    /// Imports.
    imports = 64;
    /// Exports.
    exports = 64;
    /// Functions of all core modules together.
    functions = 20_000;
    /// Memories of all core modules together.
    memories = machine::MEMORIES as u64;
    /// Tables of all core modules together.
    tables = machine::TABLES as u64;
    /// Depth of components inside of components.
    nesting = 4;
}

/// The interfaces that a component may import.
const OURS: [&str; 3] =
    ["terrarium:guest/knobs@0.1.0", "terrarium:guest/report@0.1.0", "terrarium:guest/host@0.1.0"];
const WASI: [&str; 6] =
    ["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/"];

/// What the parts of a component may use. Libraries that are linked when they
/// are loaded compute their addresses in constant expressions.
pub(super) fn features() -> WasmFeatures {
    accepted_features() | WasmFeatures::COMPONENT_MODEL | WasmFeatures::EXTENDED_CONST
}

/// Checks a component, and says what was counted in it.
///
/// # Errors
///
/// The first [`Rejection`] that applies, for any bytes.
pub fn check_component(
    bytes: &[u8],
    limits: &ComponentLimits,
    module: &ModuleLimits,
    wasi: bool,
) -> Result<ComponentReport, Rejection> {
    let mut report = ComponentReport { bytes: bytes.len() as u64, ..ComponentReport::default() };
    bound(&report, limits)?;
    let mut parser = Parser::new(0);
    parser.set_features(features());
    let mut open: Vec<Encoding> = Vec::new();
    for payload in parser.parse_all(bytes) {
        let payload = payload?;
        match &payload {
            Payload::Version { encoding, .. } => {
                if open.is_empty() && *encoding == Encoding::Module {
                    let message = "this is a core module; a component is expected".to_owned();
                    return Err(Rejection::Malformed { offset: 0, message });
                }
                open.push(*encoding);
                let depth = open.iter().filter(|kind| **kind == Encoding::Component).count() as u64;
                report.nesting = report.nesting.max(depth.saturating_sub(1));
            }
            Payload::End(_) => {
                open.pop();
            }
            // What is inside of a module was checked when its section began.
            _ if open.last() != Some(&Encoding::Component) => {}
            Payload::ModuleSection { unchecked_range, .. } => {
                report.modules += 1;
                bound(&report, limits)?;
                let inner = bytes.get(unchecked_range.clone()).ok_or_else(|| cut(unchecked_range.start))?;
                let found = check_inner(inner, module)?;
                report.functions += found.functions;
                report.memories += found.memories;
                report.tables += found.tables;
            }
            Payload::ComponentSection { .. } => report.components += 1,
            Payload::InstanceSection(section) => report.core_instances += u64::from(section.count()),
            Payload::ComponentInstanceSection(section) => report.instances += u64::from(section.count()),
            Payload::CoreTypeSection(section) => report.types += u64::from(section.count()),
            Payload::ComponentTypeSection(section) => report.types += u64::from(section.count()),
            Payload::ComponentAliasSection(section) => report.aliases += u64::from(section.count()),
            Payload::ComponentCanonicalSection(section) => {
                report.canonical_functions += u64::from(section.count());
            }
            Payload::ComponentExportSection(section) => report.exports += u64::from(section.count()),
            Payload::ComponentImportSection(section) => {
                report.imports += u64::from(section.count());
                bound(&report, limits)?;
                if open.len() == 1 {
                    for import in section.clone() {
                        let name = import?.name.name;
                        allowed(name, wasi)?;
                        report.interfaces.push(shown(name));
                    }
                }
            }
            _ => {}
        }
        bound(&report, limits)?;
    }
    Validator::new_with_features(features()).validate_all(bytes)?;
    Ok(report)
}

fn bound(report: &ComponentReport, limits: &ComponentLimits) -> Result<(), Rejection> {
    match report.exceeded(limits) {
        Some((limit, found, allowed)) => {
            Err(Rejection::ComponentTooMuch { limit: limit.to_owned(), found, allowed })
        }
        None => Ok(()),
    }
}

fn cut(offset: usize) -> Rejection {
    Rejection::Malformed { offset, message: "a core module is cut off".to_owned() }
}

fn allowed(name: &str, wasi: bool) -> Result<(), Rejection> {
    if OURS.contains(&name) {
        return Ok(());
    }
    let interface = shown(name);
    if !WASI.iter().any(|prefix| name.starts_with(prefix)) {
        return Err(Rejection::UnknownInterface { interface });
    }
    if wasi { Ok(()) } else { Err(Rejection::WasiIsOff { interface }) }
}

/// A module inside of a component: its shape, not its imports.
fn check_inner(wasm: &[u8], limits: &ModuleLimits) -> Result<GateReport, Rejection> {
    let nothing = ImportAllowList::new();
    let limits = ModuleLimits { bytes: u64::MAX, ..limits.clone() };
    Gate { limits: &limits, imports: &nothing, inner: true, report: GateReport::default() }.module(wasm)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, wasi: bool) -> Result<ComponentReport, Rejection> {
        let bytes = wat::parse_str(text).expect("the text is a component");
        check_component(&bytes, &ComponentLimits::default(), &ModuleLimits::default(), wasi)
    }

    fn reason(text: &str, wasi: bool) -> String {
        check(text, wasi).expect_err("must be refused").to_string()
    }

    #[test]
    fn wasi_is_named_where_it_is_off_and_only_known_interfaces_come_in() {
        let random = "(component (import \"wasi:random/random@0.2.3\" (instance (export \"get-random-u64\" (func (result u64))))))";
        assert!(reason(random, false).contains("wasi:random/random@0.2.3"));
        assert_eq!(check(random, true).expect("allowed").interfaces, ["wasi:random/random@0.2.3"]);
        for name in ["wasi:http/outgoing-handler@0.2.3", "terrarium:guest/compute@0.1.0", "evil:x/y@1.0.0"] {
            let text = format!("(component (import \"{name}\" (instance)))");
            assert!(reason(&text, true).contains(name), "{name}");
        }
        assert!(reason("(component (import \"f\" (func)))", true).contains("\"f\""));
    }

    #[test]
    fn every_count_is_bounded() {
        let many = |count: usize, item: &str| format!("(component {})", item.repeat(count));
        for (limit, text) in [
            ("modules", many(25, "(core module)")),
            ("components", many(9, "(component)")),
            (
                "core_instances",
                format!("(component (core module $m) {})", "(core instance (instantiate $m))".repeat(65)),
            ),
            ("instances", format!("(component (component $c) {})", "(instance (instantiate $c))".repeat(65))),
            ("types", many(2_001, "(type (func))")),
            ("memories", many(5, "(core module (memory 1))")),
            ("nesting", format!("{}{}", "(component ".repeat(6), ")".repeat(6))),
        ] {
            let said = reason(&text, true);
            assert!(said.starts_with(&format!("{limit} ")), "{limit}: {said}");
        }
    }

    #[test]
    fn a_module_inside_is_held_to_the_limits_of_modules() {
        let locals = format!("(component (core module (func (local {}))))", "i32 ".repeat(1_001));
        assert!(reason(&locals, true).contains("locals_per_function"));
        let extended = "(component (core module (global i32 (i32.add (i32.const 1) (i32.const 2)))))";
        check(extended, true).expect("addresses may be computed");
        let threads = "(component (core module (memory 1 1 shared)))";
        assert!(reason(threads, true).contains("threads"));
        let table =
            "(component (core module (import \"a\" \"t\" (table 1 funcref)) (import \"\" \"0\" (func))))";
        check(table, true).expect("modules may import of one another");
    }

    #[test]
    fn any_bytes_are_answered() {
        let whole =
            wat::parse_str("(component (core module (func (export \"f\"))) (component) (type (func)))")
                .expect("a component");
        let check = |bytes: &[u8]| {
            check_component(bytes, &ComponentLimits::default(), &ModuleLimits::default(), true)
        };
        check(&whole).expect("whole");
        for cut in 0..whole.len() {
            let _ = check(&whole[..cut]);
        }
        assert!(check(b"\0asm\x01\0\0\0").is_err());
        proptest::proptest!(|(at in 0..whole.len(), byte in proptest::num::u8::ANY)| {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            let _ = check(&bytes);
        });
    }
}
