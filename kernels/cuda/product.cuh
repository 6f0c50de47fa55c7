// What both kernels for products of bfloat16 share: how work is divided, and
// how a warp brings its sums to memory.
//
// A product is cut into tiles of out and, where there are too few tiles to
// fill a card, along k into `splits` parts of `depth`; parts write their sums
// to `partial` [splits, batch, m, n] and `matmul_combine` adds them in order.
#pragma once
#include "epilogue.cuh"
#include "ptx.cuh"

struct Work {
    // Null where splits = 1.
    float* partial;
    End end;
    uint64_t batch, m, n, k, depth;
    uint32_t splits;
};

// A tile of out, and the range of k.
struct Part {
    uint64_t split, member, row, col, first, last;
};

// Tiles are walked in bands of 8 tiles of rows, so that the blocks that run at
// a time share what they read.
template <unsigned ROWS, unsigned COLS>
__device__ __forceinline__ Part part(const Work& w, uint64_t index) {
    constexpr uint64_t BAND = 8;
    uint64_t down = (w.m + ROWS - 1) / ROWS, across = (w.n + COLS - 1) / COLS;
    uint64_t tile = index % (down * across), outer = index / (down * across);
    uint64_t band = tile / (BAND * across), inside = tile % (BAND * across);
    uint64_t height = down - band * BAND < BAND ? down - band * BAND : BAND;
    uint64_t split = outer / w.batch, first = split * w.depth;
    return {split,
            outer % w.batch,
            (band * BAND + inside % height) * ROWS,
            inside / height * COLS,
            first,
            first + w.depth < w.k ? first + w.depth : w.k};
}
template <unsigned ROWS, unsigned COLS>
__device__ __forceinline__ uint64_t parts(const Work& w) {
    return (w.m + ROWS - 1) / ROWS * ((w.n + COLS - 1) / COLS) * w.batch * w.splits;
}

// Sums of 16 rows × 32 columns on their way from a warp's registers to memory;
// 8 words of padding keep the writes free of bank conflicts.
struct Stage {
    float at[16][40];
};

// Brings a warp's 16 × 32 sums there, `d[j]` being the fragment of columns
// 8j...
__device__ __forceinline__ void stage_fragment(Stage& stage, const float (&d)[4][4]) {
    unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4 * 2;
    __syncwarp();  // The last use of the stage is over.
#pragma unroll
    for (unsigned j = 0; j < 4; j++) {
        *reinterpret_cast<float2*>(&stage.at[g][8 * j + t]) = {d[j][0], d[j][1]};
        *reinterpret_cast<float2*>(&stage.at[g + 8][8 * j + t]) = {d[j][2], d[j][3]};
    }
    __syncwarp();
}

// What a product does with a warp's 16 × 32 sums from (row, col) on: finishes
// and stores them, or stores them as a part.
struct StoreEnd {
    __device__ __forceinline__ void operator()(Stage& stage, const Work& w, const Part& p, uint64_t row, uint64_t col,
                                               const float (&d)[4][4]) const {
        stage_fragment(stage, d);
        unsigned lane = threadIdx.x % 32;
        uint64_t c = col + lane;
        if (c >= w.n || row >= w.m) return;
        unsigned rows = w.m - row < 16 ? unsigned(w.m - row) : 16;
        uint64_t i = (p.member * w.m + row) * w.n + c;
        float* partial = w.partial ? w.partial + p.split * w.batch * w.m * w.n : nullptr;
#pragma unroll 2
        for (unsigned r = 0; r < rows; r++, i += w.n) {
            if (partial) partial[i] = stage.at[r][lane];
            else finish(w.end, i, c, stage.at[r][lane]);
        }
    }
};
