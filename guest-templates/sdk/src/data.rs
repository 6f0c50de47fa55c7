//! Batches of the train split, drawn by the host.

use crate::error::Result;
use crate::host;
use crate::tensor::Tensor;

/// What the task's data is like.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    /// Tokens are 0..vocabulary.
    pub vocabulary: u32,
    /// Sequence length of the held-out evaluation.
    pub context: u32,
    /// Tokens in the train split.
    pub train_tokens: u64,
}

/// What the task's data is like.
pub fn describe() -> Info {
    let info = host::describe();
    Info { vocabulary: info.vocabulary, context: info.context, train_tokens: info.train_tokens }
}

/// Fills `tokens` and `targets` (int32 `[B,T]`) with the next batch;
/// `targets[b,t]` is the token after `tokens[b,t]`. Which windows come is
/// fixed by the evaluation's seed.
/// ```no_run
/// # use terrarium_sdk::{Result, Tensor, data};
/// # fn f() -> Result<()> {
/// let (rows, context) = (8, data::describe().context);
/// let (tokens, targets) = (Tensor::zeros_int(&[rows, context])?, Tensor::zeros_int(&[rows, context])?);
/// data::next_batch(&tokens, &targets)?;
/// # Ok(()) }
/// ```
///
/// Costs 8 units of device fuel a token. Refused during `forward`.
pub fn next_batch(tokens: &Tensor, targets: &Tensor) -> Result<()> {
    host::next_batch(tokens.raw(), targets.raw())
}
