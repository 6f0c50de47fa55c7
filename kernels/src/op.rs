//! The typed operations of the device, one struct each.
//!
//! All tensors are dense and row-major, of rank 1 to 4. For an operand,
//! *cols* is its last dimension and *rows* the product of the others. An `Op`
//! is only a request: [`crate::validate`] turns a list of them into a
//! [`crate::Graph`], and nothing else can run.

use serde::{Deserialize, Serialize};

/// An opaque handle: generation in the high 32 bits, slot in the low. A
/// handle is only ever compared and looked up, so any bit pattern is safe.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TensorId(u64);

impl TensorId {
    /// From the bits that a guest holds. Any value is acceptable here; the
    /// device refuses what it did not hand out.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
    /// The bits that a guest may hold.
    pub const fn to_bits(self) -> u64 {
        self.0
    }
}

/// Element type.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// Two's complement, for indices and tokens.
    I32,
    /// bfloat16: the upper half of a binary32, to store. Sums are always made
    /// in `F32`; a result is rounded to the nearest, ties to even.
    Bf16,
}

impl DType {
    /// Bytes of an element.
    pub const fn bytes(self) -> u64 {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::Bf16 => 2,
        }
    }
}

/// Functions that a [`MatMulFused`] applies to its product.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Activation {
    /// z
    Identity,
    /// max(z, 0)
    Relu,
    /// max(z, 0)² (So et al. 2021)
    ReluSquared,
    /// z/2 · (1 + tanh(√(2/π) (z + 0.044715 z³))) (Hendrycks & Gimpel 2016)
    Gelu,
    /// z · sigmoid(z)
    Silu,
}

/// Distribution of [`Random`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Distribution {
    /// N(0, scale²), by Box-Muller.
    Normal,
    /// U(-scale, scale).
    Uniform,
}

/// One-argument functions of a row kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum UnaryOp {
    Negate,
    Absolute,
    Reciprocal,
    Square,
    SquareRoot,
    ReciprocalSquareRoot,
    Exponential,
    Logarithm,
    Tanh,
    Sigmoid,
    Relu,
    /// 1 where a > 0, else 0.
    Step,
    Sine,
    Cosine,
    Floor,
}

/// Two-argument functions of a row kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum BinaryOp {
    Add,
    Subtract,
    Multiply,
    Divide,
    Minimum,
    Maximum,
    /// 1 where a < b, else 0.
    LessThan,
    Power,
}

/// Reductions over the columns of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Reduction {
    Sum,
    Maximum,
}

/// What [`Reduce`] sums over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ReduceAxis {
    /// Over rows: one value per column.
    Rows,
    /// Over columns: one value per row.
    Cols,
    /// One value.
    All,
}

/// How an operand is laid over the \[rows, cols\] space of a row kernel; of
/// `F32` but where something else is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Layout {
    /// rows × cols elements, `F32` or `Bf16`.
    Element,
    /// `rows` elements.
    PerRow,
    /// `cols` elements.
    PerCol,
    /// One element.
    Scalar,
}

/// An input of a row kernel.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Operand {
    pub tensor: TensorId,
    pub layout: Layout,
}

/// A node of a row kernel; operands are numbers of earlier nodes.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Node {
    /// Input operand k.
    Input(u32),
    Constant(f32),
    Unary {
        op: UnaryOp,
        a: u32,
    },
    Binary {
        op: BinaryOp,
        a: u32,
        b: u32,
    },
    /// `then` where condition > 0, else `otherwise`.
    Select {
        condition: u32,
        then: u32,
        otherwise: u32,
    },
    /// Over the columns of each row: one value per row.
    Reduce {
        op: Reduction,
        a: u32,
    },
    /// The column number.
    ColIndex,
}

/// An output of a row kernel. `layout` is `Element` or `PerRow`.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Store {
    pub node: u32,
    pub tensor: TensorId,
    pub layout: Layout,
}

/// Queries, keys or values of an attention. A tensor of rank 4 is \[B,T,heads,D\]
/// and `col` 0; another has B·T rows of any length, heads·D columns of which,
/// from `col` on, are meant: a part of a fused projection.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Heads {
    pub tensor: TensorId,
    pub col: u32,
}

impl From<TensorId> for Heads {
    fn from(tensor: TensorId) -> Heads {
        Heads { tensor, col: 0 }
    }
}

macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident : $ty:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
            #[allow(missing_docs)]
            pub struct $name { $($(#[$fdoc])* pub $field: $ty),* }
            impl From<$name> for Op {
                fn from(op: $name) -> Op { Op::$name(op) }
            }
        )*
        /// An operation, unchecked.
        #[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
        #[allow(missing_docs)]
        pub enum Op { $($name($name)),* }
        impl Op {
            /// The operation's name, for errors and profiles.
            pub const fn name(&self) -> &'static str {
                match self { $(Op::$name(_) => stringify!($name)),* }
            }
        }
    };
}

ops! {
    /// dst = value (cast to an integer for `I32`).
    Fill { dst: TensorId, value: f32 }
    /// As [`Random`], with `counter` (I32 \[1\]) added to `stream` when it
    /// runs: each replay of a graph that steps the counter draws anew.
    RandomStep { dst: TensorId, seed: u64, stream: u64, counter: TensorId, distribution: Distribution, scale: f32 }
    /// Philox4x32-10 (Salmon et al., SC'11), keyed by `seed`, counter =
    /// (element number / 4, `stream`).
    Random { dst: TensorId, seed: u64, stream: u64, distribution: Distribution, scale: f32 }
    /// dst = src, cast; equal element counts.
    Copy { src: TensorId, dst: TensorId }
    /// dst\[:, dst_col..+width\] (=|+=) src\[:, src_col..+width\]; equal rows.
    Columns { src: TensorId, src_col: u32, dst: TensorId, dst_col: u32, width: u32, accumulate: bool }
    /// The last two dimensions exchanged.
    Transpose { src: TensorId, dst: TensorId }
    /// out (=|+=) alpha · op(a) · op(b), batched over the leading dimensions,
    /// which must be equal. Each operand is `F32` or `Bf16`; sums are made in
    /// `F32`.
    MatMul { a: TensorId, b: TensorId, out: TensorId, trans_a: bool, trans_b: bool, alpha: f32, accumulate: bool }
    /// z = alpha · op(a) · op(b) + bias, then out = act(z) + residual: a matrix
    /// product whose result is finished while it is in a cache. `bias` has one
    /// value per column, `residual` and `pre` the shape of out; `pre` receives
    /// z, which the gradient needs. With `backward` instead out = (alpha · op(a)
    /// · op(b)) ∘ act'(pre) and `pre` is read; bias and residual are refused.
    /// a, b, out, residual and pre may each be `F32` or `Bf16`, bias is `F32`.
    MatMulFused { a: TensorId, b: TensorId, out: TensorId, trans_a: bool, trans_b: bool, alpha: f32, bias: Option<TensorId>, residual: Option<TensorId>, pre: Option<TensorId>, activation: Activation, backward: bool }
    /// Rows starts\[g\]..starts\[g+1\] of out are (=|+=) those of a times
    /// op(b\[g\]); other rows are (=|+=) 0. a \[M,K\], b \[G,K,N\] (\[G,N,K\]
    /// if `trans_b`), out \[M,N\], starts I32 \[G+1\], ascending in 0..=M.
    GroupedMatMul { a: TensorId, b: TensorId, starts: TensorId, out: TensorId, trans_b: bool, accumulate: bool }
    /// out\[g\] (=|+=) aᵀ·b over the rows starts\[g\]..starts\[g+1\]: the
    /// gradient of the weights of a [`GroupedMatMul`]. a \[M,K\], b \[M,N\],
    /// out \[G,K,N\].
    GroupedMatMulWeight { a: TensorId, b: TensorId, starts: TensorId, out: TensorId, accumulate: bool }
    /// The k largest of each row in descending order, the lower index first
    /// among equals, NaN last. x \[…,E\], values \[…,k\], indices I32 \[…,k\],
    /// 1 ≤ k ≤ E.
    TopK { x: TensorId, values: TensorId, indices: TensorId }
    /// dx (=|+=) the gradient of [`TopK`]: dvalues at their places, else 0.
    TopKBackward { dvalues: TensorId, indices: TensorId, dx: TensorId, accumulate: bool }
    /// A stable counting sort of `keys` (I32 \[M\], in 0..G), for routing:
    /// sources\[p\] = (number of the key at sorted place p) / per_source,
    /// places\[n\] = sorted place of key n, starts\[g\] = first place of key
    /// g, starts\[G\] = M. sources, places I32 \[M\], starts I32 \[G+1\].
    SortByKey { keys: TensorId, sources: TensorId, places: TensorId, starts: TensorId, per_source: u32 }
    /// Layer normalisation (Ba et al. 2016): out = x̂ · gain + bias, x̂ = (x −
    /// mean) · inv_std, inv_std = 1/√(variance + eps). mean and inv_std have one
    /// value per row; gain (1 if there is none) and bias (0) one per column. out
    /// is `F32` or `Bf16`, the rest `F32`.
    LayerNorm { x: TensorId, gain: Option<TensorId>, bias: Option<TensorId>, out: TensorId, mean: TensorId, inv_std: TensorId, eps: f32 }
    /// Gradients of [`LayerNorm`]: with d = dout · gain, dx (=|+=) inv_std · (d −
    /// mean(d) − x̂ · mean(d · x̂)); dgain = Σ dout · x̂ and dbias = Σ dout over the
    /// rows, overwritten. dout is `F32` or `Bf16`, the rest `F32`.
    LayerNormBackward { x: TensorId, gain: Option<TensorId>, mean: TensorId, inv_std: TensorId, dout: TensorId, dx: TensorId, dgain: Option<TensorId>, dbias: Option<TensorId>, accumulate: bool }
    /// Queries or keys made ready in one pass: out\[b,t,h,:\] = rms_norm(rope(
    /// columns x_col + h·D.. of row b·T+t of x)), inv_rms \[B,T,H\]. x has B·T
    /// rows of any length, so that it may be a fused projection. x and out may
    /// each be `F32` or `Bf16`, the rest is `F32`.
    RopeNorm { x: TensorId, x_col: u32, out: TensorId, inv_rms: TensorId, base: f32, eps: f32 }
    /// The same columns of dx (=|+=) the gradient of [`RopeNorm`]. out and dout
    /// are both `F32` or both `Bf16`, dx is either, the rest `F32`; a `Bf16` dx
    /// that is added to is rounded once more.
    RopeNormBackward { out: TensorId, inv_rms: TensorId, dout: TensorId, dx: TensorId, dx_col: u32, base: f32, accumulate: bool }
    /// A row kernel over \[rows, cols\], in f32. Each `Element` input and each
    /// `Element` store is `F32` or `Bf16`, on its own; the rest is `F32`.
    RowMap { rows: u32, cols: u32, inputs: Vec<Operand>, nodes: Vec<Node>, stores: Vec<Store> }
    /// dst (=|+=) scale · Σ src over `axis`; src f32 or bf16, summed in f32.
    Reduce { src: TensorId, dst: TensorId, axis: ReduceAxis, scale: f32, accumulate: bool }
    /// out = x · inv_rms, inv_rms\[r\] = 1/√(mean x\[r,:\]² + eps); x and out
    /// may each be `F32` or `Bf16`, inv_rms is `F32`.
    RmsNorm { x: TensorId, out: TensorId, inv_rms: TensorId, eps: f32 }
    /// dx (=|+=) inv_rms · (dout − x · inv_rms² · mean(dout · x)); x, dout and
    /// dx may each be `F32` or `Bf16`, inv_rms is `F32`. A `Bf16` dx that is
    /// added to is rounded once more.
    RmsNormBackward { x: TensorId, inv_rms: TensorId, dout: TensorId, dx: TensorId, accumulate: bool }
    /// Rotary embedding (Su et al. 2021) of x \[B,T,H,D\], pairs (i, i + D/2),
    /// angle t · base^(−2i/D); `inverse` rotates back.
    Rope { x: TensorId, out: TensorId, base: f32, inverse: bool }
    /// Causal attention: out \[B,T,H,D\], H heads of q, `kv_heads` (a divisor of
    /// H) of k and v, lse \[B,H,T\]. Position t sees t−window+1..=t (window 0:
    /// 0..=t). q, k, v and out are all `F32` or all `Bf16`; lse is `F32`.
    Attention { q: Heads, k: Heads, v: Heads, kv_heads: u32, out: TensorId, lse: TensorId, window: u32, scale: f32 }
    /// Gradients of [`Attention`]: those of the heads in dq, dk, dv are
    /// overwritten, each tensor of which has the shape of that of q, k or v, and
    /// the same columns. They may be one tensor if the columns are disjoint. All
    /// but lse have the type of q.
    AttentionBackward { q: Heads, k: Heads, v: Heads, kv_heads: u32, out: TensorId, lse: TensorId, dout: TensorId, dq: TensorId, dk: TensorId, dv: TensorId, window: u32, scale: f32 }
    /// out\[n,:\] = table\[indices\[n\],:\].
    Gather { table: TensorId, indices: TensorId, out: TensorId }
    /// table\[indices\[n\],:\] += src\[n,:\] in the order of n, after zeroing the
    /// table unless `accumulate`.
    ScatterAdd { src: TensorId, indices: TensorId, table: TensorId, accumulate: bool }
    /// losses\[n\] = lse\[n\] − z\[n, targets\[n\]\], z = cap(x·weightᵀ),
    /// cap(z) = softcap·tanh(z/softcap) (softcap 0: none). x \[N,C\],
    /// weight \[V,C\], targets I32 \[N\]; a negative target is ignored (loss 0).
    /// Row-chunked: the logits are never stored. x and weight are both `F32` or
    /// both `Bf16`; losses and lse are `F32`.
    LinearCrossEntropy { x: TensorId, weight: TensorId, targets: TensorId, losses: TensorId, lse: TensorId, softcap: f32 }
    /// Gradient of grad_scale · Σ losses: dx overwritten, dweight (=|+=). dx has
    /// the type of x; dweight too, or is `F32`.
    LinearCrossEntropyBackward { x: TensorId, weight: TensorId, targets: TensorId, lse: TensorId, dx: TensorId, dweight: TensorId, softcap: f32, grad_scale: f32, accumulate: bool }
    /// Decoupled AdamW (Loshchilov & Hutter 2019). `hyper` F32 \[7\]: lr,
    /// beta1, beta2, eps, weight decay, 1−beta1^t, 1−beta2^t. `rounded`, `Bf16`
    /// and as large as param, becomes the new param, rounded.
    AdamW { param: TensorId, grad: TensorId, m: TensorId, v: TensorId, hyper: TensorId, rounded: Option<TensorId> }
}
