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
//!
//! # A tour
//!
//! ```no_run
//! use terrarium_sandbox::{Evaluation, Limits, Product, Sandbox, Source, World};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // This executable is started again for each child process.
//!     terrarium_sandbox::child::run_if_child();
//!
//!     let sandbox = Sandbox::builder().workers(4).build()?;
//!     let source = std::fs::read_to_string("candidate.rs")?;
//!     let component = sandbox.compile(Source::Rust(&source), World::Function)?;
//!     let limits = Limits { fuel: 100_000_000, wall_ms: 1_000, ..Limits::default() };
//!     let report = sandbox.run(&component, &Evaluation::call("input").with_limits(limits))?;
//!     if let Some(Product::Output(bytes)) = report.product {
//!         println!("{} bytes, fuel {:?}", bytes.len(), report.usage.fuel);
//!     }
//!     Ok(())
//! }
//! ```
//!
//! * [`Sandbox::builder`] sets up a [`Sandbox`]; it is shared between threads.
//! * [`Sandbox::compile`] makes a [`Component`] of a [`Source`]; what does not
//!   compile, or is refused, is a [`BuildError::Candidate`] with its [`Outcome`].
//! * [`Sandbox::run`] is one [`Evaluation`] in a fresh store and answers with a
//!   [`Report`]; [`Sandbox::run_with`] adds log lines as they come,
//!   [`HostFunctions`] and a [`CancelHandle`]; [`Sandbox::run_many`] is fast for
//!   many short ones.
//! * [`Sandbox::instance`] is an [`Instance`] that keeps its memory from call
//!   to call.
//! * [`Sandbox::run_async`] and its like are futures of any executor.
//! * [`Limits`] bound all of it; [`Outcome`] says how it ended;
//!   [`SandboxError`] means that the host is in trouble, not the candidate.
//! * [`broker`] lends one device to the workers of many processes and users.
//! * [`child::run_if_child_with`] registers devices of the embedder's own.
//!
//! Longer: `docs/embedding.md`. Whole programs: `sandbox/examples/`.

#![deny(missing_docs)]

mod ahead;
pub mod broker;
mod bubblewrap;
mod cache;
mod cancel;
mod cgroup;
pub mod child;
mod codegen;
pub mod device;
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
    Shards, StepTime, Timing, Usage, World, token_width,
};
pub use host::{HostFunctions, MAX_HOST_FUNCTION_NAME, MAX_HOST_FUNCTIONS};
pub use isolation::{Isolation, IsolationError, Level, Mask};
pub use limits::{LimitError, LimitField, Limits};
pub use outcome::{Diagnostic, Outcome, Phase};
pub use sandbox::{
    BuildError, BuildOptions, BuildTiming, CallError, Component, Instance, InstanceOptions, OnLog, Pending,
    RunOptions, Sandbox, SandboxBuilder, SandboxConfig, SandboxError,
};
pub use source::Source;
/// The compute device, for embedders that register one of their own.
pub use terrarium_kernels as kernels;
pub use text::{clean, is_hidden};
