//! Same build, device kind, seed and budget: the same bits, for any number of
//! threads or workers, and with or without the sandbox around the candidate.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStderr, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use terrarium_engine::corpus;
use terrarium_sandbox::toolchain::Dirs;
use terrarium_tests::command::{Home, TinyTask, finish, json_lines};
use terrarium_tests::native::{NativeConfig, NativeSession};

#[path = "../../guest-templates/gpt/candidate/candidate.rs"]
mod gpt;

/// What must not depend on anything but the evaluation itself.
fn deterministic(line: &Value) -> Value {
    let mut kept = line.clone();
    let fields = kept.as_object_mut().unwrap();
    fields.remove("timing").unwrap();
    kept
}

fn bits(score: &Value) -> u64 {
    score.as_f64().unwrap_or_else(|| panic!("{score} is no score")).to_bits()
}

#[test]
fn one_thread_or_two_give_the_same_score_and_use_the_same() {
    let home = Home::new(&TinyTask::default());
    let eval = |threads: &str, seed: &str| {
        let mut command =
            home.command(&["eval", "gpt", "--seed", seed, "--limit", "device_fuel=9_000_000_000", "--json"]);
        command.env("RAYON_NUM_THREADS", threads);
        json_lines(&finish(command, 0)).remove(0)
    };
    let (one, two, other) = (eval("1", "7"), eval("2", "7"), eval("2", "8"));
    assert_eq!(bits(&one["score"]), bits(&two["score"]));
    assert_eq!(one["usage"], two["usage"]);
    assert_eq!(deterministic(&one), deterministic(&two));
    assert_ne!(bits(&one["score"]), bits(&other["score"]), "the seed changes nothing");
}

/// A broker of the CPU device; killed with its owner when dropped.
struct Broker {
    process: Child,
    said: Lines<BufReader<ChildStderr>>,
}

impl Broker {
    fn start(home: &Home) -> Self {
        let mut command = home.command(&["broker", "--socket", "socket"]);
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(process.stderr.take().unwrap()).lines();
        Self { process, said }
    }

    /// The process number of the next owner that gets ready.
    fn owner(&mut self) -> Pid {
        let line = self.said.by_ref().map(Result::unwrap).find(|line| line.contains("(process "));
        let number =
            line.as_ref().and_then(|line| line.split("(process ").nth(1)?.trim_end_matches(')').parse().ok());
        number.and_then(Pid::from_raw).unwrap_or_else(|| panic!("no owner: {line:?}"))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
fn a_broker_changes_no_bit_and_a_device_that_is_lost_costs_a_try_only() {
    let home = Home::new(&TinyTask::default());
    let arguments = ["eval", "gpt", "--seed", "7", "--limit", "device_fuel=9_000_000_000", "--json"];
    let near = deterministic(&home.json(0, &arguments)[0]);
    let mut broker = Broker::start(&home);
    let first = broker.owner();
    let lent = [&arguments[..], &["--broker", "socket"]].concat();
    assert_eq!(deterministic(&home.json(0, &lent)[0]), near);

    let at_work = home.command(&lent).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It has a worker by then, and the training is not over.
    std::thread::sleep(Duration::from_millis(400));
    kill_process(first, Signal::KILL).unwrap();
    assert_ne!(broker.owner(), first);
    let output = at_work.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(deterministic(&json_lines(&output)[0]), near);
}

#[test]
fn many_threads_are_all_there_before_the_lock_down() {
    let home = Home::new(&TinyTask::default());
    let eval = |threads: &str| {
        let mut command = home.command(&["eval", "./task", "--data", "text", "--json"]);
        command.env("RAYON_NUM_THREADS", threads);
        deterministic(&json_lines(&finish(command, 0))[0])
    };
    let one = eval("1");
    // A thread that starts late is killed for it, and with it its worker.
    for _ in 0..5 {
        assert_eq!(eval("32"), one);
    }
}

#[test]
fn the_ledger_does_not_depend_on_workers_and_verify_notices_what_was_altered() {
    let home = Home::new(&TinyTask {
        search: "generation_size = 3\ngenerations = 1\nnoise_seeds = 2\nrace_seeds = 3\nfinal_seeds = 2\n\
                 proposers = { knobs = 1.0 }"
            .into(),
        ..TinyTask::default()
    });
    let run = |out: &str, seed: &str, workers: &str, threads: &str| {
        let mut command = home.command(&["run", "./task", "--data", "text", "--json", "--seed", seed]);
        command.args(["--out", out, "--workers", workers]).env("RAYON_NUM_THREADS", threads);
        let lines = json_lines(&finish(command, 0));
        lines.last().unwrap()["ledger"].as_str().unwrap().to_owned()
    };
    let head = run("one", "2", "1", "1");
    assert_eq!(head, run("four", "2", "4", "2"));
    assert_ne!(head, run("other", "3", "4", "1"), "the seed changes nothing");

    let verify =
        |exit: i32, all: &[&str]| home.json(exit, &[&["verify", "one", "--json"], all].concat()).remove(0);
    let sound = verify(0, &["--all"]);
    assert_eq!(sound["sound"], true);
    let repetitions = sound["found"]["repetitions"].as_array().unwrap();
    assert_eq!(repetitions.len() as u64, sound["found"]["evaluations"].as_u64().unwrap());
    assert!(repetitions.iter().all(|r| r["agreement"] == "equal"), "{sound:#}");

    let named = |found: &Value, what: &str| {
        let faults = found["found"]["faults"].as_array().unwrap();
        assert_eq!(found["sound"], false);
        assert!(
            faults.iter().any(|f| f.as_str().is_some_and(|f| f.contains(what))),
            "{faults:?} without {what}"
        );
    };
    // A score, better by a little than what was measured.
    let database = rusqlite::Connection::open(home.path("one/terrarium.db")).unwrap();
    let (candidate, seed): (String, i64) = database
        .query_row("SELECT candidate, seed FROM evaluations WHERE split = 'final'", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    let alter = |change: &str| {
        let sql =
            format!("UPDATE evaluations SET score = score {change} 0.25 WHERE candidate = ?1 AND seed = ?2");
        assert_eq!(database.execute(&sql, rusqlite::params![candidate, seed]).unwrap(), 1);
    };
    alter("-");
    let found = verify(1, &[]);
    named(&found, &seed.to_string());
    named(&found, "is not what event");
    // Back as it was (a quarter is exact), the run is sound again …
    alter("+");
    verify(0, &[]);
    // … until a source is altered.
    let blob = std::fs::read_dir(home.path("one/blobs")).unwrap().next().unwrap().unwrap().path();
    let mut permissions = std::fs::metadata(&blob).unwrap().permissions();
    #[allow(clippy::permissions_set_readonly_false)]
    permissions.set_readonly(false);
    std::fs::set_permissions(&blob, permissions).unwrap();
    let source = std::fs::read_to_string(&blob).unwrap();
    std::fs::write(&blob, source + " ").unwrap();
    named(&verify(1, &[]), "is corrupt");
}

#[test]
fn a_candidate_trains_to_the_same_bits_with_and_without_the_sandbox() {
    let home = Home::new(&TinyTask::default());
    let line = home.json(0, &["eval", "./task", "--data", "text", "--seed", "7", "--json"]).remove(0);
    let inside: Vec<(String, u64, u64)> = line["metrics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| (m["name"].as_str().unwrap().to_owned(), m["step"].as_u64().unwrap(), bits(&m["value"])))
        .collect();
    assert!(inside.iter().any(|(name, step, _)| name == "train_loss" && *step > 10), "{inside:?}");

    let corpus = corpus::from_dir(&home.path("text"), &Dirs::from_env().unwrap(), &mut |_| ()).unwrap();
    let knobs = [("depth", 1.0), ("head_dim_by_8", 2.0), ("batch_rows", 4.0)];
    let session = NativeSession::start(NativeConfig {
        timed: false,
        threads: 2,
        text: std::fs::read(&corpus.train).unwrap(),
        context: 32,
        seed: 7,
        device_fuel: TinyTask::default().device_fuel,
        knobs: BTreeMap::from(knobs.map(|(name, value)| (name.to_owned(), value))),
        ..NativeConfig::default()
    })
    .unwrap();
    let mut trainer = gpt::native_trainer(7).unwrap();
    trainer.train().unwrap();
    let record = session.record();
    let outside: Vec<(String, u64, u64)> =
        record.metrics.into_iter().map(|(name, step, value)| (name, step, value.to_bits())).collect();
    assert_eq!(outside, inside);
    assert_eq!(record.fuel_used, line["usage"]["device_fuel"].as_u64().unwrap());
}
