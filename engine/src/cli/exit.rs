//! Exit codes. They are part of the interface: scripts may rely on them.

/// It worked.
pub const OK: i32 = 0;
/// It did not; the reason is on standard error.
pub const FAILED: i32 = 1;
/// The command line is wrong.
pub const USAGE: i32 = 2;
/// The candidate was evaluated and did not finish; the outcome is on standard
/// output.
pub const CANDIDATE_FAILED: i32 = 3;
/// The sandbox or the device is not available on this machine.
pub const UNAVAILABLE: i32 = 4;
/// Interrupted; a run can be resumed.
pub const INTERRUPTED: i32 = 130;
