//! The training loop.

use crate::budget;
use crate::error::Result;
use crate::tape::Graph;

/// Where training stands before a step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The step's number, from 1.
    pub number: u64,
    /// Share of the budget that is used, 0 to 1.
    pub progress: f64,
}

/// Replays `graph` until the budget does not cover another step, and returns
/// how many steps were made. `before` prepares each step: it draws the batch
/// and uploads learning rates. Running out of budget is the end, not an error.
/// ```no_run
/// # use terrarium_sdk::{Graph, Result, Tensor, data, optim::Optimizer, schedule::Schedule, train};
/// # fn f(step: &Graph, optimizer: &mut dyn Optimizer, [tokens, targets]: [&Tensor; 2]) -> Result<()> {
/// let made = train::until_budget_used(step, &mut |now| {
///     optimizer.prepare(now.number, Schedule::CONSTANT.at(now.progress))?;
///     data::next_batch(tokens, targets)
/// })?;
/// # let _ = made; Ok(()) }
/// ```
pub fn until_budget_used(graph: &Graph, before: &mut dyn FnMut(Step) -> Result<()>) -> Result<u64> {
    let mut done = 0;
    loop {
        let now = budget::get();
        if now.device_fuel_left < graph.cost() || now.progress >= 1.0 {
            return Ok(done);
        }
        let step = Step { number: done + 1, progress: now.progress };
        match before(step).and_then(|()| graph.replay()) {
            Ok(()) => done += 1,
            Err(error) if error.is_budget_exhausted() => return Ok(done),
            Err(error) => return Err(error),
        }
    }
}
