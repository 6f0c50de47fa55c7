//! What a candidate is written against.
//!
//! A candidate is one Rust source file. This crate gives it tensors on the
//! host's device ([`Tensor`]), a tape that turns model code into a recorded
//! training step with gradients ([`Tape`]), row kernels for activations and
//! losses of its own ([`rowkernel`]), optimizers ([`optim`]), learning-rate
//! schedules ([`schedule`]), named tunables ([`knobs`]), and the macros that
//! make it a program of the host's: [`export_trainer!`] and
//! [`export_function!`].
//!
//! **Invariants.** Nothing here trusts or checks the host: the host checks
//! everything again. The interface itself is defined in `sandbox/wit` only;
//! [`bindings`] is generated from it. On native targets the module `native`
//! (not there on WebAssembly) takes the host's place for tests and benches.

pub mod bindings;
pub mod budget;
pub mod data;
mod error;
mod export;
mod host;
mod host_call;
pub mod interior_point;
pub mod knobs;
#[cfg(not(target_arch = "wasm32"))]
pub mod native;
pub mod optim;
pub mod report;
pub mod rowkernel;
pub mod schedule;
pub mod tape;
mod tensor;
pub mod train;

pub use error::{Error, ErrorKind, Result};
#[cfg(target_arch = "wasm32")]
pub use export::log_panics;
pub use export::{Function, Trainer};
pub use host_call::{HostCallError, host_call};
pub use tape::{Graph, Slot, Tape, Var};
pub use tensor::{Distribution, Dtype, Tensor, elements};
