//! A validated operation: handles resolved to ranges of storage, shapes to
//! dimensions. Only [`crate::validate`] makes one.

use crate::op::{Activation, DType, Distribution, ReduceAxis};
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
    /// Of q, k, v, the output and all gradients.
    pub dtype: DType,
    /// Elements from one position of q, k and v to the next, and of their
    /// gradients; rows of the output are dense.
    pub rows: [usize; 3],
}

impl AttentionDims {
    /// Elements of all heads of q, and of k or v.
    pub fn elements(&self) -> [usize; 2] {
        [self.heads, self.kv_heads].map(|heads| self.batch * self.time * heads * self.dim)
    }

    /// The same, of dense rows.
    pub fn dense(&self) -> AttentionDims {
        let rows = [self.heads, self.kv_heads, self.kv_heads].map(|heads| heads * self.dim);
        AttentionDims { rows, ..*self }
    }

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
    /// Of x, the weight and dx; and of dweight.
    pub dtypes: [DType; 2],
}

/// A batch of products out = alpha · op(a) · op(b), [m,k]·[k,n].
#[derive(Clone, Copy, Debug)]
pub(crate) struct MatMulDims {
    pub batch: usize,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub trans_a: bool,
    pub trans_b: bool,
    pub alpha: f32,
    /// Of a, b and out.
    pub dtypes: [DType; 3],
}

/// Dimensions of a grouped product: `rows` rows in `groups`, [k, n] matrices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupDims {
    pub groups: usize,
    pub rows: usize,
    pub k: usize,
    pub n: usize,
}

/// Heads of `dim` that lie side by side from column `col` on, in rows of
/// `cols`; row r is position r modulo `time`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadDims {
    pub positions: usize,
    pub time: usize,
    pub heads: usize,
    pub dim: usize,
    pub cols: usize,
    pub col: usize,
}

/// One validated operation; fields as in [`crate::op`].
#[derive(Debug)]
pub(crate) enum Step {
    Fill {
        dst: Span,
        bits: u32,
        dtype: DType,
    },
    Random {
        dst: Span,
        seed: u64,
        stream: u64,
        counter: Option<Span>,
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
        dtype: DType,
    },
    MatMul {
        a: Span,
        b: Span,
        out: Span,
        dims: MatMulDims,
        accumulate: bool,
    },
    MatMulFused {
        a: Span,
        b: Span,
        out: Span,
        dims: MatMulDims,
        bias: Option<Span>,
        residual: Option<Span>,
        residual_dtype: DType,
        pre: Option<Span>,
        pre_dtype: DType,
        activation: Activation,
        backward: bool,
    },
    GroupedMatMul {
        a: Span,
        b: Span,
        starts: Span,
        out: Span,
        dims: GroupDims,
        trans_b: bool,
        accumulate: bool,
    },
    GroupedMatMulWeight {
        a: Span,
        b: Span,
        starts: Span,
        out: Span,
        dims: GroupDims,
        accumulate: bool,
    },
    TopK {
        x: Span,
        values: Span,
        indices: Span,
        rows: usize,
        cols: usize,
        k: usize,
    },
    TopKBackward {
        dvalues: Span,
        indices: Span,
        dx: Span,
        rows: usize,
        cols: usize,
        k: usize,
        accumulate: bool,
    },
    SortByKey {
        keys: Span,
        sources: Span,
        places: Span,
        starts: Span,
        per_source: u32,
    },
    LayerNorm {
        x: Span,
        gain: Option<Span>,
        bias: Option<Span>,
        out: Span,
        mean: Span,
        inv_std: Span,
        rows: usize,
        cols: usize,
        eps: f32,
        /// Of out.
        dtype: DType,
    },
    LayerNormBackward {
        x: Span,
        gain: Option<Span>,
        mean: Span,
        inv_std: Span,
        dout: Span,
        dx: Span,
        dgain: Option<Span>,
        dbias: Option<Span>,
        rows: usize,
        cols: usize,
        accumulate: bool,
        /// Of dout.
        dtype: DType,
    },
    RopeNorm {
        x: Span,
        out: Span,
        inv_rms: Span,
        dims: HeadDims,
        base: f32,
        eps: f32,
        /// Of x, and of out.
        dtypes: [DType; 2],
    },
    RopeNormBackward {
        out: Span,
        inv_rms: Span,
        dout: Span,
        dx: Span,
        dims: HeadDims,
        base: f32,
        accumulate: bool,
        /// Of out and dout, and of dx.
        dtypes: [DType; 2],
    },
    RowMap {
        program: Box<Program>,
        inputs: Vec<Span>,
        stores: Vec<Span>,
    },
    Reduce {
        src: Span,
        dst: Span,
        /// Of src.
        dtype: DType,
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
        /// Of x, and of out.
        dtypes: [DType; 2],
    },
    RmsNormBackward {
        x: Span,
        inv_rms: Span,
        dout: Span,
        dx: Span,
        rows: usize,
        cols: usize,
        accumulate: bool,
        /// Of x, dout and dx.
        dtypes: [DType; 3],
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
        dtype: DType,
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
        rounded: Option<Span>,
    },
}

impl Step {
    /// The name of the operation that this was.
    pub const fn name(&self) -> &'static str {
        match self {
            Step::Fill { .. } => "Fill",
            Step::Random { counter: None, .. } => "Random",
            Step::Random { .. } => "RandomStep",
            Step::Copy { .. } => "Copy",
            Step::Columns { .. } => "Columns",
            Step::Transpose { .. } => "Transpose",
            Step::MatMul { .. } => "MatMul",
            Step::MatMulFused { .. } => "MatMulFused",
            Step::GroupedMatMul { .. } => "GroupedMatMul",
            Step::GroupedMatMulWeight { .. } => "GroupedMatMulWeight",
            Step::TopK { .. } => "TopK",
            Step::TopKBackward { .. } => "TopKBackward",
            Step::SortByKey { .. } => "SortByKey",
            Step::LayerNorm { .. } => "LayerNorm",
            Step::LayerNormBackward { .. } => "LayerNormBackward",
            Step::RopeNorm { .. } => "RopeNorm",
            Step::RopeNormBackward { .. } => "RopeNormBackward",
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
