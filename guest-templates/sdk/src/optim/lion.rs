//! Lion: the sign of an interpolated momentum (Chen et al. 2023, arXiv
//! 2302.06675).

use super::{Optimizer, required_gradient, rows_of};
use crate::error::Result;
use crate::rowkernel::{Kernel, Layout};
use crate::tape::Tape;
use crate::tensor::Tensor;

/// Settings of [`Lion`].
#[derive(Clone, Copy, Debug)]
pub struct LionConfig {
    /// Learning rate; three to ten times smaller than AdamW's.
    pub rate: f64,
    /// Weight of the momentum in the step's direction, 0 to 1.
    pub beta1: f64,
    /// Decay of the momentum, 0 to 1.
    pub beta2: f64,
    /// Decoupled weight decay; each step takes rate·decay·param away.
    pub weight_decay: f64,
}

impl Default for LionConfig {
    fn default() -> Self {
        Self { rate: 1e-4, beta1: 0.9, beta2: 0.99, weight_decay: 0.0 }
    }
}

/// param -= rate·(sign(β₁m + (1-β₁)g) + decay·param); m = β₂m + (1-β₂)g. Keeps
/// one tensor of state for each parameter; a step reads three numbers and
/// writes two for each element.
/// ```no_run
/// # use terrarium_sdk::{Result, Tape, Tensor, optim::*};
/// # fn f(t: &mut Tape, params: &[Tensor]) -> Result<()> {
/// let mut optimizer = Lion::new(params, LionConfig { rate: 3e-4, ..LionConfig::default() })?;
/// optimizer.emit(t)?; // after t.backward(loss)
/// optimizer.prepare(1, 1.0)?; // before each replay: the step, the schedule's factor
/// # Ok(()) }
/// ```
pub struct Lion {
    config: LionConfig,
    /// Rate, beta1, 1 - beta1, beta2, 1 - beta2, rate·decay.
    hyper: Tensor,
    members: Vec<(Tensor, Tensor)>,
}

impl Lion {
    /// An optimizer of `params`, with momentum zero.
    pub fn new(params: &[Tensor], config: LionConfig) -> Result<Self> {
        let member = |p: &Tensor| Ok((p.clone(), Tensor::zeros(p.shape())?));
        Ok(Self {
            config,
            hyper: Tensor::zeros(&[6])?,
            members: params.iter().map(member).collect::<Result<_>>()?,
        })
    }
}

impl Optimizer for Lion {
    fn emit(&mut self, tape: &mut Tape) -> Result<()> {
        let hyper = tape.bind(&self.hyper);
        let mut scalars = Vec::new();
        for i in 0..6 {
            scalars.push(tape.view(hyper, i, &[1])?);
        }
        for (param, momentum) in &self.members {
            let grad = required_gradient(tape, param)?;
            let (rows, cols) = rows_of(param)?;
            let (p, m) = (tape.bind(param), tape.bind(momentum));
            let k = Kernel::new(cols);
            let [ep, em, eg] = [(); 3].map(|()| k.input(Layout::Element));
            let [rate, b1, r1, b2, r2, decay] = [(); 6].map(|()| k.input(Layout::Scalar));
            let way = b1 * em + r1 * eg;
            let sign = way.step() - (-way).step();
            let next = ep - (rate * sign + decay * ep);
            let moved = b2 * em + r2 * eg;
            let mut inputs = vec![p, m, grad];
            inputs.extend(&scalars);
            let stores = [(next, p, Layout::Element), (moved, m, Layout::Element)];
            tape.emit_kernel(&k, rows, &inputs, &stores)?;
        }
        Ok(())
    }

    fn prepare(&mut self, _step: u64, rate: f64) -> Result<()> {
        let c = &self.config;
        let lr = c.rate * rate;
        let values = [lr, c.beta1, 1.0 - c.beta1, c.beta2, 1.0 - c.beta2, lr * c.weight_decay];
        self.hyper.upload(&values.map(|v| v as f32))
    }
}
