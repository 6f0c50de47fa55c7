//! Stochastic gradient descent with momentum.

use super::{Optimizer, required_gradient, rows_of};
use crate::error::Result;
use crate::rowkernel::{Kernel, Layout};
use crate::tape::Tape;
use crate::tensor::Tensor;

/// Settings of [`Sgd`].
#[derive(Clone, Copy, Debug)]
pub struct SgdConfig {
    /// Learning rate.
    pub rate: f64,
    /// Decay of the velocity, 0 (none) to 1.
    pub momentum: f64,
    /// Decoupled weight decay; each step takes rate·decay·param away.
    pub weight_decay: f64,
}

/// velocity = momentum·velocity + gradient; param -= rate·velocity.
/// One number of state and five moved for each parameter.
///
/// ```no_run
/// # use terrarium_sdk::{Result, Tape, Tensor, optim::*};
/// # fn f(t: &mut Tape, params: &[Tensor]) -> Result<()> {
/// let mut optimizer = Sgd::new(params, SgdConfig { rate: 0.1, momentum: 0.9, weight_decay: 0.0 })?;
/// optimizer.emit(t)?; // after t.backward(loss)
/// optimizer.prepare(1, 1.0)?; // before each replay: the step, the schedule's factor
/// # Ok(()) }
/// ```
pub struct Sgd {
    config: SgdConfig,
    /// Rate, momentum, weight decay.
    hyper: Tensor,
    members: Vec<(Tensor, Tensor)>,
}

impl Sgd {
    /// An optimizer of `params`, at rest.
    pub fn new(params: &[Tensor], config: SgdConfig) -> Result<Self> {
        let member = |p: &Tensor| Ok((p.clone(), Tensor::zeros(p.shape())?));
        Ok(Self {
            config,
            hyper: Tensor::zeros(&[3])?,
            members: params.iter().map(member).collect::<Result<_>>()?,
        })
    }
}

impl Optimizer for Sgd {
    fn emit(&mut self, tape: &mut Tape) -> Result<()> {
        let hyper = tape.bind(&self.hyper);
        let scalar = |tape: &mut Tape, i: u64| tape.view(hyper, i, &[1]);
        let (rate, momentum, decay) = (scalar(tape, 0)?, scalar(tape, 1)?, scalar(tape, 2)?);
        for (param, velocity) in &self.members {
            let grad = required_gradient(tape, param)?;
            let (rows, cols) = rows_of(param)?;
            let (p, v) = (tape.bind(param), tape.bind(velocity));
            let k = Kernel::new(cols);
            let [ep, ev, eg] = [(); 3].map(|()| k.input(Layout::Element));
            let [er, em, ed] = [(); 3].map(|()| k.input(Layout::Scalar));
            let moved = em * ev + eg;
            let next = ep - er * (moved + ed * ep);
            tape.emit_kernel(
                &k,
                rows,
                &[p, v, grad, rate, momentum, decay],
                &[(moved, v, Layout::Element), (next, p, Layout::Element)],
            )?;
        }
        Ok(())
    }

    fn prepare(&mut self, _step: u64, rate: f64) -> Result<()> {
        let c = &self.config;
        self.hyper.upload(&[(c.rate * rate) as f32, c.momentum as f32, c.weight_decay as f32])
    }
}
