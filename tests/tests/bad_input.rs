//! Wrong command lines, files and folders: each ends with its documented exit
//! code, says `error:` and `hint:` on standard error, and nothing elsewhere.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::OnceLock;

use tempfile::TempDir;
use terrarium_tests::glass::{command, text};

const FAILED: i32 = 1;
const USAGE: i32 = 2;
const CANDIDATE_FAILED: i32 = 3;
const UNAVAILABLE: i32 = 4;

fn run(args: &[&str]) -> Output {
    command(args, &[])
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// Standard error, after checking the exit code and that the output is as a
/// person expects it of an error.
fn refused(output: &Output, exit: i32) -> String {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(exit), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "standard output is for results: {said}");
    assert_eq!(said.lines().filter(|l| l.starts_with("error: ")).count(), 1, "{said}");
    assert_eq!(said.lines().filter(|l| l.starts_with("hint: ")).count(), 1, "{said}");
    assert!(!said.contains("panicked") && !said.contains('\u{1b}'), "{said}");
    said
}

fn is_refused(args: &[&str], exit: i32, parts: &[&str]) {
    let said = refused(&run(args), exit);
    for part in parts {
        assert!(said.contains(part), "{args:?}: no `{part}` in: {said}");
    }
}

fn guest(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("guests").join(name).with_extension("rs").display().to_string()
}

fn template(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-templates").join(name)
}

/// A copy of the circles task, its `task.toml` changed.
fn circles_with(change: impl FnOnce(String) -> String) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = fs::read_to_string(template("circles").join("task.toml")).expect("the template");
    fs::write(folder.path().join("task.toml"), change(text)).expect("written");
    fs::create_dir(folder.path().join("candidate")).expect("made");
    fs::copy(
        template("circles").join("candidate/candidate.rs"),
        folder.path().join("candidate/candidate.rs"),
    )
    .expect("copied");
    folder
}

fn text_of(path: &Path) -> &str {
    path.to_str().expect("a temporary path is UTF-8")
}

#[test]
fn a_wrong_task_file_is_told_by_line_and_column() {
    let cases: [(&str, &str, &[&str]); 6] = [
        ("[budget]", "[budget", &["task.toml:8:", "hint: "]),
        ("fuel = 40_000_000_000", "fuel = \"lots\"", &["task.toml:9:8"]),
        ("wall_ms = 90_000", "wall_ms = 1", &["task.toml:10:", "wall_ms"]),
        ("world = \"function\"", "world = \"moon\"", &["task.toml:4:9", "moon"]),
        ("n = 26", "n = 0", &["task.toml:16:", "1..="]),
        ("candidate/candidate.rs", "../../../etc/passwd", &["task.toml:6:", "does not stay inside"]),
    ];
    for (from, to, parts) in cases {
        let folder = circles_with(|toml| toml.replace(from, to));
        is_refused(&["eval", text_of(folder.path())], USAGE, parts);
        is_refused(&["check", text_of(folder.path())], USAGE, parts);
    }
    let folder = circles_with(|toml| toml.replace("wall_ms", "wall_mss"));
    is_refused(&["run", text_of(folder.path())], USAGE, &["task.toml:10:1", "wall_mss"]);
    let folder = circles_with(|_| String::new());
    is_refused(&["eval", text_of(folder.path())], USAGE, &["task.toml:1:1"]);
}

#[test]
fn missing_files_and_unknown_tasks_are_told() {
    is_refused(&["eval", "no-such-task"], USAGE, &["no-such-task", "circles"]);
    is_refused(&["eval", "./no/such/folder"], USAGE, &["./no/such/folder"]);
    is_refused(&["run", "no-such-task"], USAGE, &["no-such-task"]);
    is_refused(&["eval", "circles", "--source", "/no/such/file.rs"], USAGE, &["/no/such/file.rs"]);
    is_refused(&["check", "circles", "--source", "/"], USAGE, &["not a regular file"]);
    is_refused(&["eval", "circles", "--wasm", "/no/such/file.wasm"], FAILED, &["/no/such/file.wasm"]);
    let folder = circles_with(|toml| toml);
    fs::remove_file(folder.path().join("candidate/candidate.rs")).expect("removed");
    is_refused(&["eval", text_of(folder.path())], USAGE, &["candidate.rs"]);
    let file = folder.path().join("not_text.rs");
    fs::write(&file, [0xff, 0xfe, 0x00]).expect("written");
    is_refused(&["eval", "circles", "--source", text_of(&file)], USAGE, &["not_text.rs"]);
    fs::write(&file, vec![b'/'; 2 << 20]).expect("written");
    is_refused(&["eval", "circles", "--source", text_of(&file)], USAGE, &["larger than"]);
}

#[test]
fn a_folder_without_enough_text_is_no_corpus() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = text_of(folder.path()).to_owned();
    is_refused(&["eval", "gpt", "--data", &data], FAILED, &["holds no files"]);
    fs::write(folder.path().join("one.txt"), "far too short").expect("written");
    is_refused(&["eval", "gpt", "--data", &data], FAILED, &["13 bytes", "1 files"]);
    fs::write(folder.path().join("one.txt"), text(1, 100_000)).expect("written");
    is_refused(&["eval", "gpt", "--data", &data], FAILED, &["1 files"]);
    fs::write(folder.path().join("one.txt"), [0xff; 1000]).expect("written");
    is_refused(&["eval", "gpt", "--data", &data], FAILED, &["UTF-8"]);
    is_refused(&["eval", "gpt", "--data", "/no/such/folder"], FAILED, &["/no/such/folder"]);
    is_refused(&["eval", "circles", "--data", &data], USAGE, &["trains on no data"]);
}

#[test]
fn unknown_knobs_limits_and_values_are_told() {
    is_refused(&["eval", "circles", "--limit", "feul=1000"], USAGE, &["feul", "device_fuel"]);
    is_refused(&["eval", "circles", "--limit", "fuel=many"], USAGE, &["many"]);
    is_refused(&["eval", "circles", "--limit", "wall_ms=1"], USAGE, &["out of range", "ms"]);
    is_refused(&["eval", "circles", "--knob", "hops=NaN"], USAGE, &["NaN"]);
    is_refused(&["eval", "circles", "--knob", "no_such_knob=3"], USAGE, &["no_such_knob", "hops"]);
    is_refused(&["eval", "circles", "--knob", "hops=1000"], USAGE, &["hops", "from 0 to 60"]);
    is_refused(&["eval", "circles", "--knob", "hops=1.5"], USAGE, &["hops", "whole number"]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("run");
    is_refused(
        &["run", "circles", "--proposer", "oracle", "--out", text_of(&out)],
        USAGE,
        &["oracle", "mutate"],
    );
    assert!(!out.exists(), "nothing was made");
}

#[test]
fn a_wrong_command_line_is_usage() {
    for args in [
        &["frobnicate"][..],
        &[],
        &["eval"],
        &["eval", "circles", "--seed", "x"],
        &["eval", "circles", "--seed", "-1"],
        &["eval", "circles", "--limit", "fuel"],
        &["eval", "circles", "--source", "a.rs", "--wasm", "b.wasm"],
        &["run", "circles", "--wall", "5 parsecs"],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(USAGE), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}");
    }
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&help.stdout).contains("Exit codes"));
}

#[test]
fn another_device_is_not_available() {
    for args in [&["eval", "gpt", "--device", "cuda:0"][..], &["run", "gpt", "--device", "cuda:0"]] {
        let said = refused(&run(args), UNAVAILABLE);
        assert!(said.contains("cuda:0") && said.lines().count() == 2, "{said}");
        // What is missing: the driver, a card that will do, or the broker.
        let missing = ["no CUDA driver", "card", "compute capability", "broker"];
        assert!(missing.iter().any(|part| said.contains(part)), "{said}");
    }
}

#[test]
fn a_machine_without_the_target_is_told_so_in_one_line() {
    let empty = tempfile::tempdir().expect("a temporary folder");
    let set: &[(&str, &OsStr)] = &[("TERRARIUM_CACHE", empty.path().as_os_str())];
    let said = refused(&command(&["eval", "circles"], set), UNAVAILABLE);
    assert!(said.contains("terrarium setup") && said.lines().count() == 2, "{said}");
    assert!(refused(&command(&["check", "circles"], set), UNAVAILABLE).contains("terrarium setup"));
    let doctor = command(&["doctor"], set);
    assert_eq!(doctor.status.code(), Some(UNAVAILABLE), "{}", stderr(&doctor));
    let shown = String::from_utf8_lossy(&doctor.stdout);
    assert_eq!(shown.lines().filter(|l| l.starts_with("not ready: ")).count(), 1, "{shown}");
    let said = stderr(&doctor);
    assert!(
        said.starts_with("hint: ") && said.lines().count() == 1 && said.contains("terrarium setup"),
        "{said}"
    );
    let doctor = command(&["doctor", "--json"], set);
    assert_eq!(doctor.status.code(), Some(UNAVAILABLE));
    let object: serde_json::Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
    assert_eq!(object["ready"], false);
}

#[test]
fn a_bad_candidate_is_a_result_with_exit_code_three() {
    let cases = [
        ("endless_loop", "out-of-fuel"),
        ("endless_allocation", "memory-limit"),
        ("reads_a_host_file", "compile-error"),
        ("does_not_compile", "compile-error"),
        ("reverse", "invalid-output"),
    ];
    for (name, code) in cases {
        let output =
            run(&["eval", "circles", "--json", "--limit", "fuel=200000000", "--source", &guest(name)]);
        assert_eq!(output.status.code(), Some(CANDIDATE_FAILED), "{name}: {}", stderr(&output));
        let object: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        assert_eq!(object["outcome"]["code"], code, "{name}: {object}");
        assert!(object["outcome"]["hint"].as_str().is_some_and(|h| !h.is_empty()), "{name}: {object}");
        assert!(object["score"].is_null() && object["schema"] == "terrarium-eval/1", "{name}: {object}");
        // For people: the outcome alone on standard output.
        let output = run(&["eval", "circles", "--limit", "fuel=200000000", "--source", &guest(name)]);
        assert_eq!(output.status.code(), Some(CANDIDATE_FAILED));
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(shown.starts_with(code) && shown.lines().count() == 1, "{name}: {shown}");
        assert!(stderr(&output).lines().any(|l| l.starts_with("hint: ")), "{name}");
    }
}

#[test]
fn circles_that_are_no_packing_are_invalid_output() {
    let source =
        fs::read_to_string(template("circles").join("candidate/candidate.rs")).expect("the template");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let line = source.lines().find(|l| l.contains("let packing = pack(")).expect("the frame");
    for (name, change, reason) in [
        ("short", "packing.circles.pop();", "bytes"),
        ("long", "packing.circles.push(packing.circles[0]);", "bytes"),
        ("overlap", "packing.circles[1] = packing.circles[0];", "overlap"),
        ("nan", "packing.circles[3].r = f64::NAN;", "not finite"),
        ("outside", "packing.circles[3].x = 3.0;", "outside"),
    ] {
        let file = folder.path().join(name).with_extension("rs");
        let cheat = line.replace("let packing", "let mut packing") + change;
        fs::write(&file, source.replace(line, &cheat)).expect("written");
        let output = run(&["eval", "circles", "--json", "--source", text_of(&file)]);
        assert_eq!(output.status.code(), Some(CANDIDATE_FAILED), "{}", stderr(&output));
        let object: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(object["outcome"]["code"], "invalid-output", "{name}: {object}");
        assert!(object["outcome"]["reason"].as_str().is_some_and(|r| r.contains(reason)), "{name}: {object}");
        // The frame is not the candidate's to edit.
        let output = run(&["check", "circles", "--json", "--source", text_of(&file)]);
        assert_eq!(output.status.code(), Some(CANDIDATE_FAILED), "{}", stderr(&output));
        let object: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(
            (&object["ok"], &object["outcome"]["code"]),
            (&false.into(), &"rejected".into()),
            "{object}"
        );
    }
}

/// A finished run, copied for each test that damages it.
fn damaged(damage: impl FnOnce(&Path)) -> TempDir {
    static RUN: OnceLock<TempDir> = OnceLock::new();
    let run_folder = RUN.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let out = folder.path().join("run");
        let task = circles_with(|toml| {
            toml.replace("generation_size = 8", "generation_size = 2")
                .replace("proposers = {", "evals = 30\nproposers = {")
                .replace("race_seeds = 6", "race_seeds = 3")
        });
        let args = [
            "run",
            text_of(task.path()),
            "--out",
            text_of(&out),
            "--generations",
            "1",
            "--proposer",
            "knobs",
            "--json",
        ];
        let output = run(&args);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        folder
    });
    let copy = tempfile::tempdir().expect("a temporary folder");
    copy_folder(&run_folder.path().join("run"), copy.path());
    damage(copy.path());
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir(&target).expect("made");
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

#[test]
fn a_folder_that_is_no_run_is_told() {
    let empty = tempfile::tempdir().expect("a temporary folder");
    for word in ["resume", "verify", "report"] {
        is_refused(&[word, text_of(empty.path())], FAILED, &["holds no run"]);
        is_refused(&[word, "/no/such/run"], FAILED, &["/no/such/run"]);
    }
    let sound = damaged(|_| ());
    is_refused(&["verify", text_of(sound.path()), "--candidate", "ffffffffffff"], USAGE, &["ffffffffffff"]);
    is_refused(&["run", "circles", "--out", text_of(sound.path())], FAILED, &["already holds a run"]);
    fs::write(empty.path().join("mine.txt"), "precious").expect("written");
    is_refused(&["run", "circles", "--out", text_of(empty.path())], FAILED, &["not empty"]);
    assert!(empty.path().join("mine.txt").exists());
}

#[test]
fn a_run_of_another_version_or_a_damaged_one_is_told() {
    let edit = |folder: &Path, from: &str, to: &str| {
        let path = folder.join("run.toml");
        let text = fs::read_to_string(&path).expect("run.toml");
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replacen(from, to, 1)).expect("written");
    };
    let other = damaged(|f| edit(f, "schema = 1", "schema = 99"));
    let broken = damaged(|f| edit(f, "schema = 1", "schema = "));
    let no_archive = damaged(|f| {
        fs::write(
            f.join("terrarium.db"),
            "this is no database, and longer than a header of one is.".repeat(10),
        )
        .expect("written");
    });
    for word in ["resume", "verify", "report"] {
        is_refused(&[word, text_of(other.path())], FAILED, &["version 99", "version 1"]);
        is_refused(&[word, text_of(broken.path())], FAILED, &["run.toml"]);
        is_refused(&[word, text_of(no_archive.path())], FAILED, &["terrarium.db"]);
    }
}

#[test]
fn a_corrupt_blob_is_found() {
    let corrupt = damaged(|folder| {
        for entry in fs::read_dir(folder.join("blobs")).expect("blobs").flatten() {
            let mut bytes = fs::read(entry.path()).expect("a blob");
            bytes[0] ^= 1;
            fs::write(entry.path(), bytes).expect("written");
        }
    });
    let output = run(&["verify", text_of(corrupt.path())]);
    assert_eq!(output.status.code(), Some(FAILED), "{}", stderr(&output));
    let all = String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output);
    assert!(all.contains("corrupt"), "{all}");
    let sound = damaged(|_| ());
    let output = run(&["verify", text_of(sound.path())]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}
