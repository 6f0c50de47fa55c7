//! The one door by which a launcher becomes a child of the sandbox.
//!
//! Everything dangerous runs in a process of its own, and that process is this
//! same program, started again with [`MARKER`] as its first argument. Every
//! `main` that may be a launcher calls [`run_if_child`] as its first line,
//! while the process still has one thread.

use std::ffi::OsString;

/// First argument of a re-executed launcher.
pub const MARKER: &str = "__terrarium-child";

/// Exit code of a child that could not become what it was asked to be. What
/// went wrong is the last line of its stderr, after [`SETUP_FAILED_PREFIX`].
pub const SETUP_FAILED: i32 = 120;

/// How a child names its set-up failure on stderr.
pub const SETUP_FAILED_PREFIX: &str = "terrarium-child: ";

/// Does nothing in an ordinary start. In a re-executed child it runs the role
/// named by the second argument and never returns.
///
/// Call it before any thread is started: the child drops rights for its one
/// thread only.
pub fn run_if_child() {
    let mut args = std::env::args_os();
    let _program = args.next();
    if args.next().is_none_or(|first| first != MARKER) {
        return;
    }
    let role = args.next().unwrap_or_default();
    let rest: Vec<OsString> = args.collect();
    match role.to_str() {
        Some("jail") => crate::jail::child_main(&rest),
        Some("jail-probe") => crate::jail::probe_child_main(),
        _ => fail(&format!("no such role: {}", role.to_string_lossy())),
    }
}

/// Reports a set-up failure to the parent and ends the process.
pub(crate) fn fail(message: &str) -> ! {
    eprintln!("{SETUP_FAILED_PREFIX}{message}");
    std::process::exit(SETUP_FAILED)
}
