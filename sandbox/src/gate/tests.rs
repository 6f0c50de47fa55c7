//! The gate against bombs, strangers and noise.

use std::error::Error;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{CoreType, ImportAllowList, Limit, ModuleLimits, Rejection, Signature, check};

type Outcome = Result<(), Box<dyn Error>>;

fn gate(text: &str) -> Result<Result<super::GateReport, Rejection>, Box<dyn Error>> {
    Ok(check(&wat::parse_str(text)?, &ModuleLimits::default(), &ImportAllowList::new()))
}

/// Refused for this limit, quickly.
fn refused(wasm: &[u8], limit: Limit) {
    let start = Instant::now();
    let result = check(wasm, &ModuleLimits::default(), &ImportAllowList::new());
    let took = start.elapsed();
    match result {
        Err(Rejection::TooMuch { limit: found, .. }) => assert_eq!(found, limit),
        other => panic!("expected {limit}, got {other:?}"),
    }
    assert!(took < Duration::from_millis(500), "{limit} took {took:?}");
}

#[test]
fn an_ordinary_module_passes_and_is_counted() -> Outcome {
    let report = gate(
        r#"(module (memory (export "memory") 17) (global (mut i32) (i32.const 0))
            (table 2 funcref) (elem (i32.const 0) $f) (data (i32.const 0) "hello")
            (func $f (export "f") (param i32 i32) (result i32) (local i64)
              (block (loop (br_table 0 1 (local.get 0))))
              (i32.add (local.get 0) (local.get 1))))"#,
    )??;
    assert_eq!(report.functions, 1);
    assert_eq!(report.locals_per_function, 3);
    assert_eq!(report.br_table_targets, 2);
    assert_eq!(report.memory_pages, 17);
    assert_eq!(report.data_bytes, 5);
    assert_eq!(report.segment_elements, 1);
    assert_eq!(report.nesting, 2);
    assert_eq!((report.params, report.results), (2, 1));
    Ok(())
}

#[test]
fn nets_of_br_table_are_refused() -> Outcome {
    // 300 nested blocks, and tables that name all of them.
    let mut text = "(module (func (param i32)".to_owned();
    text += &"(block ".repeat(300);
    let targets: String = (0..300).fold(String::new(), |mut all, n| {
        let _ = write!(all, "{n} ");
        all
    });
    for _ in 0..100 {
        let _ = write!(text, "(block (br_table 0 {targets} (local.get 0)))");
    }
    text += &")".repeat(300);
    text += "))";
    refused(&wat::parse_str(&text)?, Limit::BrTableTargetsPerFunction);
    Ok(())
}

#[test]
fn thousands_of_locals_are_refused() -> Outcome {
    let text = format!("(module (func (local {})))", "i32 ".repeat(49_000));
    refused(&wat::parse_str(&text)?, Limit::LocalsPerFunction);
    // In few bytes, and more than any engine takes.
    let mut body = vec![2, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x7f, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x7e, 0x0b];
    let mut wasm = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x0a".to_vec();
    wasm.push(body.len() as u8 + 2);
    wasm.extend([1, body.len() as u8]);
    wasm.append(&mut body);
    refused(&wasm, Limit::LocalsPerFunction);
    // A little each, in many functions.
    let function = format!("(func (local {}))", "f64 ".repeat(900));
    let text = format!("(module {})", function.repeat(500));
    refused(&wat::parse_str(&text)?, Limit::Locals);
    Ok(())
}

#[test]
fn wide_types_are_refused() -> Outcome {
    let wide = format!("(type (func (param {})))", "i64 ".repeat(990));
    let text = format!("(module {})", wide.repeat(1000));
    refused(&wat::parse_str(&text)?, Limit::Params);
    let text = format!("(module {})", "(type (func))".repeat(100_000));
    refused(&wat::parse_str(&text)?, Limit::Types);
    let many = format!("(module (type (func (result {}))))", "i64 ".repeat(100));
    refused(&wat::parse_str(&many)?, Limit::Results);
    Ok(())
}

#[test]
fn hosts_of_empty_functions_are_refused() -> Outcome {
    let text = format!("(module {})", "(func)".repeat(100_000));
    refused(&wat::parse_str(&text)?, Limit::Functions);
    Ok(())
}

#[test]
fn other_bounds_hold() -> Outcome {
    let blocks = "(block (result i32 i32 i32 i32) unreachable) drop drop drop drop ".repeat(2500);
    for (text, limit) in [
        (format!("(module (func {}))", "nop ".repeat(200_000)), Limit::FunctionBodyBytes),
        (format!("(module (func {} {}))", "(block ".repeat(3000), ")".repeat(3000)), Limit::Nesting),
        (format!("(module (func {blocks}))"), Limit::BlockValuesPerFunction),
        ("(module (memory 60000))".to_owned(), Limit::MemoryPages),
        ("(module (table 5000000 funcref))".to_owned(), Limit::TableElements),
        ("(module (table 1 funcref) (table 1 funcref))".to_owned(), Limit::Tables),
        ("(module (memory 1) (memory 1))".to_owned(), Limit::Memories),
        (format!("(module (func (export {:?})))", "x".repeat(1000)), Limit::NameBytes),
        (format!("(module {})", "(global i32 (i32.const 0))".repeat(1000)), Limit::Globals),
        (format!("(module (func $f) (elem func {}))", "$f ".repeat(30_000)), Limit::SegmentElements),
        (format!("(module (memory 1) {})", "(data \"\")".repeat(2000)), Limit::DataSegments),
        (format!("(module {})", "(@custom \"a\" \"\")".repeat(100)), Limit::CustomSections),
    ] {
        refused(&wat::parse_str(&text)?, limit);
    }
    refused(&vec![0; 3 << 20], Limit::Bytes);
    Ok(())
}

#[test]
fn other_proposals_are_refused() -> Outcome {
    for (what, text) in [
        ("memory64", "(module (memory i64 1))"),
        ("threads", "(module (memory 1 1 shared))"),
        ("atomics", "(module (memory 1) (func (drop (i32.atomic.load (i32.const 0)))))"),
        ("tail calls", "(module (func $f (return_call $f)))"),
        ("exceptions", "(module (tag $t) (func (throw $t)))"),
        ("garbage collection", "(module (type (struct)))"),
        ("typed function references", "(module (type $t (func)) (func (param (ref $t))))"),
        ("external references", "(module (func (param externref)))"),
        (
            "relaxed SIMD",
            "(module (func (param v128) (result v128) (i8x16.relaxed_swizzle (local.get 0) (local.get 0))))",
        ),
        ("extended constants", "(module (global i32 (i32.add (i32.const 1) (i32.const 2))))"),
        ("custom page sizes", "(module (memory 1 (pagesize 1)))"),
        (
            "wide arithmetic",
            "(module (func (param i64) (result i64 i64) (i64.mul_wide_s (local.get 0) (local.get 0))))",
        ),
        ("a component", "(component)"),
    ] {
        let result = gate(text)?;
        let refused = matches!(result, Err(Rejection::Feature { .. } | Rejection::Malformed { .. }));
        assert!(refused, "{what}: {result:?}");
    }
    match gate("(module (memory i64 1))")? {
        Err(Rejection::Feature { feature, .. }) => assert_eq!(feature, "memory64"),
        other => panic!("{other:?}"),
    }
    Ok(())
}

#[test]
fn accepted_proposals_pass() -> Outcome {
    for text in [
        "(module (memory 1) (func (memory.fill (i32.const 0) (i32.const 0) (i32.const 1))))",
        "(module (func (param i32) (result i32) (i32.extend8_s (local.get 0))))",
        "(module (func (param f32) (result i32) (i32.trunc_sat_f32_s (local.get 0))))",
        "(module (func (result i32 i64) (i32.const 0) (i64.const 0)))",
        "(module (table 1 funcref) (func (drop (ref.is_null (table.get 0 (i32.const 0))))))",
        "(module (func (param v128) (result v128) (f32x4.mul (local.get 0) (local.get 0))))",
        "(module (global (export \"g\") (mut i32) (i32.const 0)))",
    ] {
        gate(text)??;
    }
    Ok(())
}

#[test]
fn imports_come_from_the_list() -> Outcome {
    let signature = Signature { params: vec![CoreType::I32, CoreType::F64], results: vec![CoreType::I64] };
    let mut list = ImportAllowList::new();
    list.allow("host", "known", Some(signature)).allow("host", "any", None);
    let gate = |text: &str| -> Result<_, Box<dyn Error>> {
        Ok(check(&wat::parse_str(text)?, &ModuleLimits::default(), &list))
    };
    gate(
        "(module (import \"host\" \"known\" (func (param i32 f64) (result i64))) (import \"host\" \"any\" (func)))",
    )??;
    let unknown = gate("(module (import \"wasi_snapshot_preview1\" \"fd_write\" (func)))")?;
    assert_eq!(
        unknown,
        Err(Rejection::UnknownImport {
            module: "wasi_snapshot_preview1".to_owned(),
            name: "fd_write".to_owned()
        })
    );
    for text in [
        "(module (import \"host\" \"known\" (func (param i32) (result i64))))",
        "(module (import \"host\" \"known\" (func (param i32 f32) (result i64))))",
        "(module (import \"host\" \"known\" (func (param i32 f64))))",
    ] {
        assert!(matches!(gate(text)?, Err(Rejection::ImportType { .. })), "{text}");
    }
    for text in [
        "(module (import \"host\" \"any\" (memory 1)))",
        "(module (import \"host\" \"any\" (global (mut i32))))",
        "(module (import \"host\" \"any\" (table 1 funcref)))",
    ] {
        assert!(matches!(gate(text)?, Err(Rejection::ImportKind { .. })), "{text}");
    }
    Ok(())
}

#[test]
fn reserved_exports_are_refused() -> Outcome {
    for name in ["terrarium-fuel-get", "terrarium-fuel-set", "cabi_post_terrarium-fuel-get"] {
        let result = gate(&format!("(module (func (export {name:?})))"))?;
        assert_eq!(result, Err(Rejection::ReservedExport { name: name.to_owned() }));
    }
    Ok(())
}

#[test]
fn a_rejection_says_what_and_where_and_survives_json() -> Outcome {
    let text = format!("(module (func) (func (local {})))", "i32 ".repeat(2000));
    let Err(rejection) = gate(&text)? else {
        return Err("let through".into());
    };
    let shown = rejection.to_string();
    assert!(shown.contains("locals_per_function is 2000") && shown.contains("at most 1000"), "{shown}");
    assert!(shown.contains("function 1"), "{shown}");
    let json = serde_json::to_string(&rejection)?;
    assert_eq!(serde_json::from_str::<Rejection>(&json)?, rejection);
    Ok(())
}

fn seed_module() -> Vec<u8> {
    wat::parse_str(
        r#"(module (memory (export "memory") 1) (table 2 funcref) (elem (i32.const 0) $f)
            (global (mut i64) (i64.const 5)) (data (i32.const 0) "hello")
            (func $f (export "f") (param i32) (result i32) (local v128 f32)
              (block (loop (br_table 0 1 (local.get 0))))
              (if (result i32) (local.get 0) (then (i32.const 1)) (else (call $f (i32.const 0))))))"#,
    )
    .unwrap_or_default()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes get an answer.
    #[test]
    fn noise_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut wasm = b"\0asm\x01\0\0\0".to_vec();
        wasm.extend(&bytes);
        for wasm in [&bytes, &wasm] {
            let gated = check(wasm, &ModuleLimits::default(), &ImportAllowList::new());
            let metered = crate::meter::instrument(wasm, &crate::meter::MeterConfig::default());
            prop_assert!(gated.is_err() || metered.is_ok());
        }
    }

    /// A valid module with a few bytes changed, or cut short, gets an answer;
    /// what passes the gate can be metered, and stays valid.
    #[test]
    fn damaged_modules_are_answered(
        cut in 0usize..400,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut wasm = seed_module();
        prop_assert!(check(&wasm, &ModuleLimits::default(), &ImportAllowList::new()).is_ok());
        for (index, byte) in changes {
            let at = index.index(wasm.len());
            wasm[at] = byte;
        }
        wasm.truncate(cut.max(1));
        if check(&wasm, &ModuleLimits::default(), &ImportAllowList::new()).is_ok() {
            let metered = crate::meter::instrument(&wasm, &crate::meter::MeterConfig::default());
            let metered = metered.map_err(|error| TestCaseError::fail(error.to_string()))?;
            let valid = wasmparser::Validator::new_with_features(super::accepted_features())
                .validate_all(&metered.module);
            prop_assert!(valid.is_ok(), "{:?}", valid.err());
        }
    }
}
