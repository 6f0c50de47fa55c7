//! Attacks from inside a locked-down process, as the user who runs the tests
//! (root too): each must kill it. `levels.rs` has every level, and the proof
//! that the attacks are real.

use std::process::Command;

fn cell(args: &[&str]) -> (i32, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_terrarium-cell")).args(args).output().expect("the cell starts");
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn attacks() -> Vec<String> {
    let names = cell(&["list"]).1;
    // These need no call: an empty environment, nothing, and a wait.
    let quiet = ["nothing", "key-in-environment", "linger"];
    names.lines().filter(|name| !quiet.contains(name)).map(str::to_owned).collect()
}

#[test]
fn a_locked_down_process_is_killed_at_the_first_call_that_it_does_not_need() {
    let attacks = attacks();
    assert!(attacks.len() > 35, "{attacks:?}");
    for process in ["worker", "codegen"] {
        assert_eq!(cell(&["attack", process, "namespaces/", "nothing"]), (0, "locked down\n".into()));
        for name in &attacks {
            let (code, said) = cell(&["attack", process, "namespaces/", name]);
            assert!(said.contains("locked down"), "{process} {name}: {code}");
            assert_eq!(code, 128 + libc::SIGSYS, "{process}: {name}");
        }
    }
}

#[test]
fn files_are_out_of_reach_even_without_the_call_filter() {
    for name in ["read-passwd", "write-outside", "own-memory-file", "execute", "memfd-execute"] {
        let (code, said) = cell(&["attack", "worker", "none/seccomp", name, "folder=/tmp"]);
        assert_eq!((code, said.as_str()), (1, "locked down\n"), "{name}");
    }
    assert!(!std::path::Path::new("/tmp/planted").exists());
}
