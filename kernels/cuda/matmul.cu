// out (=|+=) alpha · A·B in f32, batched, either operand stored transposed.
//
// A block of 256 threads owns a tile of 128 × 128 of one product and walks
// along k in steps of 16, two buffers in turn: while one is multiplied the
// next is on its way from memory into registers. A thread owns 8 × 8 results,
// as two by two groups of 4 × 4, so that a warp reads shared memory without
// bank conflicts. Each result is summed in the order of k.
//
// Products by group take the same tiles. Where a group begins is read on the
// card, by each block: the launch has as many blocks as there could be tiles,
// and those that find none have nothing to do.
#include "cuda.cuh"

struct MatMulArguments {
    const float *a, *b;
    float* out;
    uint64_t batch, m, n, k;
    // Elements between rows and columns of A [m,k] and B [k,n].
    uint64_t a_row, a_col, b_row, b_col;
    float alpha;
    uint32_t accumulate;
};

constexpr unsigned SIDE = 128;
constexpr unsigned DEPTH = 16;

struct MatMulShared {
    // Both with k outermost; 4 words of padding keep float4 aligned and spread
    // the transposing stores over the banks.
    float a[2][DEPTH][SIDE + 4];
    float b[2][DEPTH][SIDE + 4];
};

// A tile of `rows` × k for one of the operands: which element of memory each
// of a thread's 8 loads is. Threads run along the dimension whose stride is 1.
struct TileLoad {
    const float* base;
    uint64_t along_stride, k_stride, along_count, k_count;
    uint64_t first;
    bool k_fastest;

    __device__ __forceinline__ unsigned along(unsigned i) const {
        unsigned e = threadIdx.x + i * THREADS;
        return k_fastest ? e / DEPTH : e % SIDE;
    }
    __device__ __forceinline__ unsigned depth(unsigned i) const {
        unsigned e = threadIdx.x + i * THREADS;
        return k_fastest ? e % DEPTH : e / SIDE;
    }
    __device__ __forceinline__ void load(uint64_t k, float (&values)[8]) const {
#pragma unroll
        for (unsigned i = 0; i < 8; i++) {
            uint64_t row = first + along(i), col = k + depth(i);
            values[i] = row < along_count && col < k_count ? base[row * along_stride + col * k_stride] : 0.0f;
        }
    }
    __device__ __forceinline__ void store(float (&tile)[DEPTH][SIDE + 4], const float (&values)[8]) const {
#pragma unroll
        for (unsigned i = 0; i < 8; i++) tile[depth(i)][along(i)] = values[i];
    }
};

// Where a tile of sums goes: from (row, col) on of out [rows, cols].
struct TileStore {
    float* out;
    uint64_t row, rows, col, cols;
    float alpha;
    uint32_t accumulate;
};

__device__ __forceinline__ void tile_product(MatMulShared& s, const TileLoad& load_a, const TileLoad& load_b,
                                             uint64_t depth, const TileStore& to) {
    float next_a[8], next_b[8];
    load_a.load(0, next_a);
    load_b.load(0, next_b);
    load_a.store(s.a[0], next_a);
    load_b.store(s.b[0], next_b);
    __syncthreads();

    unsigned ty = threadIdx.x / 16 * 4, tx = threadIdx.x % 16 * 4;
    float sums[8][8] = {};
    unsigned buffer = 0;
    for (uint64_t k = 0; k < depth; k += DEPTH) {
        bool more = k + DEPTH < depth;
        if (more) {
            load_a.load(k + DEPTH, next_a);
            load_b.load(k + DEPTH, next_b);
        }
#pragma unroll
        for (unsigned d = 0; d < DEPTH; d++) {
            float x[8], y[8];
#pragma unroll
            for (unsigned i = 0; i < 2; i++) {
                float4 va = *reinterpret_cast<const float4*>(&s.a[buffer][d][ty + i * 64]);
                float4 vb = *reinterpret_cast<const float4*>(&s.b[buffer][d][tx + i * 64]);
                x[i * 4] = va.x, x[i * 4 + 1] = va.y, x[i * 4 + 2] = va.z, x[i * 4 + 3] = va.w;
                y[i * 4] = vb.x, y[i * 4 + 1] = vb.y, y[i * 4 + 2] = vb.z, y[i * 4 + 3] = vb.w;
            }
#pragma unroll
            for (unsigned i = 0; i < 8; i++)
#pragma unroll
                for (unsigned j = 0; j < 8; j++) sums[i][j] = fmaf(x[i], y[j], sums[i][j]);
        }
        if (more) {
            load_a.store(s.a[buffer ^ 1], next_a);
            load_b.store(s.b[buffer ^ 1], next_b);
        }
        __syncthreads();
        buffer ^= 1;
    }

#pragma unroll
    for (unsigned i = 0; i < 8; i++) {
        uint64_t r = to.row + ty + i / 4 * 64 + i % 4;
        if (r >= to.rows) continue;
#pragma unroll
        for (unsigned j = 0; j < 8; j++) {
            uint64_t c = to.col + tx + j / 4 * 64 + j % 4;
            if (c >= to.cols) continue;
            float* at = to.out + r * to.cols + c;
            *at = (to.accumulate ? *at : 0.0f) + to.alpha * sums[i][j];
        }
    }
}

KERNEL(matmul, MatMulArguments, THREADS) {
    SHARED(MatMulShared, s);
    uint64_t down = (a.m + SIDE - 1) / SIDE, across = (a.n + SIDE - 1) / SIDE;
    uint64_t member = blockIdx.x / (down * across), tile = blockIdx.x % (down * across);
    uint64_t row = tile / across * SIDE, col = tile % across * SIDE;
    TileLoad load_a{a.a + member * a.m * a.k, a.a_row, a.a_col, a.m, a.k, row, a.a_col == 1};
    TileLoad load_b{a.b + member * a.k * a.n, a.b_col, a.b_row, a.n, a.k, col, a.b_row == 1 && a.b_col != 1};
    tile_product(s, load_a, load_b, a.k, {a.out + member * a.m * a.n, row, a.m, col, a.n, a.alpha, a.accumulate});
}

struct GroupedArguments {
    const float *a, *b;
    float* out;
    // Where each of the groups begins, and the last one ends: ascending in
    // 0..=rows.
    const uint32_t* bounds;
    uint64_t groups, k, n;
    uint32_t trans_b, accumulate, of_weights;
};

// Rows of each group of a [rows,k] times op(b[g]) [k,n]. `of_weights`:
// out[g] [k,n] (=|+=) aᵀ · b over the rows of each group; 0 where it has none.
KERNEL(matmul_grouped, GroupedArguments, THREADS) {
    SHARED(MatMulShared, s);
    uint64_t down = (a.k + SIDE - 1) / SIDE, across = (a.n + SIDE - 1) / SIDE, tile = blockIdx.x / across, group = 0;
    uint64_t col = blockIdx.x % across * SIDE, first, last, row;
    if (a.of_weights) {
        group = tile / down, row = tile % down * SIDE;
        first = a.bounds[group], last = a.bounds[group + 1];
    } else {
        for (;; group++) {
            if (group == a.groups) return;
            first = a.bounds[group], last = a.bounds[group + 1];
            uint64_t tiles = (last - first + SIDE - 1) / SIDE;
            if (tile < tiles) break;
            tile -= tiles;
        }
        row = first + tile * SIDE;
    }
    bool rows = !a.of_weights;
    const float* b = a.b + (rows ? group * a.k * a.n : first * a.n);
    TileLoad load_a{a.a + (rows ? 0 : first * a.k), rows ? a.k : 1, rows ? 1 : a.k, rows ? last : a.k,
                    rows ? a.k : last - first, row, rows};
    TileLoad load_b{b, a.trans_b ? a.k : 1, a.trans_b ? 1 : a.n, a.n, load_a.k_count, col, a.trans_b != 0};
    TileStore to{a.out + (rows ? 0 : group * a.k * a.n), row, load_a.along_count, col, a.n, 1.0f, a.accumulate};
    tile_product(s, load_a, load_b, load_a.k_count, to);
}
