//! The sandbox as a library: instances, host functions, logs as they come,
//! cancellation, batches, futures, back-pressure, and what is tried again.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use terrarium_sandbox::toolchain::Dirs;
use terrarium_sandbox::{
    BuildError, CallError, CancelHandle, Component, Evaluation, HostFunctions, Instance, InstanceOptions,
    Limits, Outcome, Phase, Report, RunOptions, Sandbox, SandboxBuilder, SandboxError, Source, World,
};
use terrarium_tests::command::terrarium;
use terrarium_tests::glass::{call, children, guest, output, sandbox, small_limits};

fn plugin() -> Component {
    guest("plugin", World::Function)
}

fn evaluation(input: &str) -> Evaluation {
    Evaluation::call(input).with_limits(small_limits())
}

fn run_with(input: &str, limits: Limits, options: RunOptions<'_>) -> Report {
    let evaluation = Evaluation::call(input).with_limits(limits);
    sandbox().run_with(&plugin(), &evaluation, options).expect("the host is well")
}

fn instance(options: InstanceOptions) -> Instance {
    sandbox().instance(&plugin(), options).expect("the host is well")
}

fn said(result: Result<Vec<u8>, CallError>) -> String {
    String::from_utf8(result.expect("a result")).expect("UTF-8")
}

fn ended(result: Result<Vec<u8>, CallError>) -> Outcome {
    match result {
        Err(CallError::Ended(outcome)) => outcome,
        other => panic!("{other:?}"),
    }
}

fn echo() -> HostFunctions {
    HostFunctions::new().with("echo", |input| Ok(input.to_vec()))
}

fn another() -> SandboxBuilder {
    Sandbox::builder().dirs(Dirs::from_env().expect("folders")).child_executable(terrarium())
}

#[test]
fn an_instance_keeps_its_state_and_survives_its_own_errors() {
    let mut one = instance(InstanceOptions { limits: small_limits(), ..InstanceOptions::default() });
    let mut two = instance(InstanceOptions { limits: small_limits(), ..InstanceOptions::default() });
    assert_eq!(said(one.call(b"add 5")), "5");
    assert_eq!(said(two.call(b"add 1")), "1");
    let Err(CallError::Guest { message }) = one.call(b"fail \x1b[2J") else { panic!("no error") };
    assert!(message.contains("[2J") && !message.contains('\x1b'), "{message:?}");
    assert_eq!(said(one.call(b"add 2")), "7");
    let before = one.usage().fuel.expect("it can be asked");
    assert_eq!(said(one.call(b"add 2")), "9");
    assert!(one.usage().fuel.expect("it can be asked") > before);
    let outcome = ended(one.call(b"panic now"));
    assert_eq!(outcome.code(), "trap");
    assert_eq!(ended(one.call(b"add 1")), outcome, "it stays ended");
    assert_eq!((one.outcome(), one.worker()), (Some(&outcome), None));
    assert_eq!(said(two.call(b"add 1")), "2");
}

#[test]
fn an_instance_has_fuel_and_time_for_each_call_and_for_all() {
    let limits = Limits { fuel: 20_000_000, wall_ms: 10_000, ..small_limits() };
    let options = || InstanceOptions { limits: limits.clone(), ..InstanceOptions::default() };
    let mut each = instance(InstanceOptions { call_fuel: Some(1_000_000), ..options() });
    assert_eq!(said(each.call(b"add 1")), "1");
    assert_eq!(ended(each.call(b"work 10000000")), Outcome::OutOfFuel { phase: Phase::Call });
    let mut all = instance(options());
    let calls = (0..1_000).take_while(|_| all.call(b"work 200000").is_ok()).count();
    assert!((2..100).contains(&calls), "{calls} calls");
    assert_eq!(ended(all.call(b"add 1")), Outcome::OutOfFuel { phase: Phase::Call });

    let endless = Limits { fuel: 1 << 60, ..limits.clone() };
    let mut timed = instance(InstanceOptions {
        limits: endless,
        call_deadline: Some(Duration::from_millis(300)),
        ..InstanceOptions::default()
    });
    assert_eq!(said(timed.call(b"add 1")), "1");
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(said(timed.call(b"add 1")), "2", "time between calls is free");
    let start = Instant::now();
    assert_eq!(ended(timed.call(b"work 1000000000000")), Outcome::Deadline { phase: Phase::Call });
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_guest_calls_what_is_registered_and_nothing_else() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let functions = echo()
        .with("note", move |input| {
            log.lock().expect("no panic").push(input.to_vec());
            Err("no \x1b[31m room".into())
        })
        .with("panics", |_| panic!("on purpose"));
    let ask = |input: &str| run_with(input, small_limits(), RunOptions::new().host_functions(&functions));
    assert_eq!(output(&ask("ask echo glass")), b"glass");
    let Outcome::GuestError { message, .. } = ask("ask note me").outcome else { panic!("no error") };
    assert!(message.starts_with("no ") && !message.contains('\x1b'), "{message:?}");
    assert_eq!(*seen.lock().expect("no panic"), [b"me".to_vec()]);
    assert_eq!(output(&ask("ask files.read /etc/passwd")), b"no files.read");
    assert!(ask("ask panics").outcome.to_string().contains("panicked"));
    // A run without functions has none of another run's.
    assert_eq!(output(&call(&plugin(), b"ask echo glass")), b"no echo");
    // Names are checked before anything runs.
    let bad = HostFunctions::new().with("", |_| Ok(Vec::new()));
    let options = RunOptions::new().host_functions(&bad);
    let refused = sandbox().run_with(&plugin(), &evaluation("add 1"), options);
    assert!(matches!(refused, Err(SandboxError::HostFunctions { .. })), "{refused:?}");
}

#[test]
fn host_functions_cost_fuel_and_have_quotas() {
    let functions = echo();
    let run =
        |input: &str, limits: Limits| run_with(input, limits, RunOptions::new().host_functions(&functions));
    let fuel = |report: &Report| report.usage.fuel.expect("it can be asked");
    let (none, one) = (run("often 0", small_limits()), run("often 1", small_limits()));
    // 1000 for the call, two bytes there and back, and the guest's own work.
    assert!((1_002..5_000).contains(&(fuel(&one) - fuel(&none))), "{}", fuel(&one) - fuel(&none));
    assert_eq!(fuel(&one), fuel(&run("often 1", small_limits())), "counted, not timed");
    let few = Limits { host_function_calls: 10, ..small_limits() };
    assert_eq!(run("often 10", few.clone()).outcome, Outcome::Finished);
    let quota = |which: &str, limit| Outcome::Quota { which: which.into(), limit };
    assert_eq!(run("often 11", few).outcome, quota("host_function_calls", 10));
    let little = Limits { host_function_bytes: 2_000, ..small_limits() };
    assert_eq!(output(&run("large 1000", little.clone())).len(), 1_000);
    assert_eq!(run("large 1001", little).outcome, quota("host_function_bytes", 2_000));
    let poor = Limits { fuel: 300_000, ..small_limits() };
    assert_eq!(run("often 1000", poor).outcome, Outcome::OutOfFuel { phase: Phase::Call });
    // More comes back than was asked for: the quota holds for answers too.
    let flood = HostFunctions::new().with("echo", |_| Ok(vec![0; 8 << 20]));
    let limits = Limits { host_function_bytes: 1 << 20, ..small_limits() };
    let report = run_with("large 1", limits, RunOptions::new().host_functions(&flood));
    assert_eq!(report.outcome, quota("host_function_bytes", 1 << 20));
}

#[test]
fn a_deadline_and_a_cancellation_hold_while_a_host_function_runs() {
    let slow = HostFunctions::new().with("echo", |_| {
        std::thread::sleep(Duration::from_secs(5));
        Ok(Vec::new())
    });
    let start = Instant::now();
    let limits = Limits { wall_ms: 300, ..small_limits() };
    let report = run_with("often 1", limits, RunOptions::new().host_functions(&slow));
    assert_eq!(report.outcome, Outcome::Deadline { phase: Phase::Call });
    let cancel = CancelHandle::new();
    let report = std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            let options = RunOptions::new().host_functions(&slow).cancel(&cancel);
            run_with("often 1", small_limits(), options)
        });
        std::thread::sleep(Duration::from_millis(300));
        cancel.cancel();
        run.join().expect("no panic")
    });
    assert_eq!(report.outcome, Outcome::Cancelled { phase: Phase::Call });
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[test]
fn log_lines_come_while_the_guest_runs_cleaned_and_bounded() {
    // The second line comes after a host function that looks at the first.
    let (lines, count) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
    let (sink, seen, at_call) = (Arc::clone(&lines), Arc::clone(&lines), Arc::clone(&count));
    let mut plugin = instance(InstanceOptions {
        limits: Limits { log_bytes: 40, ..small_limits() },
        host_functions: Some(HostFunctions::new().with("echo", move |_| {
            at_call.store(seen.lock().expect("no panic").len() as u64, Ordering::SeqCst);
            Ok(Vec::new())
        })),
        on_log: Some(Box::new(move |line| sink.lock().expect("no panic").push(line.to_owned()))),
        ..InstanceOptions::default()
    });
    plugin.call(b"log one \x1b[2Jtwo").expect("a result");
    assert_eq!(*lines.lock().expect("no panic"), ["one", "\u{fffd}[2Jtwo"]);
    plugin.call(b"often 1").expect("a result");
    assert_eq!(count.load(Ordering::SeqCst), 2);
    plugin.call(format!("log {} more", "x".repeat(200)).as_bytes()).expect("a result");
    let all: usize = lines.lock().expect("no panic").iter().map(|line| line.len() + 1).sum();
    assert!(all <= 40, "{all} bytes");

    let mut streamed = Vec::new();
    let mut on_log = |line: &str| streamed.push(line.to_owned());
    let report = run_with("log a b c", small_limits(), RunOptions::new().on_log(&mut on_log));
    assert_eq!((streamed.join("\n") + "\n", streamed.len()), (report.log, 3));
}

#[test]
fn a_cancelled_evaluation_ends_at_once_and_its_worker_is_gone() {
    let cancel = CancelHandle::new();
    let start = Instant::now();
    let limits = Limits { fuel: 1 << 60, ..small_limits() };
    let report = std::thread::scope(|scope| {
        let run = scope.spawn(|| run_with("work 1000000000000", limits, RunOptions::new().cancel(&cancel)));
        std::thread::sleep(Duration::from_millis(300));
        cancel.cancel();
        run.join().expect("no panic")
    });
    assert_eq!(report.outcome, Outcome::Cancelled { phase: Phase::Call });
    assert!(start.elapsed() < Duration::from_secs(5));
    // The handle stays cancelled: nothing is started with it.
    let report = run_with("add 1", small_limits(), RunOptions::new().cancel(&cancel));
    assert_eq!(report.outcome.code(), "cancelled");

    let limits = Limits { fuel: 1 << 60, ..small_limits() };
    let mut long = instance(InstanceOptions { limits, ..InstanceOptions::default() });
    let worker = long.worker().expect("it lives") as i32;
    let handle = long.cancel_handle();
    let outcome = std::thread::scope(|scope| {
        let call = scope.spawn(|| ended(long.call(b"work 1000000000000")));
        std::thread::sleep(Duration::from_millis(200));
        handle.cancel();
        call.join().expect("no panic")
    });
    assert_eq!(outcome, Outcome::Cancelled { phase: Phase::Call });
    assert!(!children("worker").contains(&worker), "its worker was left behind");
    // A handle that is cancelled after the end does no harm to the worker.
    let late = CancelHandle::new();
    let report = run_with("add 3", small_limits(), RunOptions::new().cancel(&late));
    late.cancel();
    assert_eq!((output(&report), output(&call(&plugin(), b"add 3"))), (&b"3"[..], &b"3"[..]));
}

#[test]
fn a_batch_gives_what_single_runs_give_in_order_whatever_is_in_it() {
    let inputs: Vec<String> = (0..60)
        .map(|n| match n % 10 {
            3 => "panic now".into(),
            5 => "fail it".into(),
            7 => "work 100000000".into(),
            9 => format!("grow {}", 2_000_000),
            n => format!("add {n}"),
        })
        .chain([format!("echo {}", "x".repeat(300_000)), "add 4".into()])
        .collect();
    let limits = Limits { fuel: 5_000_000, ..small_limits() };
    let all: Vec<Evaluation> =
        inputs.iter().map(|input| Evaluation::call(input.as_str()).with_limits(limits.clone())).collect();
    let reports = sandbox().run_many(&plugin(), &all).expect("the host is well");
    assert_eq!(reports.len(), all.len());
    for ((input, evaluation), report) in inputs.iter().zip(&all).zip(&reports) {
        let alone = sandbox().run(&plugin(), evaluation).expect("the host is well");
        let what = &input[..input.len().min(20)];
        assert_eq!((&report.outcome, &report.product), (&alone.outcome, &alone.product), "{what}");
        assert_eq!(report.usage, alone.usage, "{what}");
    }
    assert_eq!(output(&reports[61]), b"4", "a fresh store each");
    assert_eq!(reports.iter().filter(|r| r.outcome.code() == "trap").count(), 6);
    // Other ceilings need another worker; the order stays.
    let mut mixed = all[..4].to_vec();
    mixed[1].limits.memory_bytes = 16 << 20;
    mixed[2].limits.memory_bytes = 65_536;
    let reports = sandbox().run_many(&plugin(), &mixed).expect("the host is well");
    let codes: Vec<_> = reports.iter().map(|report| report.outcome.code()).collect();
    assert_eq!(codes, ["finished", "finished", "memory-limit", "trap"]);
}

#[test]
fn a_batch_is_stopped_and_each_deadline_is_its_own() {
    let limits = Limits { fuel: 1 << 60, wall_ms: 400, ..small_limits() };
    let inputs = ["add 1", "work 1000000000000", "add 2"];
    let all = inputs.map(|input| Evaluation::call(input).with_limits(limits.clone()));
    let reports = sandbox().run_many(&plugin(), &all).expect("the host is well");
    let codes: Vec<_> = reports.iter().map(|report| report.outcome.code()).collect();
    assert_eq!(codes, ["finished", "deadline", "finished"]);
    let cancel = CancelHandle::new();
    cancel.cancel();
    let reports = sandbox().run_many_with(&plugin(), &all, Some(&cancel)).expect("the host is well");
    assert!(reports.iter().all(|report| report.outcome.code() == "cancelled") && reports.len() == 3);
}

#[test]
fn futures_need_no_particular_executor() {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    fn block_on<F: Future + Unpin>(mut future: F) -> F::Output {
        let waker = Arc::new(Unpark(std::thread::current())).into();
        let mut context = std::task::Context::from_waker(&waker);
        loop {
            match std::pin::Pin::new(&mut future).poll(&mut context) {
                std::task::Poll::Ready(value) => return value,
                std::task::Poll::Pending => std::thread::park_timeout(Duration::from_secs(20)),
            }
        }
    }
    let own = Arc::new(another().build().expect("a sandbox"));
    let text = "(module (memory (export \"memory\") 1)
        (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) i32.const 1024)
        (func (export \"call\") (param i32 i32) (result i32) i32.const 64))";
    let component = block_on(own.compile_async(Source::Wat(text), World::Function)).expect("it compiles");
    let report = block_on(own.run_async(&component, evaluation(""))).expect("the host is well");
    assert_eq!(output(&report), b"");
    let many = block_on(own.run_many_async(&component, vec![evaluation(""); 3])).expect("the host is well");
    assert_eq!(many.len(), 3);
    // Dropped: cancelled, so that its worker does not run on.
    let limits = Limits { fuel: 1 << 60, ..small_limits() };
    let work = Evaluation::call("work 1000000000000").with_limits(limits);
    let pending = own.run_async(&plugin(), work);
    let handle = pending.cancel_handle();
    drop(pending);
    assert!(handle.is_cancelled());
}

#[test]
fn sources_are_refused_with_a_type_and_never_with_a_crash() {
    let refused = |source: Source<'_>| match sandbox().compile(source, World::Function) {
        Err(BuildError::Candidate(outcome)) => outcome,
        other => panic!("{other:?}"),
    };
    let Outcome::Rejected { reason } = refused(Source::Wat("(module (memory 1)\n (func oops))")) else {
        panic!("not refused")
    };
    assert!(reason.contains("oops") || reason.contains("2"), "{reason}");
    let deep = format!("(module (func {} {}))", "(block ".repeat(200_000), ")".repeat(200_000));
    let outcome = refused(Source::Wat(&deep));
    assert!(["rejected", "worker-died"].contains(&outcome.code()), "{outcome}");
    // More memory from the start than its limit allows: the candidate's fault.
    let report = sandbox().run(
        &plugin(),
        &Evaluation::call("add 1").with_limits(Limits { memory_bytes: 65_536, ..small_limits() }),
    );
    assert_eq!(report.expect("the host is well").outcome.code(), "memory-limit");
}

#[test]
fn workers_are_bounded_and_a_full_house_says_so() {
    let own = another().workers(1).queue_timeout(Duration::from_millis(200)).build().expect("a sandbox");
    let held = own.instance(&plugin(), InstanceOptions::default()).expect("the first");
    let start = Instant::now();
    let busy = own.run(&plugin(), &evaluation("add 1"));
    assert!(matches!(busy, Err(SandboxError::Busy { workers: 1, .. })), "{busy:?}");
    assert!(start.elapsed() >= Duration::from_millis(200));
    drop(held);
    assert_eq!(output(&own.run(&plugin(), &evaluation("add 1")).expect("the host is well")), b"1");
    // Many callers of two workers: all are served, never more than two at a time.
    let own = another().workers(2).build().expect("a sandbox");
    let (now, most) = (AtomicU64::new(0), AtomicU64::new(0));
    let (now, most) = (Arc::new(now), Arc::new(most));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            let own = &own;
            scope.spawn(move || {
                let functions = HostFunctions::new().with("echo", move |_| {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(30));
                    now.fetch_sub(1, Ordering::SeqCst);
                    Ok(Vec::new())
                });
                let options = RunOptions::new().host_functions(&functions);
                let report = own.run_with(&plugin(), &evaluation("often 1"), options).expect("served");
                assert_eq!(report.outcome, Outcome::Finished);
            });
        }
    });
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

#[test]
fn a_device_that_is_not_registered_is_named_with_those_that_are() {
    let own = another().device("cuda:7").build().expect("a sandbox");
    let error = own.run(&plugin(), &evaluation("add 1")).expect_err("no such device").to_string();
    assert!(error.contains("cuda:7") && error.contains("cpu"), "{error}");
}

/// Workers that are not ours: a shell script that says it is ready, then does
/// this. Returns the outcome and how many were given work; one more may have
/// been started ahead.
fn impostor(then: &str) -> (Outcome, usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let (script, tries) = (folder.path().join("child"), folder.path().join("tries"));
    let text = format!(
        "#!/bin/sh\nlength=$(head -c 4 | od -An -tu4)\nhead -c $length > /dev/null\necho x >> {}\nprintf '\\006\\000\\000\\000\\245Ready' >&0\n{then}\n",
        tries.display()
    );
    let draft = folder.path().join("draft");
    std::fs::write(&draft, text).expect("written");
    std::fs::set_permissions(&draft, PermissionsExt::from_mode(0o700)).expect("executable");
    // Copied by another process: a file that this one has written may still be
    // open in a child that another thread is starting, and cannot be executed.
    assert!(Command::new("cp").args([&draft, &script]).status().expect("cp").success());
    // In the cache by now, so that only the worker is an impostor.
    let component = plugin();
    let own = another().child_executable(&script).build().expect("a sandbox");
    let report = own.run(&component, &evaluation("add 1")).expect("no trouble of the host's");
    (report.outcome, std::fs::read_to_string(tries).expect("it started").lines().count())
}

#[test]
fn what_is_tried_again_and_what_is_not() {
    let died = |signal| Outcome::WorkerDied { signal, phase: Phase::Call };
    // A signal that code can cause, and an exit, are the candidate's.
    assert_eq!(impostor("kill -SEGV $$"), (died(Signal::SEGV.as_raw()), 1));
    assert_eq!(impostor("exit 3"), (died(0), 1));
    // Killed from outside, each time.
    assert_eq!(impostor("kill -KILL $$"), (died(Signal::KILL.as_raw()), 4));
    // It says what no worker says: no frame, another's reply, a call of a
    // function that nobody registered.
    for words in [
        "printf '\\377\\377\\377\\377' >&0",
        "printf '\\002\\000\\000\\000\\301\\301' >&0",
        "printf '\\006\\000\\000\\000\\245Ready' >&0",
        // A line of the log that is longer than all that it may say.
        "printf '\\012\\000\\000\\002\\201\\243Log\\333\\002\\000\\000\\000' >&0; head -c 33554432 /dev/zero >&0 2> /dev/null",
        "printf '\\032\\000\\000\\000\\201\\250HostCall\\202\\244name\\241x\\245input\\304\\000' >&0",
    ] {
        assert_eq!(impostor(&format!("{words}\nread -r x")), (died(0), 2), "{words}");
    }
    // The pool is as it was.
    assert_eq!(output(&call(&plugin(), b"add 1")), b"1");
}
