// What the kernels for attention over bfloat16 share: their arguments, tiles of
// a head's rows in shared memory, and how a warp multiplies them by mma.sync.
#pragma once
#include "ptx.cuh"

struct AttentionBf16Arguments {
    const uint16_t *q, *k, *v;
    uint16_t* out;
    float* lse;
    const uint16_t* dout;
    // delta [B,H,T]: dout · out of each query.
    float* delta;
    uint16_t *dq, *dk, *dv;
    uint64_t batch, time, heads, kv_heads, dim, window;
    // Elements from one position of q, k and v to the next, and of their
    // gradients; rows of out and dout are dense.
    uint64_t q_row, k_row, v_row;
    float scale;
    // Whether all rows are aligned to 16 bytes.
    uint32_t aligned;
};

constexpr float LN_2 = 0.69314718f;
// Rows that a block of 8 warps owns, 16 a warp.
constexpr unsigned OWN_ROWS = 128, WARP_ROWS = 16;

// A tile has rows of D elements, cut into pieces of 16 bytes whose place is
// exchanged by the row's number, so that the eight rows that ldmatrix reads at
// a time lie in different banks.
template <unsigned D>
__device__ __forceinline__ unsigned piece_of(unsigned row, unsigned col) {
    return row * D + (col / 8 ^ (row & 7)) * 8;
}

// Starts the copies of ROWS rows from `first` on of a head; what lies outside
// of it becomes 0. `stride` elements lie between rows.
template <unsigned D, unsigned ROWS>
__device__ __forceinline__ void start_rows(uint16_t* tile, const uint16_t* head, uint64_t first, uint64_t stride,
                                           const AttentionBf16Arguments& a) {
    constexpr unsigned PIECES = D / 8;
#pragma unroll
    for (unsigned i = 0; i < ROWS * PIECES / THREADS; i++) {
        unsigned e = threadIdx.x + i * THREADS, row = e / PIECES, col = e % PIECES * 8;
        unsigned left = first + row < a.time && col < a.dim ? unsigned(a.dim) - col : 0;
        uint16_t* dst = tile + piece_of<D>(row, col);
        const uint16_t* src = left ? head + (first + row) * stride + col : head;
        if (a.aligned) {
            copy_async_16(dst, src, left ? 16 : 0);
        } else {
#pragma unroll
            for (unsigned j = 0; j < 8; j++) dst[j] = j < left ? src[j] : uint16_t(0);
        }
    }
}

// Rows row.. and columns col.. of a tile as the left operand, 16 × 16.
template <unsigned D>
__device__ __forceinline__ void left_fragment(uint32_t (&r)[4], const uint16_t* tile, unsigned row, unsigned col) {
    unsigned lane = threadIdx.x % 32;
    load_matrices(r, tile + piece_of<D>(row + lane / 8 % 2 * 8 + lane % 8, col + lane / 16 * 8));
}
// The same part as the right operand of x · tileᵀ: registers 0 and 1 for rows
// row.., 2 and 3 for the next 8.
template <unsigned D>
__device__ __forceinline__ void across_fragment(uint32_t (&r)[4], const uint16_t* tile, unsigned row, unsigned col) {
    unsigned lane = threadIdx.x % 32;
    load_matrices(r, tile + piece_of<D>(row + lane / 16 * 8 + lane % 8, col + lane / 8 % 2 * 8));
}
// … of x · tile: registers 0 and 1 for columns col.., 2 and 3 for the next 8.
template <unsigned D>
__device__ __forceinline__ void along_fragment(uint32_t (&r)[4], const uint16_t* tile, unsigned row, unsigned col) {
    unsigned lane = threadIdx.x % 32;
    load_matrices_transposed(r, tile + piece_of<D>(row + lane / 8 % 2 * 8 + lane % 8, col + lane / 16 * 8));
}

// z [16, 8N], `z[j]` being the fragment of columns 8j.., as a left operand of
// bfloat16: columns 16i...
template <unsigned N>
__device__ __forceinline__ void as_left(uint32_t (&r)[4], const float (&z)[N][4], unsigned i) {
    r[0] = pack_bfloat16(z[2 * i][0], z[2 * i][1]);
    r[1] = pack_bfloat16(z[2 * i][2], z[2 * i][3]);
    r[2] = pack_bfloat16(z[2 * i + 1][0], z[2 * i + 1][1]);
    r[3] = pack_bfloat16(z[2 * i + 1][2], z[2 * i + 1][3]);
}

// sums [16, D] += z [16, 8N] · rows row.. of the tile.
template <unsigned D, unsigned N>
__device__ __forceinline__ void add_product(float (&sums)[D / 8][4], const float (&z)[N][4], const uint16_t* tile,
                                            unsigned row) {
#pragma unroll
    for (unsigned i = 0; i < N / 2; i++) {
        uint32_t x[4];
        as_left(x, z, i);
#pragma unroll
        for (unsigned n = 0; n < D / 16; n++) {
            uint32_t y[4];
            along_fragment<D>(y, tile, row + 16 * i, 16 * n);
            multiply_16x8x16(sums[2 * n], x, y[0], y[1]);
            multiply_16x8x16(sums[2 * n + 1], x, y[2], y[3]);
        }
    }
}

// Writes a warp's sums [16, D], its rows r and r + 8 times factor[0] and
// factor[1], as rows first + row.. of a head. They pass through rows row.. of
// `tile`, which the warp needs no more.
template <unsigned D>
__device__ __forceinline__ void store_rows(uint16_t* tile, unsigned row, const float (&sums)[D / 8][4],
                                           const float (&factor)[2], uint16_t* head, uint64_t first, uint64_t stride,
                                           const AttentionBf16Arguments& a) {
    unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4 * 2;
    __syncwarp();  // The rows have been read by all lanes.
#pragma unroll
    for (unsigned j = 0; j < D / 8; j++) {
        *reinterpret_cast<uint32_t*>(tile + piece_of<D>(row + g, 8 * j) + t) =
            pack_bfloat16(sums[j][0] * factor[0], sums[j][1] * factor[0]);
        *reinterpret_cast<uint32_t*>(tile + piece_of<D>(row + g + 8, 8 * j) + t) =
            pack_bfloat16(sums[j][2] * factor[1], sums[j][3] * factor[1]);
    }
    __syncwarp();
    constexpr unsigned PIECES = D / 8;
#pragma unroll
    for (unsigned i = 0; i < WARP_ROWS * PIECES / 32; i++) {
        unsigned e = lane + 32 * i, r = row + e / PIECES, col = e % PIECES * 8;
        if (first + r >= a.time || col >= a.dim) continue;
        const uint16_t* src = tile + piece_of<D>(r, col);
        uint16_t* dst = head + (first + r) * stride + col;
        if (a.aligned) {
            *reinterpret_cast<float4*>(dst) = *reinterpret_cast<const float4*>(src);
        } else {
            for (unsigned j = 0; j < 8 && col + j < a.dim; j++) dst[j] = src[j];
        }
    }
}

// Over the 4 lanes that share a row of a fragment.
__device__ __forceinline__ float quad_sum(float value) {
    value += __shfl_xor_sync(ALL_LANES, value, 1);
    return value + __shfl_xor_sync(ALL_LANES, value, 2);
}
__device__ __forceinline__ float quad_maximum(float value) {
    value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 1));
    return fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 2));
}

// Where a head of a member of the batch begins, its rows being `row` apart.
__device__ __forceinline__ uint64_t head_offset(const AttentionBf16Arguments& a, uint64_t member, uint64_t head,
                                                uint64_t row) {
    return member * a.time * row + head * a.dim;
}

// Which member of the batch, head and rows a block has; the longest rows
// first, as they have most to do.
struct OwnRows {
    uint64_t member, head, first;
};
__device__ __forceinline__ OwnRows own_rows(uint64_t heads, uint64_t time, bool last_first) {
    uint64_t blocks = (time + OWN_ROWS - 1) / OWN_ROWS, pairs = gridDim.x / blocks;
    uint64_t pair = blockIdx.x % pairs, block = blockIdx.x / pairs;
    if (last_first) block = blocks - 1 - block;
    return {pair / heads, pair % heads, block * OWN_ROWS};
}
