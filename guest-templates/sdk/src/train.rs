//! The training loop, and what most language models do around it.

use crate::budget;
use crate::error::Result;
use crate::report;
use crate::tape::{Graph, Tape, Var};
use crate::tensor::Tensor;

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

/// As [`until_budget_used`], with reports: the metric `train_loss` (the sum of
/// `loss`) every `every` steps and at the end, then `steps` and `step_fuel`.
pub fn reported(
    graph: &Graph,
    loss: &Tensor,
    every: u64,
    before: &mut dyn FnMut(Step) -> Result<()>,
) -> Result<u64> {
    let tell = |step: u64| -> Result<()> {
        let sum: f32 = loss.to_vec()?.iter().sum();
        report::metric("train_loss", step, sum.into());
        Ok(())
    };
    let mut finished = 0;
    let steps = until_budget_used(graph, &mut |step| {
        if finished > 0 && finished % every.max(1) == 0 {
            tell(finished)?;
        }
        finished = step.number;
        before(step)
    })?;
    if steps > 0 {
        tell(steps)?;
    }
    report::metric("steps", steps, steps as f64);
    report::metric("step_fuel", steps, graph.cost() as f64);
    Ok(steps)
}

/// Answers `forward`: one graph for each shape of tokens that was met.
#[derive(Default)]
pub struct Predictors {
    known: Vec<Predictor>,
}

struct Predictor {
    tokens: Tensor,
    logits: Tensor,
    graph: Graph,
}

impl Predictors {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes the logits of `tokens` (int32 `[B,T]`) to `logits`, which has
    /// as many elements as what `model` makes of the tokens on a tape.
    pub fn answer(
        &mut self,
        tokens: &Tensor,
        logits: &Tensor,
        model: &dyn Fn(&mut Tape, Var) -> Result<Var>,
    ) -> Result<()> {
        let known = self.known.iter().position(|p| p.tokens.shape() == tokens.shape());
        let at = match known {
            Some(at) => at,
            None => {
                let input = Tensor::zeros_int(tokens.shape())?;
                let output = Tensor::zeros(logits.shape())?;
                let mut t = Tape::inference();
                let var = t.input(&input);
                let z = model(&mut t, var)?;
                t.store(z, &output)?;
                self.known.push(Predictor { tokens: input, logits: output, graph: t.record()? });
                self.known.len() - 1
            }
        };
        let predictor = &self.known[at];
        predictor.tokens.copy_from(tokens)?;
        predictor.graph.replay()?;
        logits.copy_from(&predictor.logits)
    }
}
