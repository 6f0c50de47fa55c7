//! A validated operation: handles resolved to ranges of storage, shapes to
//! dimensions. Only [`crate::validate`] makes one.

use crate::op::{DType, Distribution, ReduceAxis};
use crate::row_kernel::Program;
use crate::table::Span;

/// Dimensions of an attention, `window` resolved (1..=time).
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionDims {
    pub batch: usize,
    pub time: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
    pub window: usize,
    pub scale: f32,
}

impl AttentionDims {
    /// First position that position `t` sees.
    pub fn first(&self, t: usize) -> usize {
        (t + 1).saturating_sub(self.window)
    }
}

/// Dimensions of a linear cross-entropy; `softcap` 0 is none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CrossEntropyDims {
    pub rows: usize,
    pub channels: usize,
    pub vocabulary: usize,
    pub softcap: f32,
}

/// One validated operation; fields as in [`crate::op`].
#[derive(Debug)]
pub(crate) enum Step {
    Fill {
        dst: Span,
        bits: u32,
    },
    Random {
        dst: Span,
        seed: u64,
        stream: u64,
        distribution: Distribution,
        scale: f32,
    },
    Copy {
        src: Span,
        dst: Span,
        from: DType,
        to: DType,
    },
    Columns {
        src: Span,
        dst: Span,
        rows: usize,
        src_cols: usize,
        dst_cols: usize,
        src_col: usize,
        dst_col: usize,
        width: usize,
        accumulate: bool,
        dtype: DType,
    },
    Transpose {
        src: Span,
        dst: Span,
        batch: usize,
        rows: usize,
        cols: usize,
    },
    MatMul {
        a: Span,
        b: Span,
        out: Span,
        batch: usize,
        m: usize,
        n: usize,
        k: usize,
        trans_a: bool,
        trans_b: bool,
        alpha: f32,
        accumulate: bool,
    },
    RowMap {
        program: Box<Program>,
        inputs: Vec<Span>,
        stores: Vec<Span>,
    },
    Reduce {
        src: Span,
        dst: Span,
        rows: usize,
        cols: usize,
        axis: ReduceAxis,
        scale: f32,
        accumulate: bool,
    },
    RmsNorm {
        x: Span,
        out: Span,
        inv_rms: Span,
        rows: usize,
        cols: usize,
        eps: f32,
    },
    RmsNormBackward {
        x: Span,
        inv_rms: Span,
        dout: Span,
        dx: Span,
        rows: usize,
        cols: usize,
        accumulate: bool,
    },
    Rope {
        x: Span,
        out: Span,
        batch: usize,
        time: usize,
        heads: usize,
        dim: usize,
        base: f32,
        inverse: bool,
    },
    Attention {
        q: Span,
        k: Span,
        v: Span,
        out: Span,
        lse: Span,
        dims: AttentionDims,
    },
    AttentionBackward {
        q: Span,
        k: Span,
        v: Span,
        out: Span,
        lse: Span,
        dout: Span,
        dq: Span,
        dk: Span,
        dv: Span,
        dims: AttentionDims,
    },
    Gather {
        table: Span,
        indices: Span,
        out: Span,
        entries: usize,
        cols: usize,
    },
    ScatterAdd {
        src: Span,
        indices: Span,
        table: Span,
        entries: usize,
        cols: usize,
        accumulate: bool,
    },
    LinearCrossEntropy {
        x: Span,
        weight: Span,
        targets: Span,
        losses: Span,
        lse: Span,
        dims: CrossEntropyDims,
    },
    LinearCrossEntropyBackward {
        x: Span,
        weight: Span,
        targets: Span,
        lse: Span,
        dx: Span,
        dweight: Span,
        dims: CrossEntropyDims,
        grad_scale: f32,
        accumulate: bool,
    },
    AdamW {
        param: Span,
        grad: Span,
        m: Span,
        v: Span,
        hyper: Span,
    },
}

impl Step {
    /// The name of the operation that this was.
    pub const fn name(&self) -> &'static str {
        match self {
            Step::Fill { .. } => "Fill",
            Step::Random { .. } => "Random",
            Step::Copy { .. } => "Copy",
            Step::Columns { .. } => "Columns",
            Step::Transpose { .. } => "Transpose",
            Step::MatMul { .. } => "MatMul",
            Step::RowMap { .. } => "RowMap",
            Step::Reduce { .. } => "Reduce",
            Step::RmsNorm { .. } => "RmsNorm",
            Step::RmsNormBackward { .. } => "RmsNormBackward",
            Step::Rope { .. } => "Rope",
            Step::Attention { .. } => "Attention",
            Step::AttentionBackward { .. } => "AttentionBackward",
            Step::Gather { .. } => "Gather",
            Step::ScatterAdd { .. } => "ScatterAdd",
            Step::LinearCrossEntropy { .. } => "LinearCrossEntropy",
            Step::LinearCrossEntropyBackward { .. } => "LinearCrossEntropyBackward",
            Step::AdamW { .. } => "AdamW",
        }
    }
}
