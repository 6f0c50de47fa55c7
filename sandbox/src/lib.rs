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

#![deny(missing_docs)]

mod bubblewrap;
mod cache;
mod cancel;
pub mod child;
mod codegen;
mod encode;
pub mod evaluation;
pub mod gate;
mod host;
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
mod source;
mod text;
pub mod toolchain;
mod wire;
mod worker;

pub use cancel::CancelHandle;
pub use encode::WIT;
pub use evaluation::{
    Evaluation, HeldOut, HeldOutScore, Job, KnobRange, KnobScale, KnobValue, Knobs, Metric, Product, Report,
    Shards, Timing, Usage, World,
};
pub use host::{HostFunctions, MAX_HOST_FUNCTION_NAME, MAX_HOST_FUNCTIONS};
pub use isolation::{Isolation, IsolationError, Level, Mask};
pub use limits::{LimitError, LimitField, Limits};
pub use outcome::{Diagnostic, Outcome, Phase};
pub use sandbox::{
    BuildError, BuildOptions, BuildTiming, CallError, Component, Instance, InstanceOptions, Pending,
    RunOptions, Sandbox, SandboxBuilder, SandboxConfig, SandboxError,
};
pub use source::Source;
/// The compute device, for embedders that register one of their own.
pub use terrarium_kernels as kernels;
pub use text::clean;
