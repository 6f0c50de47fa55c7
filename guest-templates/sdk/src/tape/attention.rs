//! Normalisation, rotary embedding, and attention.

use super::backward::Destination;
use super::{Slot, Tape, Var};
use crate::bindings::trainer::terrarium::guest::compute::{self, Op};
use crate::error::{Error, Result};
use crate::tensor::Dtype;

impl Tape {
    /// x/√(mean x² + eps) over the last dimension, without weights (Zhang &
    /// Sennrich 2019).
    /// Shapes [..., C] → the same; about 3 flops and two numbers moved for each
    /// element.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # fn f(t: &mut Tape, x: Var) -> Result<()> {
    /// let y = t.rms_norm(x, 1e-6)?;
    /// # let _ = y;
    /// # Ok(()) }
    /// ```
    pub fn rms_norm(&mut self, x: Var, eps: f32) -> Result<Var> {
        self.rms_norm_as(x, eps, Dtype::Float32)
    }

    /// As [`Tape::rms_norm`], stored as float32 or, for operations that
    /// multiply it, as bfloat16: no cast, and half of the memory.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Dtype, Result, Tape, Var};
    /// # fn f(t: &mut Tape, x: Var, w: Var) -> Result<Var> {
    /// let h = t.rms_norm_as(x, 1e-6, Dtype::Bfloat16)?;
    /// t.linear(h, w) // a bfloat16 weight
    /// # }
    /// ```
    pub fn rms_norm_as(&mut self, x: Var, eps: f32, result: Dtype) -> Result<Var> {
        let (rows, _) = self.rows_cols(x)?;
        let shape = self.shape(x).to_vec();
        let src = self.slot(x);
        let out = self.temporary_of(result, &shape);
        let inv_rms = self.temporary(&[rows]);
        self.emit(Op::RmsNorm(compute::RmsNorm {
            x: src.raw(),
            out: out.raw(),
            inv_rms: inv_rms.raw(),
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
                let (dx, accumulate) = t.accumulator_of_either(x)?;
                t.emit(Op::RmsNormBackward(compute::RmsNormBackward {
                    x: src.raw(),
                    inv_rms: inv_rms.raw(),
                    dout: dout.raw(),
                    dx: dx.raw(),
                    accumulate,
                }));
                Ok(())
            }),
        );
        Ok(y)
    }

    /// Rotary position embedding of x `[B,T,H,D]`, D even (Su et al. 2021):
    /// pairs (i, i + D/2) turn by the angle t·base^(-2i/D).
    pub fn rope(&mut self, x: Var, base: f32) -> Result<Var> {
        let shape = self.shape(x).to_vec();
        if shape.len() != 4 || !shape[3].is_multiple_of(2) {
            return Err(Error::shape(format!("rope needs [B,T,H,D] with D even, not {shape:?}")));
        }
        let src = self.slot(x);
        let out = self.temporary(&shape);
        self.emit(Op::Rope(compute::Rope { x: src.raw(), out: out.raw(), base, inverse: false }));
        let y = self.add_var(out, self.needs_gradient(x));
        self.rule(
            y,
            Box::new(move |t, adjoint| {
                if !t.needs_gradient(x) {
                    return Ok(());
                }
                let dout = t.buffer(adjoint, y)?;
                let to = t.destination(x)?;
                t.emit(Op::Rope(compute::Rope { x: dout.raw(), out: to.slot.raw(), base, inverse: true }));
                t.deliver(to)
            }),
        );
        Ok(y)
    }

    /// Causal attention: q `[B,T,H,D]`; k, v `[B,T,K,D]` with K dividing H
    /// (grouped queries) → `[B,T,H,D]`. Position t sees the last `window`
    /// positions, itself among them (0: all). Scores are scaled by 1/√D.
    /// All three are float32 or all are bfloat16, and so are the result and
    /// its gradients.
    /// Costs 4·B·H·D flops for each pair of positions that see one another (T²/2,
    /// or T·window), the gradient two and a half times that; no scores are stored.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # fn f(t: &mut Tape, q: Var, k: Var, v: Var) -> Result<()> {
    /// // 4 query heads over 2 of keys and values; each position sees 64.
    /// let y = t.attention(q, k, v, 64)?; // [8, 128, 4, 16]; k, v [8, 128, 2, 16]
    /// # let _ = y;
    /// # Ok(()) }
    /// ```
    pub fn attention(&mut self, q: Var, k: Var, v: Var, window: u32) -> Result<Var> {
        match (self.shape(q), self.shape(k)) {
            (&[b, t, h, d], &[_, _, kv_heads, _]) => {
                self.attention_in([b, t, h, d], kv_heads, [q, k, v].map(Heads::from), window)
            }
            _ => Err(self.mismatch("attention", q, k)),
        }
    }

    /// As [`Tape::attention`], of one projection `[B,T,(H+2K)·D]` whose columns
    /// are H heads of queries, K of keys, and K of values → `[B,T,H·D]`. One
    /// large product makes it, and nothing is copied.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Var};
    /// # fn f(t: &mut Tape, x: Var, w: Var) -> Result<Var> {
    /// let qkv = t.linear(x, w)?; // [8, 128, 64] · [192, 64]ᵀ → [8, 128, 192]
    /// t.attention_fused(qkv, 4, 4, 0) // [8, 128, 64]
    /// # }
    /// ```
    pub fn attention_fused(&mut self, qkv: Var, heads: u32, kv_heads: u32, window: u32) -> Result<Var> {
        let all = u64::from(heads) + 2 * u64::from(kv_heads);
        let (b, t, d) = match *self.shape(qkv) {
            [b, t, cols] if heads > 0 && u64::from(cols).is_multiple_of(all) => {
                (b, t, (u64::from(cols) / all) as u32)
            }
            _ => {
                return Err(Error::shape(format!(
                    "attention_fused needs [B,T,{all}·D] for {heads} and twice {kv_heads} heads, not {:?}",
                    self.shape(qkv)
                )));
            }
        };
        // At most the columns, which fit.
        let at = |head: u32| Heads { of: qkv, col: head * d };
        let parts = [at(0), at(heads), at(heads + kv_heads)];
        let y = self.attention_in([b, t, heads, d], kv_heads, parts, window)?;
        self.reshape(y, &[b, t, heads * d])
    }

    /// As [`Tape::attention`], to `shape` `[B,T,H,D]`, of queries, keys and
    /// values that may be columns of others: values out of a projection whose
    /// queries and keys were made ready by [`Tape::heads`], for one.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Var, tape::Heads};
    /// # fn f(t: &mut Tape, qkv: Var) -> Result<Var> {
    /// let shape = [8, 128, 4, 16]; // of qkv [8, 128, 192]
    /// let q = t.heads(qkv, 0, shape, 10_000.0, 1e-6)?;
    /// let k = t.heads(qkv, 64, shape, 10_000.0, 1e-6)?;
    /// let v = Heads { of: qkv, col: 128 };
    /// t.attention_in(shape, 4, [q.into(), k.into(), v], 0)
    /// # }
    /// ```
    pub fn attention_in(
        &mut self,
        shape: [u32; 4],
        kv_heads: u32,
        parts: [Heads; 3],
        window: u32,
    ) -> Result<Var> {
        let [b, time, heads, dim] = shape;
        let scale = 1.0 / (dim as f32).sqrt();
        let window = if window >= time { 0 } else { window };
        let mut places = Vec::new();
        for (part, count) in parts.into_iter().zip([heads, kv_heads, kv_heads]) {
            let width = u64::from(count) * u64::from(dim);
            places.push(self.place_of(part, u64::from(b) * u64::from(time), width)?);
        }
        let operand = |i: usize| compute::Heads { tensor: places[i].slot.raw(), col: parts[i].col };
        let [q, k, v] = [0, 1, 2].map(operand);
        let dtype = self.slot_dtype(places[0].slot);
        let out = self.temporary_of(dtype, &shape);
        let lse = self.temporary(&[b, heads, time]);
        let (raw_out, raw_lse) = (out.raw(), lse.raw());
        self.emit(Op::Attention(compute::Attention {
            q,
            k,
            v,
            kv_heads,
            out: raw_out,
            lse: raw_lse,
            window,
            scale,
        }));
        let needs = parts.iter().any(|part| self.needs_gradient(part.of));
        let y = self.add_var(out, needs);
        self.rule(
            y,
            Box::new(move |t, adjoint| {
                let dout = t.buffer_as_it_is(adjoint, y);
                let dout = t.converted(dout, dtype)?;
                let (groups, of) = t.gradients_of(&places, dtype)?;
                let to = |i: usize| of[i].raw();
                t.emit(Op::AttentionBackward(compute::AttentionBackward {
                    q,
                    k,
                    v,
                    kv_heads,
                    out: raw_out,
                    lse: raw_lse,
                    dout: dout.raw(),
                    dq: to(0),
                    dk: to(1),
                    dv: to(2),
                    window,
                    scale,
                }));
                groups.into_iter().try_for_each(|to| t.deliver(to))
            }),
        );
        Ok(y)
    }

    /// Where a part lies that has `width` columns in each of `rows` positions.
    fn place_of(&mut self, part: Heads, rows: u64, width: u64) -> Result<Place> {
        let shape = self.shape(part.of).to_vec();
        let (slot, columns) = (self.slot(part.of), u64::from(part.col)..u64::from(part.col) + width);
        if shape.len() == 4 && part.col == 0 {
            return Ok(Place { of: part.of, slot, shape, columns });
        }
        let total = self.slot_len(slot);
        let cols = total.checked_div(rows).unwrap_or(0);
        let flat = [u32::try_from(rows), u32::try_from(cols)];
        match flat {
            [Ok(rows), Ok(cols)]
                if rows as u64 * u64::from(cols) == total && columns.end <= u64::from(cols) =>
            {
                let slot = self.view(slot, 0, &[rows, cols])?;
                Ok(Place { of: part.of, slot, shape: vec![rows, cols], columns })
            }
            _ => Err(Error::shape(format!(
                "attention needs columns {}..{} of {rows} rows, not of {shape:?}",
                columns.start, columns.end
            ))),
        }
    }

    /// The buffer for columns of one value, if nobody wrote to any of them and
    /// it is of `dtype`.
    fn free_of(&mut self, places: &[Place], group: &[usize], dtype: Dtype) -> Option<Slot> {
        let first = &places[group[0]];
        let (of, cols) = (first.of, *first.shape.get(1).filter(|_| first.shape.len() == 2)?);
        if self.gradient_dtype(of) != dtype {
            return None;
        }
        let columns = group.iter().map(|&i| &places[i].columns);
        let columns: Vec<_> = columns.map(|range| range.start as u32..range.end as u32).collect();
        self.free_columns(of, cols, &columns)
    }

    /// Buffers for the gradients of some places, one for all columns of a value,
    /// and for each place its own. The parts of a value that are no one's become
    /// 0. Places that overlap get two.
    fn gradients_of(&mut self, places: &[Place], dtype: Dtype) -> Result<(Vec<Destination>, Vec<Slot>)> {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for (i, place) in places.iter().enumerate() {
            let beside = |group: &&mut Vec<usize>| group.iter().all(|&other| places[other].is_beside(place));
            match groups.iter_mut().find(beside) {
                Some(group) => group.push(i),
                None => groups.push(vec![i]),
            }
        }
        let mut slots = vec![places[0].slot; places.len()];
        let mut destinations = Vec::new();
        for group in groups {
            let first = &places[group[0]];
            if let Some(slot) = self.free_of(places, &group, dtype) {
                let slot = self.view(slot, 0, &first.shape)?;
                group.iter().for_each(|&i| slots[i] = slot);
                continue;
            }
            let to = self.destination_of(first.of, dtype)?;
            let slot = self.view(to.slot, 0, &first.shape)?;
            let written: u64 = group.iter().map(|&i| places[i].columns.end - places[i].columns.start).sum();
            let row = if first.shape.len() == 4 { written } else { u64::from(first.shape[1]) };
            if written < row {
                self.emit_fill(slot, 0.0);
            }
            group.iter().for_each(|&i| slots[i] = slot);
            destinations.push(to);
        }
        Ok((destinations, slots))
    }
}

/// Queries, keys or values of an attention: a value `[B,T,heads,D]`, or columns
/// `col..col + heads·D` of one that has a row for each position.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Where they are.
    pub of: Var,
    /// Their first column.
    pub col: u32,
}

impl From<Var> for Heads {
    fn from(of: Var) -> Self {
        Self { of, col: 0 }
    }
}

/// Columns of a value, in the shape that the operation takes it.
struct Place {
    of: Var,
    slot: Slot,
    shape: Vec<u32>,
    columns: std::ops::Range<u64>,
}

impl Place {
    /// Whether both are columns of one value, and none is both's.
    fn is_beside(&self, other: &Place) -> bool {
        let apart = self.columns.end <= other.columns.start || other.columns.end <= self.columns.start;
        self.of == other.of && self.shape.len() == 2 && apart
    }
}
