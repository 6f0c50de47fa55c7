//! Code evolution behind glass: tasks, proposers, search, gates, archive and
//! reports.
//!
//! This crate decides what to try and what to keep. It never touches a device
//! or a wasm engine: everything untrusted goes through `terrarium-sandbox`,
//! behind the trait [`evaluate::Evaluate`].

pub mod archive;
pub mod blobs;
pub mod candidate;
pub mod cli;
pub mod compare;
pub mod corpus;
pub mod diff;
pub mod error;
pub mod evaluate;
pub mod evolve_block;
pub mod export;
#[cfg(test)]
mod fake;
pub mod gate;
pub mod ids;
pub mod ledger;
pub mod mcp;
pub mod observer;
pub mod proposer;
pub mod report;
pub mod run;
pub mod scoring;
pub mod search;
pub mod seeds;
pub mod task;
pub mod verify;

pub use error::EngineError;
