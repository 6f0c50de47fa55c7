//! Work in progress.
pub mod corpus;
