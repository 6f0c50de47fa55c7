//! Code evolution behind glass: tasks, proposers, search, gates, archive and
//! reports.
//!
//! This crate decides what to try and what to keep. It never touches a device
//! or a wasm engine: everything untrusted goes through `terrarium-sandbox`.

pub mod candidate;
pub mod diff;
pub mod evolve_block;
pub mod ids;
pub mod proposer;
pub mod seeds;
pub mod task;
