//! Layers: parameters, and the operations that use them.
//!
//! A layer is a plain struct of tensors. `forward` appends its operations to
//! a tape; `params` are what an optimizer should hold. Compose them, or take
//! them as patterns: all that they do is public in [`Tape`].
//!
//! ```no_run
//! # use terrarium_sdk::{Result, Tape, Tensor, Var, init::Seeds, layers::{LayerNorm, Linear, Mlp}};
//! # use terrarium_sdk::tape::Activation;
//! # fn f(t: &mut Tape, x: Var) -> Result<Var> {
//! let mut seeds = Seeds::new(1);
//! let norm = LayerNorm::new(64)?;
//! let mlp = Mlp::new(&mut seeds, 64, 256, Activation::Gelu)?;
//! let h = norm.forward(t, x)?; // [..., 64]
//! mlp.forward(t, h, Some(x)) // x + mlp(norm(x))
//! # }
//! ```

use crate::error::{Error, Result};
use crate::init::Seeds;
use crate::tape::{Activation, Affine, Ends, Heads, Tape, Var};
use crate::tensor::{Dtype, Tensor};

/// y = x·Wᵀ + b: [..., inputs] → [..., outputs], 2·inputs·outputs flops a row.
pub struct Linear {
    /// [outputs, inputs]
    pub weight: Tensor,
    /// `[outputs]`
    pub bias: Option<Tensor>,
}

impl Linear {
    /// Weights by [`Seeds::xavier`], bias 0 if there is one.
    pub fn new(seeds: &mut Seeds, inputs: u32, outputs: u32, bias: bool) -> Result<Self> {
        let bias = match bias {
            true => Some(Tensor::zeros(&[outputs])?),
            false => None,
        };
        Ok(Self { weight: seeds.xavier(&[outputs, inputs])?, bias })
    }

    /// The layer's value, after an activation.
    pub fn forward(&self, t: &mut Tape, x: Var, activation: Activation) -> Result<Var> {
        let weight = t.param(&self.weight);
        let bias = self.bias.as_ref().map(|bias| t.param(bias));
        t.linear_fused(x, weight, Ends { bias, activation, ..Ends::default() })
    }

    /// What to train.
    pub fn params(&self) -> Vec<Tensor> {
        std::iter::once(&self.weight).chain(&self.bias).cloned().collect()
    }
}

/// Rows of a table: int32 [...] → [..., channels].
pub struct Embedding {
    /// [entries, channels]
    pub table: Tensor,
}

impl Embedding {
    /// Entries from N(0, deviation²).
    pub fn new(seeds: &mut Seeds, entries: u32, channels: u32, deviation: f32) -> Result<Self> {
        Ok(Self { table: seeds.normal(&[entries, channels], deviation)? })
    }

    /// The rows that `indices` name.
    pub fn forward(&self, t: &mut Tape, indices: Var) -> Result<Var> {
        let table = t.param(&self.table);
        t.gather(table, indices)
    }

    /// What to train.
    pub fn params(&self) -> Vec<Tensor> {
        vec![self.table.clone()]
    }
}

/// Layer normalisation with gain and bias over the last dimension.
pub struct LayerNorm {
    /// `[channels]`, 1 at first.
    pub gain: Tensor,
    /// `[channels]`, 0 at first.
    pub bias: Tensor,
    /// Added to the variance.
    pub eps: f32,
}

impl LayerNorm {
    /// A norm that changes nothing but mean and variance, eps 1e-5.
    pub fn new(channels: u32) -> Result<Self> {
        Ok(Self { gain: Tensor::full(&[channels], 1.0)?, bias: Tensor::zeros(&[channels])?, eps: 1e-5 })
    }

    /// [..., channels] → the same shape.
    pub fn forward(&self, t: &mut Tape, x: Var) -> Result<Var> {
        self.forward_as(t, x, Dtype::Float32)
    }

    /// As [`LayerNorm::forward`], stored as float32 or bfloat16.
    pub fn forward_as(&self, t: &mut Tape, x: Var, result: Dtype) -> Result<Var> {
        let (gain, bias) = (Some(t.param(&self.gain)), Some(t.param(&self.bias)));
        t.layer_norm(x, self.eps, Affine { gain, bias, result })
    }

    /// What to train.
    pub fn params(&self) -> Vec<Tensor> {
        vec![self.gain.clone(), self.bias.clone()]
    }
}

/// Two linear layers without bias: 4·channels·hidden flops a row.
pub struct Mlp {
    /// [hidden, channels]
    pub up: Tensor,
    /// [channels, hidden]
    pub down: Tensor,
    /// Between them.
    pub activation: Activation,
}

impl Mlp {
    /// The first layer by [`Seeds::kaiming`], the second 0: at first the MLP
    /// adds nothing to a residual.
    pub fn new(seeds: &mut Seeds, channels: u32, hidden: u32, activation: Activation) -> Result<Self> {
        let (up, down) = (seeds.kaiming(&[hidden, channels])?, Tensor::zeros(&[channels, hidden])?);
        Ok(Self { up, down, activation })
    }

    /// [..., channels] → the same shape, plus `residual`.
    pub fn forward(&self, t: &mut Tape, x: Var, residual: Option<Var>) -> Result<Var> {
        let (up, down) = (t.param(&self.up), t.param(&self.down));
        t.mlp(x, up, down, self.activation, residual)
    }

    /// What to train.
    pub fn params(&self) -> Vec<Tensor> {
        vec![self.up.clone(), self.down.clone()]
    }
}

/// Causal self-attention with rotary positions and normalised queries and
/// keys. T positions of C channels cost 8·C² + 2·T·C flops each.
pub struct SelfAttention {
    /// [3·channels, channels]: queries, keys, values.
    pub fused: Tensor,
    /// [channels, channels]
    pub project: Tensor,
    /// Heads of channels/heads, which is even.
    pub heads: u32,
    /// Positions that each sees, 0: all before it.
    pub window: u32,
}

impl SelfAttention {
    /// Projections by [`Seeds::xavier`], the last one 0.
    pub fn new(seeds: &mut Seeds, channels: u32, heads: u32, window: u32) -> Result<Self> {
        if heads == 0 || !channels.is_multiple_of(2 * heads) {
            return Err(Error::shape(format!("{channels} channels are not {heads} heads of an even size")));
        }
        let (fused, project) =
            (seeds.xavier(&[3 * channels, channels])?, Tensor::zeros(&[channels, channels])?);
        Ok(Self { fused, project, heads, window })
    }

    /// [B, T, channels] → the same shape, plus `residual`.
    pub fn forward(&self, t: &mut Tape, x: Var, residual: Option<Var>) -> Result<Var> {
        let (b, time, c) = match *t.shape(x) {
            [b, time, c] => (b, time, c),
            _ => return Err(Error::shape(format!("attention needs [B,T,C], not {:?}", t.shape(x)))),
        };
        let shape = [b, time, self.heads, c / self.heads];
        let (fused, project) = (t.param(&self.fused), t.param(&self.project));
        let qkv = t.linear(x, fused)?;
        let q = t.heads(qkv, 0, shape, 10_000.0, 1e-6)?;
        let k = t.heads(qkv, c, shape, 10_000.0, 1e-6)?;
        let v = Heads { of: qkv, col: 2 * c };
        let y = t.attention_in(shape, self.heads, [q.into(), k.into(), v], self.window)?;
        let y = t.reshape(y, &[b, time, c])?;
        t.linear_fused(y, project, Ends { residual, ..Ends::default() })
    }

    /// What to train.
    pub fn params(&self) -> Vec<Tensor> {
        vec![self.fused.clone(), self.project.clone()]
    }
}
