//! Child processes: the same executable again, in another role.

/// First argument of a child.
pub const MARK: &str = "__terrarium-child";

/// Exit status of a child that could not play its role.
pub const EXIT_FAILED: i32 = 70;

/// Runs the child's role and never returns, if this process was started as
/// one. Call it first in every `main` whose executable a sandbox re-executes.
pub fn run_if_child() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_none_or(|a| a != MARK) {
        return;
    }
    let role = args.next().unwrap_or_default();
    let result = match role.to_str() {
        Some("jail") => crate::jail::child_main(),
        _ => Err(format!("unknown role {role:?}")),
    };
    match result {
        Ok(()) => std::process::exit(0),
        Err(reason) => {
            eprintln!("terrarium child {role:?}: {reason}");
            std::process::exit(EXIT_FAILED);
        }
    }
}
