//! Recursion of functions whose native frames are as large as can be made:
//! the depth meter must trip before the native stack does, at every setting
//! of the compiler, and at the same call.

use std::fmt::Write;

use super::*;
use crate::machine::WASM_STACK_BYTES;

/// How deep a recursion went, and how it ended.
fn depth(wasm: &[u8], level: OptLevel, stack: u32) -> Outcome<(i32, End)> {
    let mut config = Config::new();
    config.cranelift_opt_level(level).max_wasm_stack(WASM_STACK_BYTES);
    let engine = Engine::new(&config)?;
    let mut guest = Guest::new(&engine, wasm, &MeterConfig { stack, ..MeterConfig::default() })?;
    let (end, _) = guest.call("f", &[], 1 << 50)?;
    let counter = guest.instance.get_global(&mut guest.store, "depth").ok_or("no counter")?;
    Ok((counter.get(&mut guest.store).i32().ok_or("not an i32")?, end))
}

/// Ends the declarations of locals in a body.
const LOCALS: &str = ";; code\n";

/// A module in which `$r` calls itself for ever; `body` must do so.
fn recursion(params: &str, results: &str, arguments: &str, body: &str) -> String {
    let (locals, body) = body.split_once(LOCALS).unwrap_or(("", body));
    let drops = "drop ".repeat(results.split_whitespace().count());
    format!(
        r#"(module (memory 1) (global $d (export "depth") (mut i32) (i32.const 0))
             (func (export "f") {arguments} (call $r) {drops})
             (func $r (param {params}) (result {results}) {locals}
               (global.set $d (i32.add (global.get $d) (i32.const 1))) {body}))"#
    )
}

/// `n` copies of a text, with `#` replaced by the number.
fn many(n: usize, text: &str) -> String {
    (0..n).fold(String::new(), |mut all, i| {
        let _ = write!(all, "{} ", text.replace('#', &i.to_string()));
        all
    })
}

fn cases() -> Vec<(&'static str, String)> {
    let locals = |n: usize, ty: &str, load: &str, drop: &str| {
        let set = many(n, &format!("(local.set # ({load} offset=# (i32.const 0)))"));
        let read = many(n, &format!("({drop} offset=# (i32.const 900) (local.get #))"));
        recursion("", "", "", &format!("(local {}){LOCALS}{set} (call $r) {read}", many(n, ty)))
    };
    let operands = |n: usize, load: &str, store: &str| {
        // Addresses below the values, so that they can be stored afterwards.
        let push = many(n, &format!("(i32.const 0) ({load} offset=# (i32.const 0))"));
        recursion("", "", "", &format!("{push} (call $r) {}", many(n, &format!("{store} offset=#"))))
    };
    let reused = |n: usize, expression: &str, store: &str, types: &str, first: &str| {
        // Each expression is needed before and after the call: a compiler
        // that computes it once keeps it across.
        let all = many(n, &format!("({store} offset=# (i32.const 0) {expression})"));
        recursion(types, "", first, &format!("{all} (call $r (local.get 0)) {all}"))
    };
    let constants = |n: usize, constant: &str, add: &str, store: &str| {
        let sum = many(n, &format!("({constant}) {add}"));
        let body = format!(
            "(loop (i32.const 0) ({constant}) {sum} {store} (call $r) (br_if 0 (i32.load (i32.const 8))))"
        );
        recursion("", "", "", &body.replace('#', "7"))
    };
    // Computed once, in front of the loop, and kept through all of its calls:
    // but for the load, nothing changes from turn to turn.
    let hoisted = |n: usize, value: &str, join: &str, store: &str, types: &str, first: &str| {
        let all = many(n, &format!("({value}) {join}"));
        let load = store.replace("store", "load");
        let body = format!(
            "(loop (i32.const 0) ({load} (i32.const 0)) {all} {store} (call $r (local.get 0)) (br_if 0 (i32.load (i32.const 8))))"
        );
        recursion(types, "", first, &body)
    };
    let vector = "v128.const f64x2 #.5 #.25";
    let pass = many(32, "(local.get #)");
    vec![
        ("no frame", recursion("", "", "", "(call $r)")),
        ("300 i64 locals", locals(300, "i64", "i64.load", "i64.store")),
        ("300 f32 locals", locals(300, "f32", "f32.load", "f32.store")),
        ("300 v128 locals", locals(300, "v128", "v128.load", "v128.store")),
        ("1500 i64 operands", operands(1500, "i64.load", "i64.store")),
        ("900 v128 operands", operands(900, "v128.load", "v128.store")),
        ("600 constants in a loop", constants(600, "f64.const #.5", "f64.add", "f64.store")),
        ("500 vector constants in a loop", constants(500, vector, "f64x2.add", "v128.store")),
        (
            "600 values used again",
            reused(600, "(i64.mul (local.get 0) (i64.const 3#1))", "i64.store", "i64", "(i64.const 5)"),
        ),
        (
            "600 vectors used again",
            reused(
                600,
                "(i32x4.shl (local.get 0) (i32.const #))",
                "v128.store",
                "v128",
                "(v128.const i64x2 1 2)",
            ),
        ),
        (
            "500 splats used again",
            reused(
                500,
                "(i64x2.splat (i64.add (local.get 0) (i64.const #)))",
                "v128.store",
                "i64",
                "(i64.const 5)",
            ),
        ),
        (
            "600 values in front of a loop",
            hoisted(
                600,
                "i64.mul (local.get 0) (i64.const 3#1)",
                "i64.xor",
                "i64.store",
                "i64",
                "(i64.const 5)",
            ),
        ),
        (
            "600 vectors in front of a loop",
            hoisted(
                600,
                "i32x4.shl (local.get 0) (i32.const #)",
                "v128.xor",
                "v128.store",
                "v128",
                "(v128.const i64x2 1 2)",
            ),
        ),
        (
            "600 products in front of a loop",
            hoisted(
                600,
                "i32x4.mul (local.get 0) (v128.const i32x4 # 3 5 7)",
                "v128.xor",
                "v128.store",
                "v128",
                "(v128.const i64x2 1 2)",
            ),
        ),
        (
            "32 i64 parameters",
            recursion(&"i64 ".repeat(32), "", &"(i64.const 1)".repeat(32), &format!("(call $r {pass})")),
        ),
        (
            "32 v128 parameters",
            recursion(
                &"v128 ".repeat(32),
                "",
                &"(v128.const i64x2 1 2)".repeat(32),
                &format!("(call $r {pass})"),
            ),
        ),
        ("32 v128 results", recursion("", &"v128 ".repeat(32), "", "(call $r)")),
    ]
}

#[test]
fn the_meter_trips_before_the_native_stack() -> Outcome<()> {
    // A thread whose stack holds what wasmtime may use.
    let test = || -> Result<(), String> {
        let text = |e: Box<dyn Error>| e.to_string();
        for (name, source) in cases() {
            let wasm = wat::parse_str(&source).map_err(|e| format!("{name}: {:.300}", e.to_string()))?;
            let mut metered = Vec::new();
            for level in [OptLevel::Speed, OptLevel::None] {
                let (calls, end) = depth(&wasm, level, MeterConfig::default().stack).map_err(text)?;
                assert_eq!(end, OUT_OF_STACK, "{name} at {level:?}");
                metered.push(calls);
                let (native, end) = depth(&wasm, level, i32::MAX as u32).map_err(text)?;
                // A frame that a compiler made small: the meter counts to its end.
                let known = [OUT_OF_STACK, End::Trapped(Trap::StackOverflow)];
                assert!(known.contains(&end), "{name} at {level:?}: {end:?}");
                let room = f64::from(native) / f64::from(calls.max(1));
                println!("{name} at {level:?}: meter {calls}, native stack {native} calls: {room:.1}");
                assert!(room >= 1.5, "{name} at {level:?}: too close, {room}");
            }
            assert!(metered.iter().all(|calls| *calls == metered[0]), "{name}: {metered:?}");
        }
        Ok(())
    };
    let thread = std::thread::Builder::new().stack_size(8 * WASM_STACK_BYTES).spawn(test)?;
    Ok(thread.join().map_err(|_| "the test thread panicked")??)
}
