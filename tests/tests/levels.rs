//! Levels of isolation from the command's side, and what a worker that is at
//! work really has.

use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::process::Output;

use serde_json::Value;
use terrarium_sandbox::World;
use terrarium_tests::glass::{call, command, guest, sandbox, template};
use terrarium_tests::json_schema::Schema;

fn with(mask: &str, args: &[&str]) -> Output {
    command(args, &[("TERRARIUM_MASK", OsStr::new(mask))])
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The circles template with another text, so that nothing is cached.
fn fresh_source(mark: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".rs").tempfile().expect("a file");
    let text = format!("{}\n// {mark} {}\n", template("circles"), std::process::id());
    std::fs::write(&file, text).expect("write");
    file
}

#[test]
fn a_candidate_is_compiled_and_run_at_every_level() {
    let mut scores = Vec::new();
    for (mask, more) in [
        ("", &["--require-isolation", "full"][..]),
        ("namespaces", &["--require-isolation", "strong"]),
        ("namespaces,landlock:1", &["--require-isolation", "strong"]),
        ("landlock", &[]),
        ("landlock,namespaces", &[]),
        ("landlock,namespaces,bubblewrap", &["--require-isolation", "minimal"]),
        ("landlock,namespaces,bubblewrap,seccomp", &["--allow-unjailed"]),
    ] {
        let source = fresh_source(mask);
        let path = source.path().display().to_string();
        let args = [&["eval", "circles", "--json", "--source", &path][..], more].concat();
        let output = with(mask, &args);
        let said = stderr(&output);
        if output.status.code() == Some(4) && said.contains("is required, this machine reaches") {
            eprintln!("not tried here: {mask}: {said}");
            continue;
        }
        assert_eq!(output.status.code(), Some(0), "{mask}: {said}");
        let weak = mask.contains("bubblewrap");
        assert_eq!(said.contains("warning: isolation is only"), weak, "{mask}: {said}");
        let object: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        scores.push(object["score"].as_f64().expect("a score"));
    }
    assert!(scores.len() >= 2, "too few levels on this machine");
    assert!(scores.iter().all(|score| score == &scores[0]), "{scores:?}");
}

#[test]
fn a_machine_below_the_required_level_is_refused_in_one_line_with_one_hint() {
    let nothing = "landlock,namespaces,bubblewrap";
    for (mask, args) in [
        ("landlock", &["eval", "circles", "--require-isolation", "strong"][..]),
        ("landlock:5", &["check", "circles", "--require-isolation", "full"]),
        ("seccomp", &["run", "circles", "--require-isolation", "minimal"]),
        ("seccomp", &["bench", "sandbox", "--require-isolation", "minimal"]),
        (nothing, &["eval", "circles"]),
        (nothing, &["run", "circles"]),
    ] {
        let output = with(mask, args);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(4), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 2, "{args:?}: {said}");
        assert!(said.starts_with("error: isolation `") && said.contains("\nhint: "), "{args:?}: {said}");
        assert!(output.stdout.is_empty());
    }
    let set =
        [("TERRARIUM_MASK", OsStr::new("landlock:5")), ("TERRARIUM_REQUIRE_ISOLATION", OsStr::new("full"))];
    assert_eq!(command(&["check", "circles"], &set).status.code(), Some(4));
    // The command line goes before the environment.
    assert_eq!(command(&["check", "circles", "--require-isolation", "minimal"], &set).status.code(), Some(0));
    // Words that mean nothing are a usage error, not a weaker setting.
    assert_eq!(with("landlok", &["check", "circles"]).status.code(), Some(2));
    assert_eq!(with("", &["check", "circles", "--require-isolation", "strict"]).status.code(), Some(2));
    let set = [("TERRARIUM_REQUIRE_ISOLATION", OsStr::new("strict"))];
    assert_eq!(command(&["check", "circles"], &set).status.code(), Some(2));
}

#[test]
fn the_doctor_reports_the_masked_level_and_fits_its_schema() {
    let schema = Schema::named("doctor");
    for (mask, at_most) in
        [("", "full"), ("landlock:5", "strong"), ("landlock,namespaces,bubblewrap", "minimal")]
    {
        let output = with(mask, &["doctor", "--json"]);
        let object: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        schema.check(&object).unwrap_or_else(|e| panic!("{e}\n{object:#}"));
        let order = ["none", "minimal", "namespaces", "strong", "full"];
        let place = |name: &str| order.iter().position(|level| *level == name).expect("a level");
        let level = object["level"].as_str().expect("a level");
        assert!(place(level) <= place(at_most), "{mask}: {level}");
        let ready = place(level) >= place("namespaces");
        assert_eq!(object["ready"], ready, "{object:#}");
        assert_eq!(output.status.code(), Some(if ready { 0 } else { 4 }));
        // For people: every layer that is not on has a reason.
        let shown = String::from_utf8_lossy(&with(mask, &["doctor"]).stdout).into_owned();
        assert!(shown.contains(&format!("level  {level} (required: namespaces)")), "{shown}");
    }
}

/// An engine with a key in its environment and an open file that it forgot.
#[test]
fn a_worker_has_no_key_no_descriptor_and_no_rights() {
    const KEY: &str = "TERRARIUM_TEST_API_KEY";
    if std::env::var_os(KEY).is_none() {
        let status = std::process::Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "a_worker_has_no_key_no_descriptor_and_no_rights"])
            .env(KEY, "sk-planted")
            .status()
            .expect("started");
        assert!(status.success());
        return;
    }
    let mut secret = tempfile::tempfile().expect("a file");
    std::io::Write::write_all(&mut secret, b"sk-planted").expect("write");
    rustix::io::fcntl_setfd(&secret, rustix::io::FdFlags::empty()).expect("no CLOEXEC");
    assert!(secret.as_raw_fd() > 2);
    call(&guest("reverse", World::Function), b"abc");
    let workers = sandbox().idle_workers();
    assert!(!workers.is_empty());
    for pid in workers {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_default().trim().to_owned()
        };
        assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"), "{status}");
        // Every thread, not only the first.
        for thread in std::fs::read_dir(format!("/proc/{pid}/task")).expect("its threads").flatten() {
            let text = std::fs::read_to_string(thread.path().join("status")).expect("its status");
            assert!(text.contains("Seccomp:\t2"), "{text}");
            assert!(text.contains("CapEff:\t0000000000000000"), "{text}");
        }
        // Not dumpable: these belong to root now.
        if rustix::process::geteuid().is_root() {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).expect("its environment");
            assert_eq!(String::from_utf8_lossy(&environment), "");
            let open: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/fd"))
                .expect("its descriptors")
                .flatten()
                .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
                .collect();
            let more: Vec<_> = open
                .iter()
                .filter(|number| **number > 2)
                .map(|number| std::fs::read_link(format!("/proc/{pid}/fd/{number}")))
                .collect();
            // Only what wasmtime opened itself: memory images of the component.
            for target in more.into_iter().flatten() {
                assert!(target.to_string_lossy().contains("memfd:"), "{target:?}");
            }
        } else {
            assert!(std::fs::read(format!("/proc/{pid}/environ")).is_err());
        }
    }
}
