//! Optimizers. Each appends its update to the tape after the gradients, so
//! that the whole step is one graph, and keeps the numbers that change from
//! step to step (rates, bias corrections) in a small tensor that
//! [`Optimizer::prepare`] uploads before each replay.

mod adamw;
mod gradients;
mod lion;
mod muon;
mod sgd;

use crate::error::{Error, Result};
use crate::tape::{Slot, Tape};
use crate::tensor::Tensor;

pub use adamw::{AdamW, AdamWConfig};
pub use gradients::{Accumulator, clip_gradients};
pub use lion::{Lion, LionConfig};
pub(crate) use muon::orthogonalize;
pub use muon::{Muon, MuonConfig, POLAR_EXPRESS};
pub use sgd::{Sgd, SgdConfig};

/// A rule that updates parameters from their gradients.
pub trait Optimizer {
    /// Appends the update of this optimizer's parameters. Call it once, after
    /// [`Tape::backward`].
    fn emit(&mut self, tape: &mut Tape) -> Result<()>;

    /// Uploads what changes: `step` counts from 1, `rate` is the schedule's
    /// factor on the learning rate.
    fn prepare(&mut self, step: u64, rate: f64) -> Result<()>;
}

/// The gradient of a parameter that must have one.
fn required_gradient(tape: &mut Tape, param: &Tensor) -> Result<Slot> {
    tape.gradient_of(param)?.ok_or_else(|| {
        Error::invalid(format!(
            "a parameter of shape {:?} has no gradient: the loss does not depend on it",
            param.shape()
        ))
    })
}

/// (rows, cols) of a parameter: cols is its last dimension.
fn rows_of(param: &Tensor) -> Result<(u32, u32)> {
    let cols = param.shape().last().copied().unwrap_or(1).max(1);
    let rows =
        u32::try_from(param.len() / u64::from(cols)).map_err(|_| Error::shape("more than 2³² rows"))?;
    Ok((rows, cols))
}
