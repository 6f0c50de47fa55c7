//! AdamW: Adam with decoupled weight decay (Loshchilov & Hutter 2019).

use super::{Optimizer, required_gradient};
use crate::bindings::trainer::terrarium::guest::compute::{self, Op};
use crate::error::{Error, Result};
use crate::tape::Tape;
use crate::tensor::Tensor;

/// Settings of [`AdamW`].
#[derive(Clone, Copy, Debug)]
pub struct AdamWConfig {
    /// Learning rate.
    pub rate: f64,
    /// Decay of the mean of the gradient, 0 to 1.
    pub beta1: f64,
    /// Decay of the mean of its square, 0 to 1.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay; each step takes rate·decay·param away.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { rate: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0 }
    }
}

/// AdamW over a group of parameters with the same settings.
/// Two numbers of state, 20 flops and seven numbers moved for each parameter.
///
/// ```no_run
/// # use terrarium_sdk::{Result, Tape, Tensor, optim::*};
/// # fn f(t: &mut Tape, params: &[Tensor]) -> Result<()> {
/// let mut optimizer = AdamW::new(params, AdamWConfig { rate: 3e-3, ..AdamWConfig::default() })?;
/// optimizer.emit(t)?; // after t.backward(loss)
/// optimizer.prepare(1, 1.0)?; // before each replay: the step, the schedule's factor
/// # Ok(()) }
/// ```
pub struct AdamW {
    config: AdamWConfig,
    hyper: Tensor,
    members: Vec<Member>,
    emitted: bool,
}

struct Member {
    param: Tensor,
    first: Tensor,
    second: Tensor,
    rounded: Option<Tensor>,
}

impl AdamW {
    /// An optimizer of `params`, with moments of zero.
    pub fn new(params: &[Tensor], config: AdamWConfig) -> Result<Self> {
        let member = |param: &Tensor| {
            Ok(Member {
                param: param.clone(),
                first: Tensor::zeros(param.shape())?,
                second: Tensor::zeros(param.shape())?,
                rounded: None,
            })
        };
        Ok(Self {
            config,
            hyper: Tensor::zeros(&[7])?,
            members: params.iter().map(member).collect::<Result<_>>()?,
            emitted: false,
        })
    }

    /// A bfloat16 copy of a parameter, made now and written with each update:
    /// what [`Tape::param_rounded`] reads, so that no step casts it. Whoever
    /// changes the parameter otherwise has to write the copy too. Asking twice
    /// gives the same copy. An update moves half a number more. Ask before
    /// [`Optimizer::emit`], which is when updates learn of it.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var, optim::*};
    /// # fn f(t: &mut Tape, optimizer: &mut AdamW, weight: &Tensor, x: Var) -> Result<Var> {
    /// let rounded = optimizer.rounded(weight)?;
    /// let w = t.param_rounded(weight, &rounded)?;
    /// t.linear(x, w) // x in bfloat16 too
    /// # }
    /// ```
    pub fn rounded(&mut self, param: &Tensor) -> Result<Tensor> {
        let Some(member) = self.members.iter_mut().find(|member| member.param.raw() == param.raw()) else {
            return Err(Error::invalid(format!(
                "a parameter of shape {:?} is none of this optimizer's",
                param.shape()
            )));
        };
        if let Some(rounded) = &member.rounded {
            return Ok(rounded.clone());
        }
        if self.emitted {
            return Err(Error::invalid("AdamW::rounded after emit: no update would write the copy"));
        }
        let rounded = Tensor::zeros_half(param.shape())?;
        let mut tape = Tape::inference();
        let (from, to) = (tape.bind(param), tape.bind(&rounded));
        tape.emit_copy(from, to)?;
        tape.run()?;
        member.rounded = Some(rounded.clone());
        Ok(rounded)
    }
}

impl Optimizer for AdamW {
    fn emit(&mut self, tape: &mut Tape) -> Result<()> {
        self.emitted = true;
        let hyper = tape.bind(&self.hyper);
        for member in &self.members {
            let grad = required_gradient(tape, &member.param)?;
            let (param, m, v) =
                (tape.bind(&member.param), tape.bind(&member.first), tape.bind(&member.second));
            let rounded = member.rounded.as_ref().map(|rounded| tape.bind(rounded));
            tape.emit(Op::Adamw(compute::Adamw {
                param: param.raw(),
                grad: grad.raw(),
                m: m.raw(),
                v: v.raw(),
                hyper: hyper.raw(),
                rounded: rounded.map(|slot| slot.raw()),
            }));
        }
        Ok(())
    }

    fn prepare(&mut self, step: u64, rate: f64) -> Result<()> {
        let c = &self.config;
        let power = |beta: f64| 1.0 - beta.powi(step.min(1 << 30) as i32);
        let values = [c.rate * rate, c.beta1, c.beta2, c.eps, c.weight_decay, power(c.beta1), power(c.beta2)];
        self.hyper.upload(&values.map(|v| v as f32))
    }
}
