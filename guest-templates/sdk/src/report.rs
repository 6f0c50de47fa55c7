//! What a candidate may say. Bounded by the host, and refused while held-out
//! data is in play.

use crate::host;

/// A line for the evaluation's log.
pub fn log(message: &str) {
    host::log(message);
}

/// A point of a curve, such as the training loss at a step.
pub fn metric(name: &str, step: u64, value: f64) {
    host::metric(name, step, value);
}
