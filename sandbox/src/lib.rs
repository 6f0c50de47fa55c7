//! The glass: everything that stands between an untrusted candidate and the
//! machine.
//!
//! This crate owns the host interface (`wit/`), the compile jail, the module
//! gate, metering, code generation in a killable process, and the locked-down
//! worker processes in which candidates run. It knows nothing of evolution:
//! no archives, no scores to beat. It is called by `terrarium-engine` and by
//! whoever embeds it; it calls only `terrarium-kernels`.
//!
//! **Invariant**: a candidate's machine code runs only in a worker process
//! that has locked itself down. There is no in-process shortcut.

mod bubblewrap;
mod cache;
mod cgroup;
pub mod child;
mod codegen;
mod encode;
pub mod evaluation;
pub mod gate;
pub mod isolation;
pub mod jail;
mod landlock_rules;
pub mod limits;
pub mod lockdown;
mod machine;
pub mod meter;
mod namespaces;
pub mod outcome;
pub mod probe;
mod sandbox;
mod text;
pub mod toolchain;
mod wire;
mod worker;

pub use encode::WIT;
pub use evaluation::{
    Evaluation, HeldOut, HeldOutScore, Job, KnobRange, KnobScale, KnobValue, Knobs, Metric, Product, Report,
    Shards, Timing, Usage, World,
};
pub use isolation::{Isolation, IsolationError, Level, Mask};
pub use limits::{LimitError, LimitField, Limits};
pub use outcome::{Diagnostic, Outcome, Phase};
pub use sandbox::{BuildError, BuildTiming, Component, Sandbox, SandboxConfig, SandboxError};
pub use text::clean;
