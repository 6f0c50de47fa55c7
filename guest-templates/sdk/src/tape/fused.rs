//! Operations that do in one pass what several would do: a linear layer with
//! its bias, activation and residual; queries and keys turned and normalised;
//! and casts, for which there is nothing to differentiate.

use super::{Slot, Tape, Var};
use crate::bindings::trainer::terrarium::guest::compute::{self, Op};
use crate::error::{Error, Result};
use crate::tensor::Dtype;

pub use compute::Activation;

/// What [`Tape::linear_fused`] adds to a product. The default adds nothing.
///
/// ```
/// use terrarium_sdk::tape::{Activation, Ends};
/// let ends = Ends { activation: Activation::Gelu, ..Ends::default() };
/// assert!(ends.bias.is_none());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// `[N]`, added to each row before the activation.
    pub bias: Option<Var>,
    /// Applied to each element.
    pub activation: Activation,
    /// Of the shape of the result, added after the activation.
    pub residual: Option<Var>,
    /// What the result is stored as: float32, or bfloat16 for operations that
    /// multiply it again, which saves a cast and half of its memory.
    pub result: Dtype,
}

impl Default for Ends {
    fn default() -> Self {
        Self { bias: None, activation: Activation::Identity, residual: None, result: Dtype::Float32 }
    }
}

/// What [`Tape::layer_norm`] does beside normalising. The default: nothing.
///
/// ```
/// use terrarium_sdk::tape::Affine;
/// assert!(Affine::default().gain.is_none());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Affine {
    /// `[C]`, multiplied.
    pub gain: Option<Var>,
    /// `[C]`, added.
    pub bias: Option<Var>,
    /// What the result is stored as, as in [`Ends`].
    pub result: Dtype,
}

impl Default for Affine {
    fn default() -> Self {
        Self { gain: None, bias: None, result: Dtype::Float32 }
    }
}

/// A fused product as the tape emits it.
struct Product {
    a: (Slot, bool),
    b: (Slot, bool),
    out: Slot,
    bias: Option<Slot>,
    residual: Option<Slot>,
    pre: Option<Slot>,
    activation: Activation,
    backward: bool,
}

impl Tape {
    fn emit_fused(&mut self, p: Product) {
        self.emit(Op::MatmulFused(compute::MatmulFused {
            a: p.a.0.raw(),
            b: p.b.0.raw(),
            out: p.out.raw(),
            trans_a: p.a.1,
            trans_b: p.b.1,
            alpha: 1.0,
            bias: p.bias.map(Slot::raw),
            residual: p.residual.map(Slot::raw),
            pre: p.pre.map(Slot::raw),
            activation: p.activation,
            backward: p.backward,
        }));
    }

    /// y = act(x·wᵀ + bias) + residual in one pass: x [..., K], weight [N, K]
    /// → [..., N]. Costs the flops of [`Tape::linear`] and saves two to four
    /// trips of y through memory; so does its gradient.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Var, tape::{Activation, Ends}};
    /// # fn f(t: &mut Tape, x: Var, up: Var, down: Var) -> Result<Var> {
    /// let h = t.linear_fused(x, up, Ends { activation: Activation::ReluSquared, ..Ends::default() })?;
    /// t.linear_fused(h, down, Ends { residual: Some(x), ..Ends::default() })
    /// # }
    /// ```
    pub fn linear_fused(&mut self, x: Var, weight: Var, ends: Ends) -> Result<Var> {
        let (rows, k) = self.rows_cols(x)?;
        let n = match *self.shape(weight) {
            [n, wk] if wk == k => n,
            _ => return Err(self.mismatch("linear_fused", x, weight)),
        };
        let mut shape = self.shape(x).to_vec();
        if let Some(last) = shape.last_mut() {
            *last = n;
        }
        if let Some(bias) = ends.bias
            && self.slot_len(self.slot(bias)) != u64::from(n)
        {
            return Err(self.mismatch("linear_fused (bias)", bias, weight));
        }
        let x2 = self.view(self.slot(x), 0, &[rows, k])?;
        let w = self.slot(weight);
        let out = self.temporary_of(ends.result, &shape);
        let y2 = self.view(out, 0, &[rows, n])?;
        if let Some(residual) = ends.residual
            && self.slot_len(self.slot(residual)) != self.slot_len(out)
        {
            return Err(self.mismatch("linear_fused (residual)", residual, x));
        }
        let parts = [Some(x), Some(weight), ends.bias, ends.residual];
        let needs = parts.into_iter().flatten().any(|v| self.needs_gradient(v));
        // The identity's derivative needs no value before it.
        let curved = ends.activation != Activation::Identity;
        let kept = self.kept([x2, w]);
        let pre = (curved && needs && self.is_training()).then(|| self.temporary_of(kept, &[rows, n]));
        let (bias, residual) = (ends.bias.map(|v| self.slot(v)), ends.residual.map(|v| self.slot(v)));
        self.emit_fused(Product {
            a: (x2, false),
            b: (w, true),
            out: y2,
            bias,
            residual,
            pre,
            activation: ends.activation,
            backward: false,
        });
        let y = self.add_var(out, needs);
        self.rule(
            y,
            Box::new(move |t, adjoint| {
                let dy = t.buffer_as_it_is(adjoint, y);
                if let Some(residual) = ends.residual {
                    t.contribute(residual, dy)?;
                }
                let dz = match pre {
                    Some(pre) => {
                        let dy = t.converted(dy, Dtype::Float32)?;
                        let pre = t.converted(pre, Dtype::Float32)?;
                        t.activation_gradient(dy, pre, ends.activation)?
                    }
                    None => t.view(dy, 0, &[rows, n])?,
                };
                t.bias_gradient(ends.bias, dz)?;
                let dz = t.as_operand(dz, [x2, w])?;
                if t.needs_gradient(x) {
                    let (dx, add) = t.accumulator_of_either(x)?;
                    let dx = t.view(dx, 0, &[rows, k])?;
                    t.emit_matmul((dz, false), (w, false), dx, 1.0, add);
                }
                if t.needs_gradient(weight) {
                    let (dw, add) = t.accumulator(weight)?;
                    t.emit_matmul((dz, true), (x2, false), dw, 1.0, add);
                }
                Ok(())
            }),
        );
        Ok(y)
    }

    /// dy ∘ act'(pre), into a temporary of the shape of `pre`.
    fn activation_gradient(&mut self, dy: Slot, pre: Slot, activation: Activation) -> Result<Slot> {
        use crate::rowkernel::{Kernel, Layout};
        let shape = self.slot_shape(pre).to_vec();
        let out = self.temporary(&shape);
        let k = Kernel::new(shape[1]);
        let [d, z] = [(); 2].map(|()| k.input(Layout::Element));
        let value = match activation {
            Activation::Identity => z,
            Activation::Relu => z.relu(),
            Activation::ReluSquared => z.relu().square(),
            Activation::Gelu => z.gelu(),
            Activation::Silu => z.silu(),
        };
        let share = k.gradients(value, d).get(1).copied().flatten().unwrap_or(d);
        self.emit_kernel(&k, shape[0], &[dy, pre], &[(share, out, Layout::Element)])?;
        Ok(out)
    }

    /// An MLP y = act(x·upᵀ)·downᵀ + residual with nothing done twice: x
    /// [..., C], up [H, C], down [C, H]; y is stored as the residual is, without
    /// one as float32. The gradient multiplies by the activation's derivative
    /// while the product that it needs is in a cache.
    pub fn mlp(
        &mut self,
        x: Var,
        up: Var,
        down: Var,
        activation: Activation,
        residual: Option<Var>,
    ) -> Result<Var> {
        self.mlp_biased(x, (up, None), (down, None), activation, residual)
    }

    /// As [`Tape::mlp`], each layer with its bias, of `[H]` and `[C]`: y =
    /// act(x·upᵀ + b₁)·downᵀ + b₂ + residual.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Var, tape::Activation};
    /// # fn f(t: &mut Tape, x: Var, up: Var, b1: Var, down: Var, b2: Var) -> Result<Var> {
    /// t.mlp_biased(x, (up, Some(b1)), (down, Some(b2)), Activation::Gelu, Some(x))
    /// # }
    /// ```
    pub fn mlp_biased(
        &mut self,
        x: Var,
        (up, up_bias): (Var, Option<Var>),
        (down, down_bias): (Var, Option<Var>),
        activation: Activation,
        residual: Option<Var>,
    ) -> Result<Var> {
        let (rows, c) = self.rows_cols(x)?;
        let hidden = match (self.shape(up), self.shape(down)) {
            (&[h, a], &[b, h2]) if a == c && b == c && h == h2 => h,
            _ => return Err(self.mismatch("mlp", up, down)),
        };
        if let Some(residual) = residual
            && self.slot_len(self.slot(residual)) != self.slot_len(self.slot(x))
        {
            return Err(self.mismatch("mlp (residual)", residual, x));
        }
        for (bias, weight, len) in [(up_bias, up, hidden), (down_bias, down, c)] {
            if let Some(bias) = bias
                && self.slot_len(self.slot(bias)) != u64::from(len)
            {
                return Err(self.mismatch("mlp (bias)", bias, weight));
            }
        }
        let shape = self.shape(x).to_vec();
        let x2 = self.view(self.slot(x), 0, &[rows, c])?;
        let (wu, wd) = (self.slot(up), self.slot(down));
        let parts = [Some(x), Some(up), up_bias, Some(down), down_bias, residual];
        let needs = parts.into_iter().flatten().any(|v| self.needs_gradient(v));
        let inner = self.kept([x2, wu, wd]);
        let pre = (needs && self.is_training()).then(|| self.temporary_of(inner, &[rows, hidden]));
        let h = self.temporary_of(inner, &[rows, hidden]);
        let plain = |a, b, out| Product {
            a,
            b,
            out,
            bias: None,
            residual: None,
            pre: None,
            activation: Activation::Identity,
            backward: false,
        };
        let [b1, b2, residual_slot] = [up_bias, down_bias, residual].map(|v| v.map(|v| self.slot(v)));
        self.emit_fused(Product { bias: b1, pre, activation, ..plain((x2, false), (wu, true), h) });
        let stored = residual_slot.map_or(Dtype::Float32, |slot| self.slot_dtype(slot));
        let out = self.temporary_of(stored, &shape);
        let y2 = self.view(out, 0, &[rows, c])?;
        self.emit_fused(Product { bias: b2, residual: residual_slot, ..plain((h, false), (wd, true), y2) });
        let y = self.add_var(out, needs);
        self.rule(
            y,
            Box::new(move |t, adjoint| {
                let Some(pre) = pre else {
                    return Ok(());
                };
                let dy = t.buffer_as_it_is(adjoint, y);
                if let Some(residual) = residual {
                    t.contribute(residual, dy)?;
                }
                let dy = t.view(dy, 0, &[rows, c])?;
                t.bias_gradient(down_bias, dy)?;
                let dy = t.as_operand(dy, [h, wd])?;
                if t.needs_gradient(down) {
                    let (dw, add) = t.accumulator(down)?;
                    t.emit_matmul((dy, true), (h, false), dw, 1.0, add);
                }
                if ![Some(x), Some(up), up_bias].into_iter().flatten().any(|v| t.needs_gradient(v)) {
                    return Ok(());
                }
                let dz = t.temporary_of(inner, &[rows, hidden]);
                t.emit_fused(Product {
                    pre: Some(pre),
                    activation,
                    backward: true,
                    ..plain((dy, false), (wd, false), dz)
                });
                t.bias_gradient(up_bias, dz)?;
                if t.needs_gradient(up) {
                    let (dw, add) = t.accumulator(up)?;
                    t.emit_matmul((dz, true), (x2, false), dw, 1.0, add);
                }
                if t.needs_gradient(x) {
                    let (dx, add) = t.accumulator_of_either(x)?;
                    let dx = t.view(dx, 0, &[rows, c])?;
                    t.emit_matmul((dz, false), (wu, false), dx, 1.0, add);
                }
                Ok(())
            }),
        );
        Ok(y)
    }

    /// How what lies between products is kept: as their operands are.
    fn kept<const N: usize>(&self, operands: [Slot; N]) -> Dtype {
        match operands.iter().all(|&slot| self.slot_dtype(slot) == Dtype::Bfloat16) {
            true => Dtype::Bfloat16,
            false => Dtype::Float32,
        }
    }

    /// Adds the sums of dz's columns to a bias's gradient.
    fn bias_gradient(&mut self, bias: Option<Var>, dz: Slot) -> Result<()> {
        if let Some(bias) = bias
            && self.needs_gradient(bias)
        {
            let (db, add) = self.accumulator(bias)?;
            self.emit_reduce(dz, db, compute::ReduceAxis::Rows, 1.0, add);
        }
        Ok(())
    }

    /// Queries or keys made ready in one pass: rms_norm(rope(x)) of x
    /// `[B,T,H,D]`, D even. As [`Tape::rope`] and [`Tape::rms_norm`], with half
    /// of their trips through memory.
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # fn f(t: &mut Tape, q: Var) -> Result<()> {
    /// let q = t.rope_norm(q, 10_000.0, 1e-6)?; // [8, 128, 4, 16]
    /// # let _ = q;
    /// # Ok(()) }
    /// ```
    pub fn rope_norm(&mut self, x: Var, base: f32, eps: f32) -> Result<Var> {
        self.rope_norm_as(x, base, eps, Dtype::Float32)
    }

    /// As [`Tape::rope_norm`], stored as float32 or, for attention over it, as
    /// bfloat16: no cast, and half of the memory.
    pub fn rope_norm_as(&mut self, x: Var, base: f32, eps: f32, result: Dtype) -> Result<Var> {
        match *self.shape(x) {
            [b, t, h, d] => self.heads_as(x, 0, [b, t, h, d], base, eps, result),
            _ => Err(Error::shape(format!("rope_norm needs [B,T,H,D], not {:?}", self.shape(x)))),
        }
    }

    /// As [`Tape::rope_norm`], of columns `col..col + H·D` of x, which has one
    /// row for each position: `[B,T,H,D]` heads out of a fused projection.
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # fn f(t: &mut Tape, qkv: Var) -> Result<()> {
    /// // Queries, keys: columns 0..64 and 64..128 of [8, 128, 192], 4 heads of 16.
    /// let q = t.heads(qkv, 0, [8, 128, 4, 16], 10_000.0, 1e-6)?;
    /// let k = t.heads(qkv, 64, [8, 128, 4, 16], 10_000.0, 1e-6)?;
    /// # let _ = (q, k);
    /// # Ok(()) }
    /// ```
    pub fn heads(&mut self, x: Var, col: u32, shape: [u32; 4], base: f32, eps: f32) -> Result<Var> {
        self.heads_as(x, col, shape, base, eps, Dtype::Float32)
    }

    /// As [`Tape::heads`], stored as in [`Tape::rope_norm_as`].
    pub fn heads_as(
        &mut self,
        x: Var,
        col: u32,
        shape: [u32; 4],
        base: f32,
        eps: f32,
        result: Dtype,
    ) -> Result<Var> {
        let [b, t, h, d] = shape;
        let total = self.slot_len(self.slot(x));
        let positions = u64::from(b) * u64::from(t);
        let width = u64::from(h) * u64::from(d);
        let cols = total.checked_div(positions).unwrap_or(0);
        if !d.is_multiple_of(2) || cols * positions != total || u64::from(col) + width > cols {
            return Err(Error::shape(format!(
                "heads {shape:?} (D even) from column {col} of a value of shape {:?}",
                self.shape(x)
            )));
        }
        let rows = u32::try_from(positions).map_err(|_| Error::shape("heads: too many positions"))?;
        let cols = u32::try_from(cols).map_err(|_| Error::shape("heads: rows are too long"))?;
        // At most the columns.
        let width = width as u32;
        let src = self.view(self.slot(x), 0, &[rows, cols])?;
        let out = self.temporary_of(result, &shape);
        let inv_rms = self.temporary(&[b, t, h]);
        self.emit(Op::RopeNorm(compute::RopeNorm {
            x: src.raw(),
            x_col: col,
            out: out.raw(),
            inv_rms: inv_rms.raw(),
            base,
            eps,
        }));
        let y = self.add_var(out, self.needs_gradient(x));
        self.rule(
            y,
            Box::new(move |t, adjoint| {
                if !t.needs_gradient(x) {
                    return Ok(());
                }
                let dout = t.buffer_as_it_is(adjoint, y);
                let dout = t.converted(dout, result)?;
                let (dx, accumulate) = t.columns_accumulator(x, cols, col..col + width)?;
                let dx = t.view(dx, 0, &[rows, cols])?;
                t.emit(Op::RopeNormBackward(compute::RopeNormBackward {
                    out: out.raw(),
                    inv_rms: inv_rms.raw(),
                    dout: dout.raw(),
                    dx: dx.raw(),
                    dx_col: col,
                    base,
                    accumulate,
                }));
                Ok(())
            }),
        );
        Ok(y)
    }

    /// (x - mean)/√(variance + eps) over the last dimension (Ba et al. 2016),
    /// times a gain plus a bias where `affine` has them.
    /// Shapes [..., C] → the same; about 10 flops and two numbers moved for each
    /// element.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Var, tape::Affine};
    /// # fn f(t: &mut Tape, x: Var, gain: Var) -> Result<()> {
    /// let y = t.layer_norm(x, 1e-5, Affine { gain: Some(gain), ..Affine::default() })?;
    /// # let _ = y;
    /// # Ok(()) }
    /// ```
    pub fn layer_norm(&mut self, x: Var, eps: f32, affine: Affine) -> Result<Var> {
        let (rows, cols) = self.rows_cols(x)?;
        let Affine { gain, bias, result } = affine;
        let weights = [gain, bias].map(|weight| weight.map(|v| self.slot(v)));
        if weights.into_iter().flatten().any(|slot| self.slot_len(slot) != u64::from(cols)) {
            return Err(Error::shape(format!("layer_norm needs a gain and a bias of [{cols}]")));
        }
        let shape = self.shape(x).to_vec();
        let src = self.slot(x);
        let out = self.temporary_of(result, &shape);
        let (mean, inv_std) = (self.temporary(&[rows]), self.temporary(&[rows]));
        let [gain_slot, bias_slot] = weights.map(|slot| slot.map(Slot::raw));
        self.emit(Op::LayerNorm(compute::LayerNorm {
            x: src.raw(),
            gain: gain_slot,
            bias: bias_slot,
            out: out.raw(),
            mean: mean.raw(),
            inv_std: inv_std.raw(),
            eps,
        }));
        let operands = [Some(x), gain, bias];
        let needs = operands.into_iter().flatten().any(|v| self.needs_gradient(v));
        let y = self.add_var(out, needs);
        self.rule(
            y,
            Box::new(move |t, adjoint| {
                let dout = t.buffer_as_it_is(adjoint, y);
                let (dx, accumulate) = match t.needs_gradient(x) {
                    true => t.accumulator(x)?,
                    false => (t.temporary(&shape), false),
                };
                let mut sums = [None, None];
                for (sums, weight) in sums.iter_mut().zip([gain, bias]) {
                    if let Some(weight) = weight.filter(|&v| t.needs_gradient(v)) {
                        *sums = Some(t.destination(weight)?);
                    }
                }
                let [dgain, dbias] = sums.each_ref().map(|sums| sums.as_ref().map(|to| to.slot.raw()));
                t.emit(Op::LayerNormBackward(compute::LayerNormBackward {
                    x: src.raw(),
                    gain: gain_slot,
                    mean: mean.raw(),
                    inv_std: inv_std.raw(),
                    dout: dout.raw(),
                    dx: dx.raw(),
                    dgain,
                    dbias,
                    accumulate,
                }));
                sums.into_iter().flatten().try_for_each(|to| t.deliver(to))
            }),
        );
        Ok(y)
    }

    /// The same values in another element type. The gradient is that of x, of
    /// its own type, so a float32 parameter may be cast to bfloat16 for the
    /// products of a step and updated in full precision.
    /// Costs the bytes that it moves; nothing if the type is the same.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # use terrarium_sdk::Dtype;
    /// # fn f(t: &mut Tape, x: Var, w: &Tensor) -> Result<()> {
    /// let w = t.param(w);
    /// let (x, w) = (t.cast(x, Dtype::Bfloat16)?, t.cast(w, Dtype::Bfloat16)?);
    /// let y = t.linear(x, w)?; // summed in float32
    /// # let _ = y;
    /// # Ok(()) }
    /// ```
    pub fn cast(&mut self, x: Var, dtype: Dtype) -> Result<Var> {
        let shape = self.shape(x).to_vec();
        let src = self.slot(x);
        if self.slot_dtype(src) == dtype {
            return Ok(x);
        }
        let out = self.temporary_of(dtype, &shape);
        self.emit_copy(src, out)?;
        Ok(match dtype {
            Dtype::Int32 => self.add_var(out, false),
            Dtype::Float32 | Dtype::Bfloat16 => self.stands_for(out, x),
        })
    }

    /// Each element is dropped with probability `rate`, and the others grow
    /// by 1/(1 - rate) (Srivastava et al. 2014); nothing happens on a tape for
    /// inference. `counter` (int32 `[1]`) must move between replays:
    /// [`Tape::count`] does it. Give each call a `stream` of its own, some
    /// 2³² apart.
    /// Costs a random number and one pass for each element.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # fn f(t: &mut Tape, x: Var) -> Result<()> {
    /// let counter = Tensor::zeros_int(&[1])?;
    /// let y = t.dropout(x, 0.1, 7, 1 << 32, &counter)?;
    /// t.count(&counter)?; // once, for all dropouts of the tape
    /// # let _ = y;
    /// # Ok(()) }
    /// ```
    pub fn dropout(
        &mut self,
        x: Var,
        rate: f32,
        seed: u64,
        stream: u64,
        counter: &crate::Tensor,
    ) -> Result<Var> {
        if !(0.0..1.0).contains(&rate) {
            return Err(Error::invalid(format!("dropout: the rate {rate} is not in 0..1")));
        }
        if !self.is_training() || rate == 0.0 {
            return Ok(x);
        }
        let shape = self.shape(x).to_vec();
        let (dst, counter) = (self.temporary(&shape), self.bind(counter));
        self.emit(Op::RandomStep(compute::RandomStep {
            dst: dst.raw(),
            seed,
            stream,
            counter: counter.raw(),
            distribution: compute::Distribution::Uniform,
            scale: 1.0,
        }));
        let noise = self.add_var(dst, false);
        // Uniform in (-1, 1): below 2·rate - 1 with probability rate.
        let (limit, grow) = (2.0 * rate - 1.0, 1.0 / (1.0 - rate));
        self.map_elements(&[x, noise], &|e| (1.0 - e[1].less_than(limit)) * grow * e[0])
    }

    /// Adds 1 to `counter` (int32 `[1]`) at each replay.
    pub fn count(&mut self, counter: &crate::Tensor) -> Result<()> {
        let one = crate::Tensor::zeros_int(&[1])?;
        one.upload_ints(&[1])?;
        let (one, counter) = (self.bind(&one), self.bind(counter));
        self.emit_add(one, counter)
    }
}
