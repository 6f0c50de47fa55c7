//! What crosses crates: the crate graph, escapes, end to end, peers.
//!
//! The library part holds what several of those tests share. It is used by
//! tests and benches only.

pub mod command;
pub mod corpus;
pub mod cuda_results;
pub mod glass;
pub mod json_schema;
pub mod machine;
pub mod native;
pub mod processes;
