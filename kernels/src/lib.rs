//! The compute device of Terrarium.
//!
//! This crate owns tensors, the typed operations on them, the one validator
//! through which every operation passes, its price in device fuel, and a CPU
//! backend. The sandbox calls it on behalf of guests, with arguments that
//! guests chose: any argument is answered with a result or a typed [`Error`],
//! never with a panic, and no operation touches memory that is not its own.
//!
//! It never knows of WebAssembly, evaluates no candidate, reads no file and
//! no clock. It decides nothing about budgets: it says what work costs
//! ([`Graph::cost`]) before the work is done.
//!
//! Results are bit-identical for any number of threads and across runs, on
//! the same kind of device: for the CPU that is the build, the CPU model (the
//! vector instructions found at run time, and the cache sizes by which the
//! matrix products are blocked) and the system's mathematics library.

mod account;
mod bf16;
pub mod cost;
mod cpu;
mod cuda;
mod device;
mod error;
mod graph;
mod kind;
mod op;
mod pages;

pub mod reference;
pub mod remote;
mod row_kernel;
mod shape;
mod step;
mod storage;
mod table;
mod validate;

pub use account::AccountLine;
pub use device::{CpuConfig, CudaConfig, Device, DeviceUsage};
pub use error::{Error, ErrorCode};
pub use graph::{Graph, OpTime, ProfileLine};
pub use kind::{cpu_kind, warm_up};
pub use op::*;
pub use row_kernel::{MAX_INPUTS, MAX_NODES, MAX_ROW_VALUES, MAX_STORES};
pub use table::MAX_RANK;
pub use validate::{MAX_GRAPH_NODES, MAX_OPS};
