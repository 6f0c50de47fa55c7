//! Attacks from inside a locked-down process: each must be refused or kill it.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

fn attack(layers: &str, name: &str) -> (ExitStatus, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_terrarium-cell"))
        .args(["attack", layers, name])
        .output()
        .expect("the cell starts");
    (output.status, String::from_utf8_lossy(&output.stdout).into_owned())
}

const CALLS: &[&str] = &[
    "read-file",
    "write-file",
    "list-root",
    "own-memory",
    "execute",
    "connect",
    "socket",
    "fork",
    "thread",
    "map-executable",
    "make-executable",
    "signal-parent",
    "trace",
    "io-uring",
    "raise-limits",
    "write-beyond",
];

#[test]
fn a_worker_is_killed_at_the_first_call_that_it_does_not_need() {
    for name in CALLS {
        let (status, said) = attack("all", name);
        assert!(said.contains("locked down"), "{name}: {status}");
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{name}: {status}");
    }
}

#[test]
fn the_compiling_process_too() {
    for name in CALLS {
        let (status, _) = attack("codegen", name);
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{name}: {status}");
    }
}

#[test]
fn files_are_out_of_reach_even_without_the_call_filter() {
    for name in ["read-file", "write-file", "list-root", "own-memory", "execute"] {
        let (status, _) = attack("files", name);
        assert_eq!(status.code(), Some(1), "{name}: {status}");
    }
    assert!(!std::path::Path::new("/tmp/terrarium-attack").exists());
}

/// The attacks are real: without layers in their way they succeed.
#[test]
fn an_attack_that_is_allowed_succeeds() {
    let (status, _) = attack("all", "nothing");
    assert_eq!(status.code(), Some(0), "{status}");
    for name in ["thread", "map-executable", "make-executable", "socket", "write-beyond"] {
        let (status, _) = attack("files", name);
        assert_eq!(status.code(), Some(0), "{name}: {status}");
    }
}
