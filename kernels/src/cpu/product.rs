//! Matrix products over operands of either floating-point type.
//!
//! A bfloat16 operand is widened while it is packed, or, where it is not
//! packed, into scratch memory first; a bfloat16 result is rounded once, at
//! the end: the products and sums are those of `f32`. Where the machine has
//! AVX-512 BF16 or AMX, large products of two bfloat16 operands are made by it.

use std::ops::Range;

use super::epilogue::Epilogue;
#[cfg(target_arch = "x86_64")]
use super::gemm_amx::{Amx, RowPair};
#[cfg(target_arch = "x86_64")]
use super::gemm_avx512::Avx512Bf16;
use super::matmul::{self, Matrix, batched};
use super::moves::{Moved, convert};
#[cfg(target_arch = "x86_64")]
use super::packing::Pair;
use super::rounding::{narrow, widen};
#[cfg(target_arch = "x86_64")]
use super::{Level, level};
use super::{Output, Split};
use crate::step::MatMulDims;

/// Most floats of a buffer that is kept for the next product (16 MiB).
const KEPT: usize = 1 << 22;

/// Buffers for widened operands and results.
#[derive(Default)]
pub(crate) struct Wide {
    buffers: [Vec<f32>; 3],
}

/// An operand.
#[derive(Clone, Copy)]
pub(crate) enum Numbers<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u16]),
}

impl<'a> Numbers<'a> {
    pub const NONE: Numbers<'static> = Numbers::F32(&[]);

    pub fn len(self) -> usize {
        match self {
            Numbers::F32(values) => values.len(),
            Numbers::Bf16(bits) => bits.len(),
        }
    }

    /// As f32, widened to `line` where they are not.
    pub fn widened<'l>(self, line: &'l mut [f32]) -> &'l [f32]
    where
        'a: 'l,
    {
        match self {
            Numbers::F32(values) => values,
            Numbers::Bf16(bits) => {
                widen(bits, line);
                line
            }
        }
    }

    /// Some of them.
    pub fn part(self, range: Range<usize>) -> Numbers<'a> {
        match self {
            Numbers::F32(values) => Numbers::F32(&values[range]),
            Numbers::Bf16(bits) => Numbers::Bf16(&bits[range]),
        }
    }
}

/// A result.
pub(crate) enum Results<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [u16]),
}

/// A result that tasks write in parts.
#[derive(Clone, Copy)]
pub(crate) enum SharedResults {
    F32(Output),
    Bf16(Moved<u16>),
}

impl SharedResults {
    /// Bytes of an element.
    pub fn element(&self) -> usize {
        match self {
            SharedResults::F32(_) => size_of::<f32>(),
            SharedResults::Bf16(_) => size_of::<u16>(),
        }
    }

    /// Address of an element.
    ///
    /// # Panics
    /// If it is outside.
    pub fn addr(&self, at: usize) -> usize {
        match self {
            SharedResults::F32(out) => out.at(at).addr(),
            SharedResults::Bf16(out) => out.at(at).addr(),
        }
    }

    /// Elements `start..start + len`.
    ///
    /// # Safety
    /// As [`Output::range`].
    pub unsafe fn range(&self, start: usize, len: usize) -> Results<'_> {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                SharedResults::F32(out) => Results::F32(out.range(start, len)),
                SharedResults::Bf16(out) => Results::Bf16(out.range(start, len)),
            }
        }
    }
}

impl<'a> Results<'a> {
    /// For tasks that share it.
    pub fn shared(self) -> SharedResults {
        match self {
            Results::F32(out) => SharedResults::F32(Output::new(out)),
            Results::Bf16(out) => SharedResults::Bf16(Moved::new(out)),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Results::F32(values) => values.len(),
            Results::Bf16(bits) => bits.len(),
        }
    }

    /// What is behind the first `done`, if there is any.
    pub fn rest(&mut self, done: usize) -> Results<'_> {
        self.part(done.min(self.len())..self.len())
    }

    /// Some of them.
    pub fn part(&mut self, range: Range<usize>) -> Results<'_> {
        match self {
            Results::F32(values) => Results::F32(&mut values[range]),
            Results::Bf16(bits) => Results::Bf16(&mut bits[range]),
        }
    }
}

fn widened<'a>(split: Split, numbers: Numbers<'a>, buffer: &'a mut Vec<f32>) -> &'a [f32] {
    match numbers {
        Numbers::F32(values) => values,
        Numbers::Bf16(bits) => {
            if buffer.len() < bits.len() {
                buffer.resize(bits.len(), 0.0);
            }
            convert(split, bits, &mut buffer[..bits.len()], widen);
            &buffer[..bits.len()]
        }
    }
}

/// out (=|+=) alpha · op(a) · op(b), finished by `epilogue`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn run(
    split: Split,
    wide: &mut Wide,
    a: Numbers,
    b: Numbers,
    out: Results,
    dims: &MatMulDims,
    accumulate: bool,
    epilogue: Option<&Epilogue>,
) {
    let MatMulDims { batch, m, n, k, trans_a, trans_b, alpha, .. } = *dims;
    #[cfg(target_arch = "x86_64")]
    if matmul::is_large(m, n, k) {
        let out = out.shared();
        macro_rules! go {
            ($large:ident::<$($unit:ty),*>, $a:expr, $b:expr) => {{
                let (a, b) = (Matrix::new($a, m, k, trans_a), Matrix::new($b, k, n, trans_b));
                // SAFETY: it is large, and at this level; the results are this
                // step's.
                unsafe { matmul::$large::<$($unit),*>(split, batch, a, b, out, alpha, accumulate, epilogue) }
            }};
        }
        match (a, b) {
            (Numbers::F32(a), Numbers::F32(b)) => go!(large::<f32, f32>, a, b),
            (Numbers::F32(a), Numbers::Bf16(b)) => go!(large::<f32, u16>, a, b),
            (Numbers::Bf16(a), Numbers::F32(b)) => go!(large::<u16, f32>, a, b),
            (Numbers::Bf16(a), Numbers::Bf16(b)) if level() == Level::Amx => {
                go!(large_by::<Amx, RowPair, RowPair>, a, b);
            }
            (Numbers::Bf16(a), Numbers::Bf16(b)) if level() == Level::Avx512Bf16 => {
                go!(large_by::<Avx512Bf16, Pair, Pair>, a, b);
            }
            (Numbers::Bf16(a), Numbers::Bf16(b)) => go!(large::<u16, u16>, a, b),
        }
        return;
    }
    let [a_buffer, b_buffer, out_buffer] = &mut wide.buffers;
    let a = Matrix::new(widened(split, a, a_buffer), m, k, trans_a);
    let b = Matrix::new(widened(split, b, b_buffer), k, n, trans_b);
    match out {
        Results::F32(out) => batched(split, batch, a, b, out, alpha, accumulate, epilogue),
        Results::Bf16(out) => {
            if out_buffer.len() < out.len() {
                out_buffer.resize(out.len(), 0.0);
            }
            let sums = &mut out_buffer[..out.len()];
            if accumulate {
                convert(split, out, sums, widen);
            }
            batched(split, batch, a, b, sums, alpha, accumulate, epilogue);
            convert(split, sums, out, narrow);
        }
    }
    for buffer in &mut wide.buffers {
        if buffer.len() > KEPT {
            *buffer = Vec::new();
        }
    }
}
