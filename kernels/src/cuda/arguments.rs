//! What kernels take: the `#[repr(C)]` twins of the structs in
//! `kernels/cuda/*.cu`, field by field, in their order.

use super::driver::{Address, TensorMap};

macro_rules! twins {
    ($($(#[$doc:meta])* $name:ident { $($field:ident : $ty:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug)]
            pub(super) struct $name { $(pub $field: $ty),* }
        )*
    };
}

twins! {
    /// cuda.cuh. `first` is `u32::MAX` where there was none.
    Faults { first: u32, count: u32 }
    // moves.cu
    Fill { dst: Address, count: u64, bits: u32 }
    Random { dst: Address, counter: Address, count: u64, seed: u64, stream: u64, normal: u32, scale: f32 }
    Copy { src: Address, dst: Address, count: u64, from: u32, to: u32 }
    Columns {
        src: Address, dst: Address, rows: u64, src_cols: u64, dst_cols: u64,
        src_col: u64, dst_col: u64, width: u64, accumulate: u32,
    }
    Transpose { src: Address, dst: Address, batch: u64, rows: u64, cols: u64 }
    // matmul.cu
    MatMul {
        a: Address, b: Address, out: Address, batch: u64, m: u64, n: u64, k: u64,
        a_row: u64, a_col: u64, b_row: u64, b_col: u64, alpha: f32, accumulate: u32,
    }
    Grouped {
        a: Address, b: Address, out: Address, bounds: Address, groups: u64, k: u64, n: u64,
        trans_b: u32, accumulate: u32, of_weights: u32,
    }
    // epilogue.cuh
    End {
        out: Address, bias: Address, residual: Address, pre: Address, n: u64, alpha: f32, accumulate: u32,
        half: u32, half_residual: u32, half_pre: u32, activation: u32, backward: u32,
    }
    // product.cuh
    Work {
        partial: Address, end: End, batch: u64, m: u64, n: u64, k: u64, depth: u64, splits: u32,
        wide: u32,
    }
    // matmul_bf16.cu
    MatMulBf16 { a: Address, b: Address, work: Work, a_aligned: u32, b_aligned: u32 }
    // matmul_hopper.cu
    MatMulHopper { a: TensorMap, b: TensorMap, work: Work }
    // loss.cuh
    Loss {
        targets: Address, lse: Address, partial: Address, picked: Address, gradient: Address,
        faults: Address, step: u32, softcap: f32, grad_scale: f32,
    }
    // matmul_bf16.cu
    LossBf16 { product: MatMulBf16, loss: Loss }
    // matmul_hopper.cu
    LossHopper { product: MatMulHopper, loss: Loss }
    // cross_entropy_bf16.cu
    LossTotal { loss: Loss, losses: Address, lse: Address, rows: u64, vocabulary: u64 }
    // epilogue.cu
    Epilogue {
        out: Address, bias: Address, residual: Address, pre: Address, count: u64, cols: u64,
        half_residual: u32, half_pre: u32, activation: u32, backward: u32,
    }
    // experts.cu
    TopK { x: Address, values: Address, indices: Address, rows: u64, cols: u64, k: u64 }
    TopKBackward {
        dvalues: Address, indices: Address, dx: Address, rows: u64, cols: u64, k: u64, faults: Address,
        step: u32, accumulate: u32,
    }
    Sort {
        keys: Address, sources: Address, places: Address, starts: Address, count: u64, faults: Address,
        groups: u32, per_source: u32, step: u32,
    }
    Bounds { starts: Address, bounds: Address, faults: Address, count: u32, rows: u32, step: u32 }
    // reduce.cu
    Reduce {
        src: Address, dst: Address, partial: Address, rows: u64, cols: u64, scale: f32, accumulate: u32,
    }
    // norm.cu
    RmsNorm {
        x: Address, out: Address, inv_rms: Address, rows: u64, cols: u64, eps: f32, half_x: u32,
        half_out: u32,
    }
    RmsNormBackward {
        x: Address, inv_rms: Address, dout: Address, dx: Address, rows: u64, cols: u64, accumulate: u32,
        half_x: u32, half_dout: u32, half_dx: u32,
    }
    LayerNorm {
        x: Address, gain: Address, bias: Address, out: Address, mean: Address, inv_std: Address, rows: u64,
        cols: u64, eps: f32, half: u32,
    }
    LayerNormBackward {
        x: Address, gain: Address, mean: Address, inv_std: Address, dout: Address, dx: Address, rows: u64,
        cols: u64, accumulate: u32, half: u32,
    }
    LayerNormWeights {
        x: Address, mean: Address, inv_std: Address, dout: Address, partial: Address, rows: u64, cols: u64,
        band: u64, half: u32,
    }
    // rope.cu
    Rope {
        x: Address, out: Address, angles: Address, positions: u64, time: u64, heads: u64, dim: u64,
        inverse: u32,
    }
    RopeNorm {
        x: Address, out: Address, inv_rms: Address, angles: Address, positions: u64, time: u64, heads: u64,
        dim: u64, cols: u64, col: u64, eps: f32, half_x: u32, half_out: u32,
    }
    RopeNormBackward {
        out: Address, inv_rms: Address, dout: Address, dx: Address, angles: Address, positions: u64,
        time: u64, heads: u64, dim: u64, cols: u64, col: u64, accumulate: u32, half_out: u32, half_dx: u32,
    }
    // attention.cu
    Attention {
        q: Address, k: Address, v: Address, out: Address, lse: Address, dout: Address,
        delta: Address, dq: Address, dk: Address, dv: Address,
        batch: u64, time: u64, heads: u64, kv_heads: u64, dim: u64, window: u64,
        q_row: u64, k_row: u64, v_row: u64, scale: f32,
    }
    // attention_tiles.cuh
    AttentionBf16 {
        q: Address, k: Address, v: Address, out: Address, lse: Address, dout: Address,
        delta: Address, dq: Address, dk: Address, dv: Address,
        batch: u64, time: u64, heads: u64, kv_heads: u64, dim: u64, window: u64,
        q_row: u64, k_row: u64, v_row: u64, scale: f32, aligned: u32,
    }
    // attention_hopper.cu
    AttentionHopper { q: TensorMap, k: TensorMap, v: TensorMap, whole: AttentionBf16 }
    // attention_hopper_backward.cu
    AttentionHopperBackward {
        q: TensorMap, k: TensorMap, v: TensorMap, dout: TensorMap, whole: AttentionBf16,
    }
    // indexing.cu
    Gather {
        table: Address, indices: Address, out: Address, count: u64, cols: u64, faults: Address,
        entries: u32, step: u32,
    }
    ScatterAdd {
        src: Address, indices: Address, table: Address, count: u64, cols: u64, faults: Address,
        entries: u32, step: u32, accumulate: u32,
    }
    // cross_entropy.cu
    CrossEntropy {
        logits: Address, targets: Address, losses: Address, lse: Address, vocabulary: u64,
        faults: Address, step: u32, softcap: f32, grad_scale: f32,
    }
    // adamw.cu
    AdamW {
        param: Address, grad: Address, m: Address, v: Address, hyper: Address, rounded: Address, count: u64,
    }
    // row_map.cu
    Instruction {
        code: u32, dst_is_row: u32, dst: u32, source_kind: [u32; 4], source: [u32; 4], operand: u32,
    }
    CompiledRows { operands: [Address; 24], units: u64, pieces: u64, cols: u64 }
    RowStore { dst: Address, kind: u32, slot: u32 }
    RowMap {
        instructions: Address, inputs: Address, stores: Address, scratch: Address,
        rows: u64, cols: u64, tile_rows: u64, tile_cols: u64,
        prologue: u32, body: u32, store_count: u32, element_registers: u32, row_registers: u32,
    }
}

impl End {
    /// out (=|+=) the sums, `n` columns wide, bfloat16 if `half`.
    pub fn plain(out: Address, n: usize, half: bool, accumulate: bool) -> End {
        let (half, accumulate) = (u32::from(half), u32::from(accumulate));
        let n = n as u64;
        End {
            out,
            bias: 0,
            residual: 0,
            pre: 0,
            n,
            alpha: 1.0,
            accumulate,
            half,
            half_residual: 0,
            half_pre: 0,
            activation: 0,
            backward: 0,
        }
    }

    /// Whether kernels can finish 16 bytes of a row at a time: rows are whole
    /// pieces of 8 numbers, every matrix begins at one, and what is read fits
    /// the one place that there is for it.
    pub fn is_wide(&self, partial: Address) -> bool {
        let addresses = self.out | self.bias | self.residual | self.pre | partial;
        let read = [self.residual != 0, self.accumulate != 0, self.backward != 0];
        self.n.is_multiple_of(8)
            && addresses.is_multiple_of(16)
            && read.into_iter().filter(|r| *r).count() < 2
    }
}

/// Bytes of shared memory of kernels that need a fixed amount.
pub(super) mod shared {
    /// `ReduceShared`, `CrossEntropyShared`.
    pub const WARP_PARTS: usize = 32;
    /// `SortShared`.
    pub const SORT: usize = 8 * 4;
    /// `TransposeShared`.
    pub const TRANSPOSE: usize = 32 * 33 * 4;
    /// `MatMulShared`.
    pub const MATMUL: usize = 2 * 2 * 16 * 132 * 4;
    /// `PortableShared`: three stages of two tiles of 128 × 64 halves.
    pub const MATMUL_BF16: usize = 3 * 2 * 128 * 64 * 2;
    /// `AttentionBf16Shared`: 128 queries, and two stages of 64 keys and values.
    pub const fn attention_bf16(dim: usize) -> usize {
        (128 + 2 * 2 * 64) * dim * 2
    }
    /// `AttentionHopperShared`: 128 queries and outputs, two stages of 128 keys
    /// and values, nine barriers, up to the next 1024 bytes.
    pub const fn attention_hopper(dim: usize) -> usize {
        ((2 * 128 + 2 * 2 * 128) * dim * 2 + 9 * 8usize).next_multiple_of(1024)
    }
    /// `AttentionBackwardShared`: 128 rows of two operands, two stages of some
    /// rows of two others, and their log-sum-exps and deltas.
    pub const fn attention_backward_bf16(dim: usize) -> usize {
        let step = if dim == 128 { 32 } else { 64 };
        (2 * 128 + 2 * 2 * step) * dim * 2 + 2 * 2 * step * 4
    }
    /// `AttentionHopperBackwardShared`: 128 rows of two operands, three stages
    /// of 64 rows of two others, 128 rows of results, the stages' log-sum-exps
    /// and deltas, seven barriers, up to the next 1024 bytes.
    pub const fn attention_hopper_backward(dim: usize) -> usize {
        let rows = 2 * 128 + 3 * 2 * 64 + 128;
        (rows * dim * 2 + 3 * 2 * 64 * 4 + 7 * 8usize).next_multiple_of(1024)
    }
    /// `HopperShared`: four stages of 128 × 64 and 256 × 64 halves, eight ways
    /// out of 16 × 40 words, eight barriers, up to the next 1024 bytes.
    pub const MATMUL_HOPPER: usize =
        (4 * (128 + 256) * 64 * 2 + 8 * 16 * 40 * 4 + 8 * 8usize).next_multiple_of(1024);
    /// `ScatterAddShared`.
    pub const SCATTER_ADD: usize = (8 * 256 + 256 + 256 + 8) * 4;
}
