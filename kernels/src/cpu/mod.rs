//! The CPU backend.
//!
//! Every step is cut into tasks by its shape alone, never by the number of
//! threads, and each task writes a range of its own in an order of its own.
//! So results do not depend on how many threads there are or who runs what.

mod adamw;
mod attention;
mod attention_backward;
mod cross_entropy;
mod indexing;
mod math;
mod matmul;
mod moves;
mod norm;
mod philox;
mod random;
mod reduce;
mod rope;
mod row_map;
mod scratch;
mod simd;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rayon::prelude::*;

use crate::error::fail;
use crate::step::Step;
use crate::table::Table;
use crate::validate::Graph;
use crate::{Error, cost};

/// Fuel below which a step runs on one thread: handing it to another would
/// take as long as doing it.
const PARALLEL_FROM: u64 = 400_000;

/// Threads and cached tables of a CPU device.
pub(crate) struct Cpu {
    /// None: one thread, the caller's.
    pool: Option<rayon::ThreadPool>,
    rope: rope::Tables,
}

impl Cpu {
    pub fn new(threads: usize) -> Result<Cpu, Error> {
        simd::level();
        let pool = match rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("kernels-{i}"))
            .build()
        {
            Ok(pool) => pool,
            Err(error) => {
                return fail!(
                    InvalidArgument,
                    "cannot start {threads} kernel threads: {error}"
                );
            }
        };
        let pool = (pool.current_num_threads() > 1).then_some(pool);
        Ok(Cpu {
            pool,
            rope: rope::Tables::default(),
        })
    }

    pub fn run(&mut self, table: &Table, graph: &Graph) -> Result<(), Error> {
        let faults = Faults::default();
        let Cpu { pool, rope } = self;
        // One hand-over for the whole graph: steps then split from inside.
        match pool {
            Some(pool) => pool.install(|| steps(table, graph, rope, true, &faults)),
            None => steps(table, graph, rope, false, &faults),
        }
        faults.report(graph)
    }
}

fn steps(table: &Table, graph: &Graph, rope: &mut rope::Tables, pooled: bool, faults: &Faults) {
    for (index, step) in graph.steps().iter().enumerate() {
        let split = Split {
            parallel: pooled && cost::fuel(step) >= PARALLEL_FROM,
        };
        // An op list has at most MAX_OPS entries.
        run_step(table, step, split, rope, &faults.of(index as u32));
    }
}

/// Runs the tasks of one step.
#[derive(Clone, Copy)]
pub(crate) struct Split {
    parallel: bool,
}

impl Split {
    /// `task(0)`, …, `task(tasks − 1)`, in any order, each once.
    pub fn each(self, tasks: usize, task: impl Fn(usize) + Sync + Send) {
        if self.parallel && tasks > 1 {
            (0..tasks).into_par_iter().with_max_len(1).for_each(task);
        } else {
            (0..tasks).for_each(task);
        }
    }
}

/// An output that tasks write in parts.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    base: *mut f32,
    len: usize,
}

// SAFETY: an `Output` is an address and a length. Dereferencing is unsafe and
// its contract (disjoint ranges) is what makes sharing sound.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    pub fn new(slice: &mut [f32]) -> Output {
        Output {
            base: slice.as_mut_ptr(),
            len: slice.len(),
        }
    }

    /// # Safety
    /// `base..base + len` is memory that the step owns as an output.
    pub unsafe fn from_raw(base: *mut f32, len: usize) -> Output {
        Output { base, len }
    }

    /// Elements `start..start + len`.
    ///
    /// # Safety
    /// While the slice is alive nothing else reads or writes the range: tasks
    /// of a step take disjoint ranges.
    ///
    /// # Panics
    /// If the range leaves the output.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn range(&self, start: usize, len: usize) -> &mut [f32] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: in bounds (checked), exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(start), len) }
    }

    /// Address of element `start`.
    ///
    /// # Panics
    /// If `start` leaves the output.
    pub fn at(&self, start: usize) -> *mut f32 {
        assert!(start < self.len);
        // SAFETY: in bounds (checked).
        unsafe { self.base.add(start) }
    }
}

/// Index errors of a run: how many, and the first step that had one.
struct Faults {
    first: AtomicU32,
    count: AtomicU64,
}

impl Default for Faults {
    fn default() -> Self {
        Faults {
            first: AtomicU32::new(u32::MAX),
            count: AtomicU64::new(0),
        }
    }
}

impl Faults {
    fn of(&self, step: u32) -> StepFaults<'_> {
        StepFaults { faults: self, step }
    }

    fn report(&self, graph: &Graph) -> Result<(), Error> {
        let (first, count) = (
            self.first.load(Ordering::Relaxed),
            self.count.load(Ordering::Relaxed),
        );
        match graph.steps().get(first as usize) {
            None => Ok(()),
            Some(step) => {
                let error = fail!(
                    IndexRange,
                    "{count} indices were out of range and were clamped"
                );
                error.map_err(|error: Error| error.at(first, step.name()))
            }
        }
    }
}

/// Where the kernels of one step report indices out of range.
pub(crate) struct StepFaults<'a> {
    faults: &'a Faults,
    step: u32,
}

impl StepFaults<'_> {
    pub fn add(&self, count: u64) {
        if count > 0 {
            self.faults.count.fetch_add(count, Ordering::Relaxed);
            self.faults.first.fetch_min(self.step, Ordering::Relaxed);
        }
    }

    /// `index` if it is in `0..bound`, else the nearest that is.
    pub fn clamp(&self, index: i32, bound: usize) -> usize {
        match usize::try_from(index) {
            Ok(index) if index < bound => index,
            Ok(_) => {
                self.add(1);
                bound - 1
            }
            Err(_) => {
                self.add(1);
                0
            }
        }
    }
}

fn run_step(t: &Table, step: &Step, split: Split, rope: &mut rope::Tables, faults: &StepFaults) {
    // SAFETY (of this function's reads and writes): the validator has proved
    // that a written range overlaps no other operand of its step, except in a
    // row map, which takes pointers; and `Device::run` holds the table for
    // the time of the run.
    macro_rules! input {
        ($span:expr) => {
            // SAFETY: see above.
            unsafe { t.f32(*$span) }
        };
    }
    macro_rules! indices {
        ($span:expr) => {
            // SAFETY: see above.
            unsafe { t.i32(*$span) }
        };
    }
    macro_rules! output {
        ($span:expr) => {
            // SAFETY: see above.
            unsafe { t.f32_mut(*$span) }
        };
    }
    macro_rules! bits {
        ($span:expr) => {
            // SAFETY: see above.
            unsafe { t.bits(*$span) }
        };
    }
    macro_rules! output_bits {
        ($span:expr) => {
            // SAFETY: see above.
            unsafe { t.bits_mut(*$span) }
        };
    }
    match step {
        Step::Fill { dst, bits } => output_bits!(dst).fill(*bits),
        Step::Random {
            dst,
            seed,
            stream,
            distribution,
            scale,
        } => {
            random::fill(split, output!(dst), *seed, *stream, *distribution, *scale);
        }
        Step::Copy { src, dst, from, to } => {
            moves::copy(split, bits!(src), output_bits!(dst), *from, *to);
        }
        Step::Columns {
            src,
            dst,
            rows,
            src_cols,
            dst_cols,
            src_col,
            dst_col,
            width,
            accumulate,
            dtype,
        } => {
            let from = moves::Side {
                cols: *src_cols,
                col: *src_col,
            };
            let to = moves::Side {
                cols: *dst_cols,
                col: *dst_col,
            };
            let how = accumulate.then_some(*dtype);
            moves::columns(
                split,
                bits!(src),
                output_bits!(dst),
                *rows,
                from,
                to,
                *width,
                how,
            );
        }
        Step::Transpose {
            src,
            dst,
            batch,
            rows,
            cols,
        } => {
            moves::transpose(split, bits!(src), output_bits!(dst), *batch, *rows, *cols);
        }
        Step::MatMul {
            a,
            b,
            out,
            batch,
            m,
            n,
            k,
            trans_a,
            trans_b,
            alpha,
            accumulate,
        } => {
            let a = matmul::Matrix::new(input!(a), *m, *k, *trans_a);
            let b = matmul::Matrix::new(input!(b), *k, *n, *trans_b);
            matmul::batched(split, *batch, a, b, output!(out), *alpha, *accumulate);
        }
        Step::RowMap {
            program,
            inputs,
            stores,
        } => {
            row_map::run(split, t, program, inputs, stores);
        }
        Step::Reduce {
            src,
            dst,
            rows,
            cols,
            axis,
            scale,
            accumulate,
        } => {
            reduce::run(
                split,
                input!(src),
                output!(dst),
                *rows,
                *cols,
                *axis,
                *scale,
                *accumulate,
            );
        }
        Step::RmsNorm {
            x,
            out,
            inv_rms,
            rows,
            cols,
            eps,
        } => {
            norm::forward(
                split,
                input!(x),
                output!(out),
                output!(inv_rms),
                *rows,
                *cols,
                *eps,
            );
        }
        Step::RmsNormBackward {
            x,
            inv_rms,
            dout,
            dx,
            rows,
            cols,
            accumulate,
        } => {
            let (x, inv_rms, dout) = (input!(x), input!(inv_rms), input!(dout));
            norm::backward(
                split,
                x,
                inv_rms,
                dout,
                output!(dx),
                *rows,
                *cols,
                *accumulate,
            );
        }
        Step::Rope {
            x,
            out,
            batch,
            time,
            heads,
            dim,
            base,
            inverse,
        } => {
            let table = rope.get(*time, *dim, *base);
            rope::rotate(
                split,
                input!(x),
                output!(out),
                &table,
                *batch * *time,
                *time,
                *heads,
                *dim,
                *inverse,
            );
        }
        Step::Attention {
            q,
            k,
            v,
            out,
            lse,
            dims,
        } => {
            let (q, k, v) = (input!(q), input!(k), input!(v));
            attention::forward(split, q, k, v, output!(out), output!(lse), dims);
        }
        Step::AttentionBackward {
            q,
            k,
            v,
            out,
            lse,
            dout,
            dq,
            dk,
            dv,
            dims,
        } => {
            let inputs = attention_backward::Inputs {
                q: input!(q),
                k: input!(k),
                v: input!(v),
                out: input!(out),
                lse: input!(lse),
                dout: input!(dout),
            };
            attention_backward::backward(
                split,
                inputs,
                output!(dq),
                output!(dk),
                output!(dv),
                dims,
            );
        }
        Step::Gather {
            table,
            indices,
            out,
            entries,
            cols,
        } => {
            let (table, indices) = (input!(table), indices!(indices));
            indexing::gather(split, table, indices, output!(out), *entries, *cols, faults);
        }
        Step::ScatterAdd {
            src,
            indices,
            table,
            entries,
            cols,
            accumulate,
        } => {
            let (src, indices, table) = (input!(src), indices!(indices), output!(table));
            indexing::scatter_add(
                split,
                src,
                indices,
                table,
                *entries,
                *cols,
                *accumulate,
                faults,
            );
        }
        Step::LinearCrossEntropy {
            x,
            weight,
            targets,
            losses,
            lse,
            dims,
        } => {
            let (x, weight, targets) = (input!(x), input!(weight), indices!(targets));
            let (losses, lse) = (output!(losses), output!(lse));
            cross_entropy::forward(split, x, weight, targets, losses, lse, dims, faults);
        }
        Step::LinearCrossEntropyBackward {
            x,
            weight,
            targets,
            lse,
            dx,
            dweight,
            dims,
            grad_scale,
            accumulate,
        } => {
            let inputs = cross_entropy::Inputs {
                x: input!(x),
                weight: input!(weight),
                targets: indices!(targets),
                lse: input!(lse),
            };
            let (dx, dweight) = (output!(dx), output!(dweight));
            cross_entropy::backward(
                split,
                inputs,
                dx,
                dweight,
                dims,
                *grad_scale,
                *accumulate,
                faults,
            );
        }
        Step::AdamW {
            param,
            grad,
            m,
            v,
            hyper,
        } => {
            let (grad, hyper) = (input!(grad), input!(hyper));
            adamw::step(split, output!(param), grad, output!(m), output!(v), hyper);
        }
    }
}
