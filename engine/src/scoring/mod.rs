//! Scores, computed by the host from what a candidate produced.

pub mod circles;
