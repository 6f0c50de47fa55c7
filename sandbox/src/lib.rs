//! Work in progress.

pub mod gate;
pub mod meter;
