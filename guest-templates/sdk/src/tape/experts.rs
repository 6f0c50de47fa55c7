//! Mixtures of experts: choose, sort by expert, multiply group by group.

use super::{Slot, Tape, Var};
use crate::bindings::trainer::terrarium::guest::compute::{self, Op};
use crate::error::{Error, Result};
use crate::tape::Activation;
use crate::tensor::Dtype;

/// What [`Tape::sort_by_key`] gives, all int32.
#[derive(Clone, Copy, Debug)]
pub struct Sorted {
    /// `[M]`: whose key stands at each sorted place.
    pub sources: Var,
    /// `[M]`: the sorted place of each key.
    pub places: Var,
    /// `[G + 1]`: where each group begins, and the last one ends.
    pub starts: Var,
}

impl Tape {
    /// The k largest of each row of x [..., E] in descending order (of equals
    /// the first): values [..., k], and their columns, int32 [..., k]. The
    /// gradient goes to the elements that were chosen.
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # fn f(t: &mut Tape, scores: Var) -> Result<()> {
    /// let (best, which) = t.top_k(scores, 2)?; // [N, 8] → [N, 2], int32 [N, 2]
    /// # let _ = (best, which);
    /// # Ok(()) }
    /// ```
    pub fn top_k(&mut self, x: Var, k: u32) -> Result<(Var, Var)> {
        let mut shape = self.shape(x).to_vec();
        match shape.last_mut() {
            Some(last) if (1..=*last).contains(&k) => *last = k,
            _ => return Err(Error::shape(format!("top_k: {k} of a value of shape {shape:?}"))),
        }
        let src = self.slot(x);
        let (values, indices) = (self.temporary(&shape), self.temporary_of(Dtype::Int32, &shape));
        self.emit(Op::TopK(compute::TopK { x: src.raw(), values: values.raw(), indices: indices.raw() }));
        let places = self.add_var(indices, false);
        let y = self.add_var(values, self.needs_gradient(x));
        self.rule(
            y,
            Box::new(move |t, adjoint| {
                if !t.needs_gradient(x) {
                    return Ok(());
                }
                let dvalues = t.buffer(adjoint, y)?;
                let (dx, accumulate) = t.accumulator(x)?;
                t.emit(Op::TopKBackward(compute::TopKBackward {
                    dvalues: dvalues.raw(),
                    indices: indices.raw(),
                    dx: dx.raw(),
                    accumulate,
                }));
                Ok(())
            }),
        );
        Ok((y, places))
    }

    /// Sorts keys (int32, M of them, in 0..groups) stably. Each source has
    /// `per_source` consecutive keys: with the [N, k] choices of [`Tape::top_k`]
    /// as keys and `per_source` k, `sources` are token numbers.
    /// A counting sort: its cost is the bytes that it moves.
    ///
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # fn f(t: &mut Tape, x: Var, which: Var, weight: Var) -> Result<()> {
    /// let sorted = t.sort_by_key(which, 8, 2)?; // int32 [N, 2]
    /// let rows = t.gather(x, sorted.sources)?; // [2·N, C], expert by expert
    /// let out = t.grouped_linear(rows, weight, sorted.starts)?; // weight [8, H, C]
    /// let back = t.gather(out, sorted.places)?; // in the order of the keys
    /// # let _ = back;
    /// # Ok(()) }
    /// ```
    pub fn sort_by_key(&mut self, keys: Var, groups: u32, per_source: u32) -> Result<Sorted> {
        let keys = self.slot(keys);
        let count = u32::try_from(self.slot_len(keys)).map_err(|_| Error::shape("sort_by_key: too many"))?;
        let ends = groups.checked_add(1).ok_or_else(|| Error::invalid("sort_by_key: too many groups"))?;
        let [sources, places] = [(); 2].map(|()| self.temporary_of(Dtype::Int32, &[count]));
        let starts = self.temporary_of(Dtype::Int32, &[ends]);
        self.emit(Op::SortByKey(compute::SortByKey {
            keys: keys.raw(),
            sources: sources.raw(),
            places: places.raw(),
            starts: starts.raw(),
            per_source,
        }));
        let [sources, places, starts] = [sources, places, starts].map(|slot| self.add_var(slot, false));
        Ok(Sorted { sources, places, starts })
    }

    /// Row r of the result is `weight[g]·x[r]` for the group g whose rows
    /// `starts[g]..starts[g+1]` hold r, else 0: x [M, K], weight [G, N, K],
    /// starts int32 [G + 1] → [M, N]. Costs 2·M·N·K flops however the groups
    /// are filled.
    pub fn grouped_linear(&mut self, x: Var, weight: Var, starts: Var) -> Result<Var> {
        let (m, n) = match (self.shape(x), self.shape(weight)) {
            (&[m, k], &[_, n, wk]) if k == wk => (m, n),
            _ => return Err(self.mismatch("grouped_linear", x, weight)),
        };
        let (sx, sw, ss) = (self.slot(x), self.slot(weight), self.slot(starts));
        let out = self.temporary(&[m, n]);
        self.emit_grouped(sx, (sw, true), ss, out, false);
        let y = self.add_var(out, self.needs_gradient(x) || self.needs_gradient(weight));
        self.rule(
            y,
            Box::new(move |t, adjoint| {
                let dy = t.buffer(adjoint, y)?;
                if t.needs_gradient(x) {
                    let (dx, add) = t.accumulator(x)?;
                    t.emit_grouped(dy, (sw, false), ss, dx, add);
                }
                if t.needs_gradient(weight) {
                    let (dw, accumulate) = t.accumulator(weight)?;
                    t.emit(Op::GroupedMatmulWeight(compute::GroupedMatmulWeight {
                        a: dy.raw(),
                        b: sx.raw(),
                        starts: ss.raw(),
                        out: dw.raw(),
                        accumulate,
                    }));
                }
                Ok(())
            }),
        );
        Ok(y)
    }

    fn emit_grouped(
        &mut self,
        a: Slot,
        (b, trans_b): (Slot, bool),
        starts: Slot,
        out: Slot,
        accumulate: bool,
    ) {
        self.emit(Op::GroupedMatmul(compute::GroupedMatmul {
            a: a.raw(),
            b: b.raw(),
            starts: starts.raw(),
            out: out.raw(),
            trans_b,
            accumulate,
        }));
    }

    /// A mixture of experts (Shazeer et al. 2017) without a capacity limit, so
    /// that no token sees what others chose: each row of x [..., C] goes
    /// through the MLPs of its `k` best experts, weighted by the softmax of
    /// their scores. router [E, C], up [E, H, C], down [E, C, H] → [..., C].
    /// Costs k times the flops of one MLP of width H.
    ///
    /// Also returns the scores [rows, E], for a balance loss of your own.
    /// ```no_run
    /// # use terrarium_sdk::{Result, Tape, Tensor, Var};
    /// # use terrarium_sdk::tape::Activation;
    /// # fn f(t: &mut Tape, x: Var, [router, up, down]: [Var; 3]) -> Result<()> {
    /// let (y, scores) = t.mixture(x, router, (up, down), 2, Activation::ReluSquared)?;
    /// # let _ = (y, scores);
    /// # Ok(()) }
    /// ```
    pub fn mixture(
        &mut self,
        x: Var,
        router: Var,
        (up, down): (Var, Var),
        k: u32,
        activation: Activation,
    ) -> Result<(Var, Var)> {
        let (rows, c) = self.rows_cols(x)?;
        let shape = self.shape(x).to_vec();
        let experts = match *self.shape(up) {
            [e, _, wc] if wc == c => e,
            _ => return Err(self.mismatch("mixture", x, up)),
        };
        let x = self.reshape(x, &[rows, c])?;
        let scores = self.linear(x, router)?;
        let (best, chosen) = self.top_k(scores, k)?;
        let gates = self.map_elements(&[best], &|e| {
            let p = (e[0] - e[0].row_max()).exp();
            p / p.row_sum()
        })?;
        let sorted = self.sort_by_key(chosen, experts, k)?;
        let picked = self.gather(x, sorted.sources)?;
        let h = self.grouped_linear(picked, up, sorted.starts)?;
        let h = self.map_elements(&[h], &|e| match activation {
            Activation::Identity => e[0],
            Activation::Relu => e[0].relu(),
            Activation::ReluSquared => e[0].relu().square(),
            Activation::Gelu => e[0].gelu(),
            Activation::Silu => e[0].silu(),
        })?;
        let y = self.grouped_linear(h, down, sorted.starts)?;
        // Back to the order of the tokens, k rows for each.
        let y = self.gather(y, sorted.places)?;
        let y = self.reshape(y, &[rows, k, c])?;
        let gates = self.reshape(gates, &[rows, 1, k])?;
        let y = self.matmul((gates, false), (y, false))?;
        Ok((self.reshape(y, &shape)?, scores))
    }
}
