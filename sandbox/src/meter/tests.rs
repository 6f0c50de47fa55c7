//! The metering pass against wasmtime, on small programs.

use std::error::Error;

use wasmtime::{Config, Engine, Instance, Linker, Module, OptLevel, Store, Trap, Val, WasmBacktrace};

use super::{Exhausted, LEAF_FUEL, MeterConfig, MeterError, Metered, UNCHECKED, instrument};

mod frames;
mod random;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Returned(Vec<String>),
    Exhausted(Exhausted),
    Trapped(Trap),
}

fn engine(level: OptLevel, fuel: bool) -> Outcome<Engine> {
    let mut config = Config::new();
    config.cranelift_opt_level(level);
    config.cranelift_nan_canonicalization(true);
    config.consume_fuel(fuel);
    config.max_wasm_stack(1 << 20);
    Ok(Engine::new(&config)?)
}

/// Bits, so that NaN equals itself.
fn bits(value: &Val) -> String {
    match value {
        Val::I32(v) => format!("i32 {v}"),
        Val::I64(v) => format!("i64 {v}"),
        Val::F32(v) => format!("f32 {v:08x}"),
        Val::F64(v) => format!("f64 {v:016x}"),
        Val::V128(v) => format!("v128 {:032x}", v.as_u128()),
        Val::FuncRef(v) => format!("funcref {}", v.is_some()),
        _ => "other".to_owned(),
    }
}

fn ending(metered: Option<&Metered>, result: Result<Vec<Val>, wasmtime::Error>) -> Outcome<End> {
    let error = match result {
        Ok(values) => return Ok(End::Returned(values.iter().map(bits).collect())),
        Err(error) => error,
    };
    let trap = *error.downcast_ref::<Trap>().ok_or_else(|| format!("not a trap: {error:?}"))?;
    if let (Some(metered), Trap::UnreachableCodeReached) = (metered, trap) {
        let offset = error
            .downcast_ref::<WasmBacktrace>()
            .and_then(|trace| trace.frames().first())
            .and_then(|frame| frame.module_offset())
            .ok_or("a trap without an offset")?;
        if let Some(exhausted) = metered.exhausted_at(offset) {
            return Ok(End::Exhausted(exhausted));
        }
    }
    Ok(End::Trapped(trap))
}

/// A metered instance.
struct Guest {
    metered: Metered,
    store: Store<u32>,
    instance: Instance,
}

impl Guest {
    fn new(engine: &Engine, wasm: &[u8], config: &MeterConfig) -> Outcome<Self> {
        let metered = instrument(wasm, config)?;
        Ok(Self::start(&Module::new(engine, &metered.module)?, &metered)?)
    }

    /// A fresh instance of a module that was compiled from `metered`.
    fn start(module: &Module, metered: &Metered) -> wasmtime::Result<Self> {
        let mut store = Store::new(module.engine(), 0);
        let mut linker = Linker::new(module.engine());
        linker.func_wrap("host", "tick", |mut caller: wasmtime::Caller<'_, u32>| {
            *caller.data_mut() += 1;
        })?;
        let instance = linker.instantiate(&mut store, module)?;
        Ok(Self { metered: metered.clone(), store, instance })
    }

    fn wat(text: &str) -> Outcome<Self> {
        Self::new(&engine(OptLevel::Speed, false)?, &wat::parse_str(text)?, &MeterConfig::default())
    }

    fn set_fuel(&mut self, fuel: i64) -> Outcome<()> {
        let set = self.instance.get_typed_func::<i64, ()>(&mut self.store, super::FUEL_SET)?;
        Ok(set.call(&mut self.store, fuel)?)
    }

    fn fuel(&mut self) -> Outcome<i64> {
        let get = self.instance.get_typed_func::<(), i64>(&mut self.store, super::FUEL_GET)?;
        Ok(get.call(&mut self.store, ())?)
    }

    /// Calls with this much fuel; what happened, and what is left.
    fn call(&mut self, name: &str, params: &[Val], fuel: i64) -> Outcome<(End, i64)> {
        self.set_fuel(fuel)?;
        let function = self.instance.get_func(&mut self.store, name).ok_or("no such export")?;
        let mut results = vec![Val::I32(0); function.ty(&self.store).results().len()];
        let result = function.call(&mut self.store, params, &mut results).map(|()| results);
        let end = ending(Some(&self.metered), result)?;
        Ok((end, self.fuel()?))
    }
}

/// Fuel that a call uses, when there is plenty.
fn cost(text: &str, params: &[Val]) -> Outcome<i64> {
    let (end, left) = Guest::wat(text)?.call("f", params, 1 << 40)?;
    match end {
        End::Returned(_) => Ok((1 << 40) - left),
        other => Err(format!("{other:?}").into()),
    }
}

const OUT_OF_FUEL: End = End::Exhausted(Exhausted::Fuel);
const OUT_OF_STACK: End = End::Exhausted(Exhausted::Stack);

#[test]
fn every_instruction_on_the_path_is_charged() -> Outcome<()> {
    // Entry 1; two instructions; the others are free.
    assert_eq!(cost("(module (func (export \"f\") i32.const 1 i32.eqz drop nop))", &[])?, 3);
    // Declared locals cost an eighth.
    assert_eq!(cost("(module (func (export \"f\") (local i32 i32 i32 i32 i32 i32 i32 i32 i32)))", &[])?, 2);
    // Parameters are free.
    assert_eq!(
        cost(
            "(module (func (export \"f\") (param i64 i64 i64 i64 i64 i64 i64 i64 i64)))",
            &[Val::I64(0); 9]
        )?,
        1
    );
    let arms = r#"(module (func (export "f") (param i32)
        (if (local.get 0) (then (drop (i32.const 1))) (else (drop (i64.eqz (i64.const 1))) return))
        (drop (i32.const 5))))"#;
    // 1 entry, local.get, if; then 1 | 2 of the arm; the end of the first.
    assert_eq!(cost(arms, &[Val::I32(1)])?, 3 + 1 + 1);
    assert_eq!(cost(arms, &[Val::I32(0)])?, 3 + 2);
    let early = r#"(module (func (export "f") (param i32) (result i32)
        (block (br_if 0 (local.get 0)) (drop (i32.const 1)) (drop (i32.const 1)))
        (return (i32.const 7)) (drop (i32.const 8))))"#;
    // 1 entry, local.get, br_if; 2 in the block if it is not left; const.
    assert_eq!(cost(early, &[Val::I32(1)])?, 3 + 1);
    assert_eq!(cost(early, &[Val::I32(0)])?, 3 + 2 + 1);
    Ok(())
}

#[test]
fn a_leaf_is_charged_whole_by_its_caller() -> Outcome<()> {
    let module = |leaf: &str, rest: &str| {
        format!(
            "(module (memory 1) (table funcref (elem $h)) (type $t (func (param i32))) {rest}
               (func $h (param i32))
               (func $leaf (param i32) {leaf})
               (func (export \"f\") (param i32) (call $leaf (local.get 0))))"
        )
    };
    let arms = "(if (local.get 0) (then nop) (else (drop (i32.const 1)) (drop (i32.const 1))))";
    // 1 entry, 2 instructions; and of the leaf 1 entry, 2 and both arms.
    for condition in [0, 1] {
        assert_eq!(cost(&module(arms, ""), &[Val::I32(condition)])?, 3 + 1 + 2 + 2);
    }
    // What can be reached otherwise, or is not short, pays for what it does.
    for rest in
        ["(export \"g\" (func $leaf))", "(elem declare func $leaf)", "(global funcref (ref.func $leaf))"]
    {
        assert_eq!(cost(&module(arms, rest), &[Val::I32(1)])?, 3 + 1 + 2, "{rest}");
    }
    let long = "(drop (i32.const 1))".repeat(LEAF_FUEL as usize);
    let arms = format!("(if (local.get 0) (then nop) (else {long}))");
    assert_eq!(cost(&module(&arms, ""), &[Val::I32(1)])?, 3 + 1 + 2);
    for other in [
        "(loop (br_if 0 (i32.const 0)))",
        "(call_indirect (type $t) (local.get 0) (i32.const 0))",
        "(drop (memory.grow (i32.const 0)))",
        "(memory.fill (i32.const 0) (i32.const 0) (i32.const 0))",
    ] {
        let arms = format!("(if (local.get 0) (then nop) (else {other}))");
        assert_eq!(cost(&module(&arms, ""), &[Val::I32(1)])?, 3 + 1 + 2, "{other}");
    }
    Ok(())
}

#[test]
fn leaves_call_leaves_and_recursion_is_none() -> Outcome<()> {
    let chain = r#"(module (func $c nop) (func $b (call $c)) (func $a (call $b) (call $c))
        (func (export "f") (call $a)))"#;
    // Entries of f, a, b, c and c; four calls.
    assert_eq!(cost(chain, &[])?, 5 + 4);
    let mut guest = Guest::wat(
        r#"(module (func $a (param i32) (if (local.get 0) (then (call $b (local.get 0)))))
             (func $b (param i32) (call $a (local.get 0)))
             (func (export "f") (param i32) (call $a (local.get 0))))"#,
    )?;
    assert_eq!(guest.call("f", &[Val::I32(0)], 1 << 30)?, (End::Returned(vec![]), (1 << 30) - 6));
    assert_eq!(guest.call("f", &[Val::I32(1)], 1 << 30)?.0, OUT_OF_STACK);
    assert_eq!(guest.call("f", &[Val::I32(1)], 1000)?.0, OUT_OF_FUEL);
    Ok(())
}

#[test]
fn loops_are_charged_per_turn() -> Outcome<()> {
    let count = r#"(module (func (export "f") (param i32)
        (loop (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br_if 0 (local.get 0)))))"#;
    // 1 entry, 1 to enter the loop; 6 per turn.
    for turns in [1, 2, 1000] {
        assert_eq!(cost(count, &[Val::I32(turns)])?, 2 + 6 * i64::from(turns));
    }
    // Exactly enough fuel is enough, one less is not.
    let mut guest = Guest::wat(count)?;
    assert_eq!(guest.call("f", &[Val::I32(1000)], 6002)?, (End::Returned(vec![]), 0));
    assert_eq!(guest.call("f", &[Val::I32(1000)], 6001)?, (OUT_OF_FUEL, -1));
    // The instance works again after the trap.
    assert_eq!(guest.call("f", &[Val::I32(1)], 8)?, (End::Returned(vec![]), 0));
    Ok(())
}

#[test]
fn nested_loops_and_branches_between_them() -> Outcome<()> {
    let nested = r#"(module (func (export "f") (param i32) (result i32) (local i32 i32)
        (local.set 1 (local.get 0))
        (loop $outer
          (local.set 2 (local.get 0))
          (loop $inner
            (local.set 2 (i32.sub (local.get 2) (i32.const 1)))
            (br_if $inner (local.get 2)))
          (local.set 1 (i32.sub (local.get 1) (i32.const 1)))
          (br_if $outer (local.get 1)))
        (local.get 2)))"#;
    for n in [1i64, 5, 40] {
        let cost = cost(nested, &[Val::I32(n as i32)])?;
        assert_eq!(cost, 1 + 2 + 1 + n * (3 + 6 * n + 6) + 1);
    }
    Ok(())
}

#[test]
fn what_runs_for_ever_stops() -> Outcome<()> {
    for (what, text) in [
        ("empty loop", "(module (func (export \"f\") (loop (br 0))))"),
        ("loop without a branch in it, inside one", "(module (func (export \"f\") (loop (loop) (br 0))))"),
        (
            "br_table",
            "(module (func (export \"f\") (loop (block (block (br_table 0 1 2 (i32.const 9)))) (br 0))))",
        ),
        ("tail of a block", "(module (func (export \"f\") (block (loop (br_if 1 (i32.const 0)) (br 0)))))"),
        (
            "loop with results",
            "(module (func (export \"f\") (result i32 i64) (loop (result i32 i64) (br 0))))",
        ),
        ("loop with parameters", "(module (func (export \"f\") (i32.const 1) (loop (param i32) (br 0))))"),
        ("calls in a loop", "(module (func $g) (func (export \"f\") (loop (call $g) (br 0))))"),
        (
            "start of a fill",
            "(module (memory 1) (func (export \"f\") (loop (memory.fill (i32.const 0) (i32.const 0) (i32.const 60000)) (br 0))))",
        ),
        (
            "memory.grow by nothing",
            "(module (memory 1) (func (export \"f\") (loop (drop (memory.grow (i32.const 0))) (br 0))))",
        ),
    ] {
        let (end, left) = Guest::wat(text)?.call("f", &[], 1_000_000)?;
        assert_eq!(end, OUT_OF_FUEL, "{what}");
        assert!((-70_000..0).contains(&left), "{what}: {left}");
    }
    Ok(())
}

#[test]
fn recursion_ends_at_the_stack_meter_not_at_the_native_stack() -> Outcome<()> {
    for text in [
        "(module (func $f (export \"f\") (call $f)))",
        "(module (func $f (export \"f\") (result i32 i64) (call $f)))",
        "(module (func $f (export \"f\") (call $g)) (func $g (loop (call $f) (br 0))))",
        "(module (table funcref (elem $f)) (type $t (func)) (func $f (export \"f\") (call_indirect (type $t) (i32.const 0))))",
    ] {
        let mut guest = Guest::wat(text)?;
        assert_eq!(guest.call("f", &[], 1 << 40)?.0, OUT_OF_STACK, "{text}");
        assert_eq!(guest.call("f", &[], 500)?.0, OUT_OF_FUEL, "{text}");
    }
    Ok(())
}

#[test]
fn every_exit_gives_its_frame_back() -> Outcome<()> {
    // Each way out of $g, many more times than the stack has frames.
    let text = r#"(module
        (func $leaf)
        (func $g (param i32) (result i32)
          (call $leaf)
          (block (block (block (br_table 0 1 2 3 (local.get 0)))
            (return (i32.const 1)))
            (br 1 (i32.const 2)))
          (drop (br_if 0 (i32.const 3) (i32.eq (local.get 0) (i32.const 2))))
          (i32.const 4))
        (func (export "f") (param i32) (result i32) (local i32 i32)
          (local.set 1 (i32.const 100000))
          (loop
            (local.set 2 (i32.add (local.get 2) (call $g (local.get 0))))
            (br_if 0 (local.tee 1 (i32.sub (local.get 1) (i32.const 1)))))
          (local.get 2)))"#;
    // A br_table out of a function needs a value; give it one.
    let text = text.replace("(br_table 0 1 2 3 (local.get 0))", "(br_table 0 1 2 (local.get 0))");
    let mut guest = Guest::wat(&text)?;
    for (way, sum) in [(0, 100_000), (1, 200_000), (2, 300_000)] {
        let (end, _) = guest.call("f", &[Val::I32(way)], 1 << 40)?;
        let expected = if way == 2 { 300_000 } else { sum };
        assert_eq!(end, End::Returned(vec![format!("i32 {expected}")]), "way {way}");
    }
    Ok(())
}

#[test]
fn bulk_work_is_charged_by_its_size_before_it_is_done() -> Outcome<()> {
    let fill = r#"(module (memory (export "m") 16)
        (func (export "f") (param i32)
          (memory.fill (i32.const 0) (i32.const 1) (local.get 0))))"#;
    assert_eq!(cost(fill, &[Val::I32(100_000)])?, 1 + 4 + 100_000);
    let mut guest = Guest::wat(fill)?;
    assert_eq!(guest.call("f", &[Val::I32(100_000)], 100_000)?, (OUT_OF_FUEL, -5));
    let memory = guest.instance.get_memory(&mut guest.store, "m").ok_or("no memory")?;
    assert!(memory.data(&guest.store).iter().all(|byte| *byte == 0), "nothing was written");
    // A size that is out of bounds is charged as well, and cannot wrap.
    let (end, left) = guest.call("f", &[Val::I32(-1)], i64::MAX)?;
    assert_eq!(end, End::Trapped(Trap::MemoryOutOfBounds));
    assert_eq!(left, i64::MAX - 5 - i64::from(u32::MAX));

    for (text, charged) in [
        (
            "(module (memory 1) (func (export \"f\") (memory.copy (i32.const 0) (i32.const 9) (i32.const 5000))))",
            5 + 5000,
        ),
        (
            "(module (memory 1) (data \"hello\") (func (export \"f\") (memory.init 0 (i32.const 0) (i32.const 0) (i32.const 5))))",
            5 + 5,
        ),
        ("(module (memory 1) (func (export \"f\") (drop (memory.grow (i32.const 3)))))", 3 + 3 * 4096),
        (
            "(module (table 10 funcref) (func (export \"f\") (drop (table.grow (ref.null func) (i32.const 7)))))",
            4 + 7,
        ),
        (
            "(module (table 10 funcref) (func (export \"f\") (table.fill (i32.const 0) (ref.null func) (i32.const 9))))",
            5 + 9,
        ),
        (
            "(module (table 10 funcref) (func (export \"f\") (table.copy (i32.const 0) (i32.const 1) (i32.const 9))))",
            5 + 9,
        ),
        (
            "(module (table 10 funcref) (elem func 0 0) (func (export \"f\") (table.init 0 (i32.const 0) (i32.const 0) (i32.const 2))))",
            5 + 2,
        ),
    ] {
        assert_eq!(cost(text, &[])?, charged, "{text}");
    }
    Ok(())
}

#[test]
fn the_host_is_not_called_on_an_exhausted_counter() -> Outcome<()> {
    let text = r#"(module (import "host" "tick" (func $tick))
        (func (export "f") (call $tick) (call $tick) (call $tick)))"#;
    assert_eq!(cost(text, &[])?, 1 + 3 * 101);
    let mut guest = Guest::wat(text)?;
    assert_eq!(guest.call("f", &[], 100)?.0, OUT_OF_FUEL);
    assert_eq!(*guest.store.data(), 0);
    let looping = r#"(module (import "host" "tick" (func $tick))
        (func (export "f") (loop (call $tick) (br 0))))"#;
    let mut guest = Guest::wat(looping)?;
    assert_eq!(guest.call("f", &[], 2 + 50 * 102)?.0, OUT_OF_FUEL);
    assert_eq!(*guest.store.data(), 50);
    Ok(())
}

#[test]
fn long_straight_code_is_checked_on_the_way() -> Outcome<()> {
    // Many conditional segments without a loop, 20 units each, by calls too.
    let call = "(if (local.get 0) (then (call $leaf)))".repeat(2000);
    let leaf = format!("(func $leaf {})", "(drop (i32.const 1))".repeat(99));
    let mut guest = Guest::wat(&format!("(module {leaf} (func (export \"f\") (param i32) {call}))"))?;
    for fuel in [100, 5000, 200_000] {
        let (end, left) = guest.call("f", &[Val::I32(1)], fuel)?;
        assert_eq!(end, OUT_OF_FUEL);
        assert!((-UNCHECKED - LEAF_FUEL..0).contains(&left), "{left}");
    }
    let arm = "(if (local.get 0) (then ".to_owned() + &"(drop (i32.const 1))".repeat(18) + "))";
    let text = format!("(module (func (export \"f\") (param i32) {}))", arm.repeat(2000));
    let whole = cost(&text, &[Val::I32(1)])?;
    assert_eq!(whole, 1 + 2000 * 20);
    let mut guest = Guest::wat(&text)?;
    for fuel in [100, 5000, 30_000] {
        let (end, left) = guest.call("f", &[Val::I32(1)], fuel)?;
        assert_eq!(end, OUT_OF_FUEL);
        assert!((-UNCHECKED - 20..0).contains(&left), "{left}");
    }
    Ok(())
}

#[test]
fn the_start_function_runs_on_its_own_budget() -> Outcome<()> {
    let wasm = wat::parse_str("(module (func $s (loop (br 0))) (start $s))")?;
    let metered = instrument(&wasm, &MeterConfig::default())?;
    assert!(metered.starts, "so no worker makes an instance ahead");
    let quiet = wat::parse_str("(module (func $s (loop (br 0))))")?;
    assert!(!instrument(&quiet, &MeterConfig::default())?.starts);
    let engine = engine(OptLevel::Speed, false)?;
    let module = Module::new(&engine, &metered.module)?;
    let mut store = Store::new(&engine, ());
    let result = Instance::new(&mut store, &module, &[]).map(|_| Vec::new());
    assert_eq!(ending(Some(&metered), result)?, OUT_OF_FUEL);
    Ok(())
}

#[test]
fn a_trap_of_the_guest_is_told_apart() -> Outcome<()> {
    // Right behind each kind of check, and nothing else there.
    for text in [
        "(module (func (export \"f\") unreachable))",
        "(module (func (export \"f\") (loop unreachable)))",
        "(module (func (export \"f\") (loop) unreachable))",
        "(module (func $g) (func (export \"f\") (unreachable) (call $g)))",
        "(module (func $g) (func (export \"f\") (if (i32.const 1) (then unreachable)) (call $g)))",
        "(module (func $g unreachable) (func (export \"f\") (call $g)))",
        "(module (import \"host\" \"tick\" (func $t)) (func (export \"f\") (call $t) unreachable))",
        "(module (memory 1) (func (export \"f\") (memory.fill (i32.const 0) (i32.const 0) (i32.const 9)) unreachable))",
    ] {
        for level in [OptLevel::None, OptLevel::Speed, OptLevel::SpeedAndSize] {
            let engine = engine(level, false)?;
            let mut guest = Guest::new(&engine, &wat::parse_str(text)?, &MeterConfig::default())?;
            let (end, _) = guest.call("f", &[], 1000)?;
            assert_eq!(end, End::Trapped(Trap::UnreachableCodeReached), "{text}");
            assert_eq!(guest.call("f", &[], 0)?.0, OUT_OF_FUEL, "{text}");
        }
    }
    Ok(())
}

#[test]
fn dead_code_is_left_alone() -> Outcome<()> {
    let text = r#"(module (memory 1) (func $g (param i64))
        (func (export "f") (result i32)
          (block (br 0)
            (memory.fill) (call $g) (loop (br 0)) (if (then) (else unreachable)) return)
          (block (result i32) unreachable (i32.add) (br_if 0 (i32.const 0)) (memory.grow))
          ))"#;
    let (end, _) = Guest::wat(text)?.call("f", &[], 1000)?;
    assert_eq!(end, End::Trapped(Trap::UnreachableCodeReached));
    Ok(())
}

#[test]
fn negative_fuel_counts_as_none() -> Outcome<()> {
    let mut guest = Guest::wat("(module (func (export \"f\")))")?;
    guest.set_fuel(i64::MIN)?;
    assert_eq!(guest.fuel()?, 0);
    assert_eq!(guest.call("f", &[], i64::MIN)?, (OUT_OF_FUEL, -1));
    Ok(())
}

#[test]
fn what_cannot_be_metered_is_refused() -> Outcome<()> {
    let metered =
        |text: &str| -> Outcome<_> { Ok(instrument(&wat::parse_str(text)?, &MeterConfig::default())) };
    for name in ["terrarium-fuel-get", "cabi_post_terrarium-fuel-get"] {
        let result = metered(&format!("(module (func (export {name:?})))"))?;
        assert_eq!(result, Err(MeterError::ReservedExport { name: name.to_owned() }));
    }
    for text in [
        "(module (memory i64 1))",
        "(component)",
        "(module (func (return_call 0)))",
        "(module (func (result i32)))",
    ] {
        assert!(matches!(metered(text)?, Err(MeterError::Invalid { .. })), "{text}");
    }
    let many = format!("(module (func (local {})))", "i32 ".repeat(49_999));
    assert_eq!(metered(&many)?, Err(MeterError::TooManyLocals { function: 0 }));
    let config = MeterConfig { stack: u32::MAX, ..MeterConfig::default() };
    assert!(matches!(instrument(b"", &config), Err(MeterError::Config { .. })));
    Ok(())
}

#[test]
fn custom_sections_are_dropped() -> Outcome<()> {
    let wasm = wat::parse_str("(module $named (@custom \"component-type\" \"x\") (func $f))")?;
    let metered = instrument(&wasm, &MeterConfig::default())?;
    let custom = wasmparser::Parser::new(0)
        .parse_all(&metered.module)
        .any(|payload| matches!(payload, Ok(wasmparser::Payload::CustomSection(_))));
    assert!(!custom);
    Ok(())
}
