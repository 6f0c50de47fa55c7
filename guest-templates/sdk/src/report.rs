//! What a candidate may say. Bounded by the host, and refused while held-out
//! data is in play.

use crate::host;

/// A line for the evaluation's log.
pub fn log(message: &str) {
    host::log(message);
}

/// A point of a curve, such as the training loss at a step.
/// ```no_run
/// # use terrarium_sdk::{Result, Tensor, report};
/// # fn f(step: u64, loss: &Tensor) -> Result<()> {
/// if step % 20 == 0 {
///     report::metric("train_loss", step, loss.scalar()?.into());
/// }
/// # Ok(()) }
/// ```
///
/// Costs no device fuel; reading the value costs its bytes. Metrics beyond the
/// task's limit are dropped.
pub fn metric(name: &str, step: u64, value: f64) {
    host::metric(name, step, value);
}
