//! Each way in which an evaluation can end, made by a guest that ends so: the
//! exact outcome, within its deadline, and a good evaluation right after.

use std::time::{Duration, Instant};

use terrarium_sandbox::{Component, Limits, Outcome, Phase, Report, World};
use terrarium_tests::glass::{
    build, build_wasm, call, call_with, guest, held_out, output, small_limits, source, train, train_with,
};

/// After whatever went before, the sandbox still gives right answers.
fn good_call() {
    assert_eq!(output(&call(&guest("reverse", World::Function), b"glass")), b"ssalg");
}

fn good_training() {
    assert_eq!(held_out(&train(&guest("uniform", World::Trainer))).bits_per_byte, 8.0);
}

fn timely(limits: &Limits, run: impl FnOnce() -> Report) -> Report {
    let start = Instant::now();
    let report = run();
    let (took, deadline) = (start.elapsed(), Duration::from_millis(limits.wall_ms) + Duration::from_secs(2));
    assert!(took < deadline, "it took {took:?} of {deadline:?}");
    assert_eq!(report.product.is_some(), report.outcome.is_finished());
    report
}

/// Runs a `function` guest to its bad end, then a good one.
fn function(name: &str, input: &[u8], limits: Limits) -> Report {
    let component = guest(name, World::Function);
    let report = timely(&limits, || call_with(&component, input, limits.clone()));
    good_call();
    report
}

/// The same for a `trainer`.
fn trainer(name: &str, limits: Limits) -> Report {
    let component = guest(name, World::Trainer);
    let report = timely(&limits, || train_with(&component, 1, limits.clone()));
    good_training();
    report
}

fn module(text: &str, world: World) -> Result<Component, Outcome> {
    build_wasm(&wat::parse_str(text).expect("a module in text format"), world)
}

/// A `function` in text format with `call` doing this, and more fields.
fn function_wat(call: &str, more: &str) -> Result<Component, Outcome> {
    let text = format!(
        "(module {more} (memory (export \"memory\") 1)
           (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) i32.const 1024)
           (func (export \"call\") (param i32 i32) (result i32) {call}))"
    );
    module(&text, World::Function)
}

fn rejection(result: Result<Component, Outcome>) -> String {
    let Err(Outcome::Rejected { reason }) = result else { panic!("expected a rejection, got {result:?}") };
    good_call();
    reason
}

#[test]
fn an_error_of_the_guest_is_told_without_its_escapes() {
    let report = function("returns_an_error", b"", small_limits());
    let Outcome::GuestError { phase: Phase::Call, message } = &report.outcome else {
        panic!("{:?}", report.outcome)
    };
    assert!(message.starts_with("no packing today") && !message.contains('\u{1b}'), "{message:?}");
}

#[test]
fn an_endless_loop_is_out_of_fuel() {
    let limits = Limits { fuel: 50_000_000, ..small_limits() };
    let report = function("endless_loop", b"x", limits.clone());
    assert_eq!(report.outcome, Outcome::OutOfFuel { phase: Phase::Call });
    assert_eq!(report.usage.fuel, Some(limits.fuel));
    assert_eq!(trainer("loops_in_init", limits).outcome, Outcome::OutOfFuel { phase: Phase::Init });
}

#[test]
fn an_endless_loop_with_endless_fuel_meets_the_deadline() {
    let limits = Limits { fuel: 1 << 60, wall_ms: 400, ..small_limits() };
    assert_eq!(function("endless_loop", b"x", limits).outcome, Outcome::Deadline { phase: Phase::Call });
}

#[test]
fn endless_cheap_calls_meet_the_deadline_or_the_quota_of_calls() {
    let limits = Limits { fuel: 1 << 60, wall_ms: 600, host_calls: 1 << 50, ..small_limits() };
    let report = trainer("calls_the_host_forever", limits.clone());
    assert_eq!(report.outcome, Outcome::Deadline { phase: Phase::Train });
    let report = trainer("calls_the_host_forever", Limits { host_calls: 5_000, wall_ms: 20_000, ..limits });
    assert_eq!(report.outcome, Outcome::Quota { which: "host_calls".into(), limit: 5_000 });
}

#[test]
fn insisting_on_more_device_fuel_than_there_is_ends_in_device_fuel() {
    let limits = Limits { device_fuel: 50_000_000, ..small_limits() };
    let report = trainer("insists_on_more_fuel", limits.clone());
    assert_eq!(report.outcome, Outcome::DeviceFuel { phase: Phase::Train });
    assert!(report.usage.device_fuel > 0 && report.usage.device_fuel <= limits.device_fuel);
    // Predicting has a budget of its own.
    let limits = Limits { forward_device_fuel: 10, ..small_limits() };
    assert_eq!(trainer("uniform", limits).outcome, Outcome::DeviceFuel { phase: Phase::Forward });
}

#[test]
fn endless_allocation_meets_the_memory_limit() {
    let limits = Limits { memory_bytes: 8 << 20, ..small_limits() };
    let report = function("endless_allocation", b"x", limits.clone());
    assert_eq!(report.outcome, Outcome::MemoryLimit { limit: limits.memory_bytes });
    assert!(report.usage.peak_memory_bytes <= limits.memory_bytes);
}

#[test]
fn a_table_grows_to_its_limit_and_no_further() {
    let grow = "(drop (table.grow $t (ref.null func) (i32.const 30000)))
                (i32.eq (table.size $t) (i32.const 1)) if unreachable end (i32.const 0)";
    let component = function_wat(grow, "(table $t 1 funcref)").expect("builds");
    let report = timely(&small_limits(), || call(&component, b""));
    assert_eq!(report.outcome, Outcome::TableLimit { limit: small_limits().table_elements });
    good_call();
}

#[test]
fn endless_recursion_is_a_stack_overflow() {
    let report = function("endless_recursion", b"", small_limits());
    assert_eq!(report.outcome, Outcome::StackOverflow { phase: Phase::Call });
}

#[test]
fn panics_and_wrong_instructions_are_traps_and_the_panic_is_in_the_log() {
    for (input, said) in [
        ([0, 0], "the glass is broken"),
        ([1, 0], "index out of bounds"),
        ([2, 0], "divide by zero"),
        ([3, 0], "nothing"),
    ] {
        let report = function("panics", &input, small_limits());
        let Outcome::Trap { phase: Phase::Call, .. } = &report.outcome else {
            panic!("{:?}", report.outcome)
        };
        assert!(report.log.contains(said), "{:?}", report.log);
    }
    for (body, kind) in [
        ("(i32.div_s (i32.const 1) (i32.const 0))", "divide by zero"),
        ("(i32.load (i32.const -4))", "out of bounds"),
        ("unreachable", "unreachable"),
        ("(i32.trunc_f32_s (f32.const nan))", "integer"),
    ] {
        let report = call(&function_wat(body, "").expect("builds"), b"");
        let Outcome::Trap { trap, .. } = &report.outcome else { panic!("{body}: {:?}", report.outcome) };
        assert!(trap.contains(kind), "{body}: {trap}");
    }
    good_call();
}

/// The registers that a device asks the system for (AMX's) make the frames of signals
/// larger, by which a trap is told.
#[test]
fn a_trap_after_products_of_halves_is_a_trap() {
    let report = trainer("multiplies_halves", small_limits());
    let Outcome::Trap { phase: Phase::Train, .. } = &report.outcome else { panic!("{:?}", report.outcome) };
}

#[test]
fn what_a_guest_returns_is_checked_before_it_is_read() {
    // A pointer to a result that lies outside of memory, and a length that
    // leaves it.
    for (body, data) in [
        ("(i32.const -8)", ""),
        (
            "(i32.const 64)",
            "(data (memory 0) (i32.const 64) \"\\00\\00\\00\\00\\00\\00\\00\\ff\\ff\\ff\\ff\\7f\")",
        ),
        ("(i32.const 64)", "(data (memory 0) (i32.const 64) \"\\07\\00\\00\\00\")"),
    ] {
        let report = call(&function_wat(body, data).expect("builds"), b"x");
        assert_eq!(report.outcome.code(), "trap", "{:?}", report.outcome);
    }
    good_call();
}

#[test]
fn a_start_function_is_metered() {
    let component = function_wat("(i32.const 0)", "(func $spin (loop br 0)) (start $spin)").expect("builds");
    let report = timely(&small_limits(), || call(&component, b""));
    assert_eq!(report.outcome, Outcome::OutOfFuel { phase: Phase::Instantiate });
    good_call();
}

#[test]
fn held_out_data_cannot_be_read_and_the_hosts_tensors_not_freed() {
    for (name, call) in [("downloads_while_predicting", "download-ints"), ("frees_the_hosts_tensor", "free")]
    {
        let report = trainer(name, small_limits());
        let Outcome::HostDenied { call: denied, .. } = &report.outcome else {
            panic!("{name}: {:?}", report.outcome)
        };
        assert_eq!(denied, call, "{name}");
    }
}

#[test]
fn hoarded_device_memory_is_the_candidates_fault_and_not_the_devices() {
    let limits = Limits { device_bytes: 8 << 20, ..small_limits() };
    let report = trainer("hoards_device_memory", limits.clone());
    assert_eq!(report.outcome, Outcome::Quota { which: "device_bytes".into(), limit: limits.device_bytes });
}

#[test]
fn long_output_is_refused_and_output_at_the_limit_is_not() {
    let limits = Limits { output_bytes: 1000, ..small_limits() };
    let at = |n: u32| function("long_output", &n.to_le_bytes(), limits.clone());
    assert_eq!(output(&at(1000)), [0; 1000]);
    assert_eq!(at(1001).outcome, Outcome::OutputTooLarge { bytes: 1001, limit: 1000 });
}

#[test]
fn logits_that_are_no_numbers_or_were_never_written_are_not_finite() {
    for name in ["predicts_nan", "predicts_nothing"] {
        assert_eq!(trainer(name, small_limits()).outcome.code(), "not-finite", "{name}");
    }
}

#[test]
fn modules_that_ask_for_what_they_may_not_have_are_rejected() {
    let import =
        rejection(function_wat("(i32.const 0)", "(import \"wasi_snapshot_preview1\" \"fd_write\" (func))"));
    assert!(import.contains("wasi_snapshot_preview1"), "{import}");
    let memory = rejection(function_wat("(i32.const 0)", "(memory 1)"));
    assert!(memory.contains("memor"), "{memory}");
    let name = "(func (export \"terrarium-fuel-set\") (param i64))";
    assert!(rejection(function_wat("(i32.const 0)", name)).contains("reserved"));
    let shared = "(import \"env\" \"memory\" (memory 1))";
    assert!(rejection(function_wat("(i32.const 0)", shared)).contains("only functions"));
    let giant = format!("(global $g (mut i64) (i64.const 0)) {}", "(func i32.const 0 drop)".repeat(10_001));
    assert!(rejection(function_wat("(i32.const 0)", &giant)).contains("functions"));
    let deep = format!("(func {} {})", "block ".repeat(2_500), "end ".repeat(2_500));
    assert!(rejection(function_wat("(i32.const 0)", &deep)).contains("nesting"));
    // Not a module at all, and a function given to the other world.
    rejection(build_wasm(b"\0asm\x01\0\0\0garbage", World::Function));
    rejection(build_wasm(b"", World::Function));
    rejection(build_wasm(&[0xff; 3 << 20], World::Function));
    rejection(function_wat("(i32.const 0)", "").and_then(|_| module("(module)", World::Trainer)));
}

#[test]
fn what_does_not_compile_says_where() {
    let Err(Outcome::CompileError { diagnostics }) = build(&source("does_not_compile"), World::Function)
    else {
        panic!("it compiled");
    };
    let first = &diagnostics[0];
    assert_eq!((first.level.as_str(), first.line, first.code.as_deref()), ("error", 9, Some("E0308")));
    assert!(first.column > 0 && first.rendered.contains("seven"), "{first:?}");
    let Err(Outcome::CompileError { diagnostics }) = build("fn broken( {", World::Function) else {
        panic!("it compiled")
    };
    assert_eq!(diagnostics[0].line, 1);
    good_call();
}

#[test]
fn the_compiler_reads_no_file_of_the_host() {
    let Err(Outcome::CompileError { diagnostics }) = build(&source("reads_a_host_file"), World::Function)
    else {
        panic!("it compiled");
    };
    assert!(diagnostics[0].message.contains("/etc/passwd"), "{:?}", diagnostics[0]);
    assert!(!format!("{diagnostics:?}").contains("root:"), "its content is shown");
    good_call();
}
