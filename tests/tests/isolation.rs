//! Nothing passes from one evaluation to the next, from the host to a guest,
//! or from a guest's words to a terminal.

use std::path::PathBuf;

use terrarium_sandbox::{Evaluation, KnobValue, Knobs, Limits, Outcome, Phase, World};
use terrarium_tests::glass::{
    build, call, call_with, guest, held_out, output, sandbox, small_limits, source, train, train_with,
};

fn numbers(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|n| u32::from_le_bytes([n[0], n[1], n[2], n[3]])).collect()
}

#[test]
fn statics_and_memory_of_an_earlier_evaluation_are_gone() {
    let component = guest("keeps_statics", World::Function);
    for _ in 0..5 {
        // First call, no dirty static, no dirty fresh page.
        assert_eq!(numbers(output(&call(&component, b""))), [1, 0, 0]);
    }
    assert!(!sandbox().idle_workers().is_empty(), "one worker served them");
}

/// Says which knob it was given; with an input, never.
const ASKS: &str = "\
use terrarium_sdk::{Function, Result, export_function, knobs, report};
#[derive(Default)]
struct Asks;
impl Function for Asks {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        report::log(\"asked\");
        while !input.is_empty() { std::hint::black_box(0); }
        Ok(vec![knobs::integer(\"k\", 0, 0, 9, knobs::Linear) as u8])
    }
}
export_function!(Asks);
";

#[test]
fn an_instance_that_was_made_ahead_belongs_to_the_evaluation_that_gets_it() {
    let component = build(ASKS, World::Function).expect("builds");
    let mut fuel_used = Vec::new();
    for knob in 1..5 {
        let run = |input: &str, fuel| {
            let limits = Limits { fuel, ..small_limits() };
            let knobs = Knobs::from([("k".to_owned(), KnobValue::Integer(knob))]);
            let evaluation = Evaluation { knobs, ..Evaluation::call(input).with_limits(limits) };
            sandbox().run(&component, &evaluation).expect("the host is well")
        };
        let report = run("", 1_000_000);
        assert_eq!(output(&report), &[knob as u8]);
        assert_eq!((report.log.as_str(), report.usage.host_calls), ("asked\n", 2));
        fuel_used.push(report.usage.fuel.expect("it ended well"));
        assert_eq!(run("spin", 10_000).outcome, Outcome::OutOfFuel { phase: Phase::Call });
    }
    // The first instance was made for its evaluation, the others before theirs.
    assert!(fuel_used[0] > 0 && fuel_used.iter().all(|fuel| *fuel == fuel_used[0]), "{fuel_used:?}");
}

#[test]
fn device_memory_of_an_earlier_evaluation_is_gone() {
    let component = guest("writes_device_memory", World::Trainer);
    for _ in 0..4 {
        let report = train(&component);
        held_out(&report);
        assert_eq!(report.metrics.len(), 4);
        assert!(report.metrics.iter().all(|m| m.value == 0.0), "{:?}", report.metrics);
    }
}

#[test]
fn hostile_text_is_cleaned_and_bounded() {
    let limits = Limits { log_bytes: 10_000, metrics: 3, wall_ms: 20_000, ..small_limits() };
    let report = call_with(&guest("hostile_text", World::Function), &[10], limits);
    let Outcome::GuestError { message, .. } = &report.outcome else { panic!("{:?}", report.outcome) };
    assert!(report.log.len() <= 10_000 && message.len() <= 4_000);
    assert!(report.log.starts_with("before") && report.log.contains("after"));
    assert_eq!(report.metrics.len(), 3);
    assert!(report.metrics.iter().all(|m| m.name.len() <= 64));
    let all = report.log.clone() + message;
    assert!(!all.chars().any(|c| (c.is_control() && c != '\n') || ('\u{200b}'..='\u{202e}').contains(&c)));
}

#[test]
fn a_guest_sees_nothing_of_the_environment() {
    // The environment of this process, which starts the compiler, has it.
    assert!(std::env::var_os("PATH").is_some());
    let component = guest("reads_the_environment", World::Function);
    assert_eq!(String::from_utf8_lossy(output(&call(&component, b""))), "");
    // A secret of the caller's, and a source that no cache has seen.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("candidate.rs");
    let unique = format!("// {:?}\n{}", folder.path(), source("reads_the_environment"));
    let told = unique.replace(
        "Ok(seen.iter()",
        "terrarium_sdk::report::log(&format!(\"{seen:?}\"));\n        Ok(seen.iter()",
    );
    std::fs::write(&file, told).expect("written");
    let output = terrarium_tests::glass::command(
        &["eval", "circles", "--json", "--source", file.to_str().expect("UTF-8")],
        &[("SECRET_KEY", "swordfish".as_ref())],
    );
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(object["log"], "[None, None, None, None]\n", "{object}");
}

/// Folders of compile jobs of this process.
fn job_folders() -> Vec<PathBuf> {
    let mine = format!("terrarium-job-{}-", std::process::id());
    let entries = std::fs::read_dir(std::env::temp_dir()).expect("the temporary folder").flatten();
    entries
        .map(|e| e.path())
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&mine)))
        .collect()
}

#[test]
fn two_hundred_hostile_and_good_evaluations_in_a_row() {
    let functions = [
        "endless_loop",
        "endless_allocation",
        "endless_recursion",
        "panics",
        "returns_an_error",
        "hostile_text",
    ]
    .map(|name| guest(name, World::Function));
    let trainers =
        ["predicts_nan", "frees_the_hosts_tensor", "downloads_while_predicting", "hoards_device_memory"]
            .map(|name| guest(name, World::Trainer));
    let (good, uniform) = (guest("reverse", World::Function), guest("uniform", World::Trainer));
    let limits = Limits { fuel: 20_000_000, memory_bytes: 8 << 20, device_bytes: 8 << 20, ..small_limits() };
    for n in 0..100usize {
        if n % 10 == 9 {
            // A source that no cache has seen, so that the compiler runs too.
            let broken = format!("fn broken_{n}_{}( {{", std::process::id());
            assert_eq!(build(&broken, World::Function).expect_err("it is broken").code(), "compile-error");
        } else if n % 2 == 0 {
            let report = call_with(&functions[n / 2 % functions.len()], &[0, 0], limits.clone());
            assert!(!report.outcome.is_finished(), "{:?}", report.outcome);
        } else {
            let report = train_with(&trainers[n / 2 % trainers.len()], 1, limits.clone());
            assert!(!report.outcome.is_finished(), "{:?}", report.outcome);
        }
        if n % 3 == 0 {
            assert_eq!(held_out(&train_with(&uniform, n as u64, limits.clone())).bits_per_byte, 8.0);
        } else {
            let input: Vec<u8> = (0..n as u8).collect();
            let back: Vec<u8> = (0..n as u8).rev().collect();
            assert_eq!(output(&call_with(&good, &input, limits.clone())), back);
        }
    }
    assert!(sandbox().idle_workers().len() <= 16);
    assert_eq!(zombies(), Vec::<i32>::new());
    // With the jail that waits for the next source, its folder goes.
    sandbox().drain();
    let folders = job_folders();
    assert!(folders.is_empty(), "{folders:?}");
}

/// Workers of this process that died and were never waited for.
fn zombies() -> Vec<i32> {
    // A zombie has no command line: every child is looked at, whatever its role.
    let found = || -> Vec<i32> {
        let all = std::fs::read_dir("/proc").expect("list the processes").flatten();
        all.filter_map(|entry| {
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
            let (state, parent) = (fields.next()?, fields.next()?);
            let ours = parent == std::process::id().to_string();
            if ours && state == "Z" { entry.file_name().to_str()?.parse().ok() } else { None }
        })
        .collect()
    };
    // Other tests' children may be between death and wait: look twice.
    let first = found();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let second = found();
    second.into_iter().filter(|id| first.contains(id)).collect()
}
