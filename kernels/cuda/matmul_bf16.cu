// out = end(alpha · op(A) · op(B)) of bfloat16 on tensor cores, sums in f32,
// for sm_80 and later: cp.async, ldmatrix and mma.sync.
//
// A block of 8 warps owns a tile of 128 × 128 and walks along k in steps of
// 64 through a ring of three stages, two of them on their way while one is
// multiplied. A warp owns 64 × 32. A row of a stage is cut into pieces of 16
// bytes, whose place is exchanged by the row's number, so that the eight rows
// that ldmatrix reads at a time lie in different banks. Rows that cp.async
// cannot read (not aligned to 16 bytes) are loaded by element.
//
// The last two kernels are the first product of a linear cross-entropy, whose
// end is in loss.cuh.
#include "loss.cuh"

struct MatMulBf16Arguments {
    const uint16_t *a, *b;
    Work work;
    // Whether rows of a, b are aligned to 16 bytes.
    uint32_t a_aligned, b_aligned;
};

constexpr unsigned PORTABLE_SIDE = 128, PORTABLE_DEPTH = 64, PORTABLE_STAGES = 3;

// 128 along m or n × 64 along k, either fastest.
struct alignas(128) OperandTile {
    uint16_t at[PORTABLE_SIDE * PORTABLE_DEPTH];
};
struct PortableShared {
    union {
        struct {
            OperandTile a, b;
        } stages[PORTABLE_STAGES];
        Stage out[WARPS];
    };
};

// Where piece `piece` of 8 elements of row `row` lies.
template <bool k_fastest>
__device__ __forceinline__ unsigned piece_at(unsigned row, unsigned piece) {
    constexpr unsigned LENGTH = k_fastest ? PORTABLE_DEPTH : PORTABLE_SIDE;
    return row * LENGTH + (piece ^ (row & 7)) * 8;
}

// Starts the copy of the tile at (along, k) of a matrix of `count` × `last`.
template <bool k_fastest>
__device__ __forceinline__ void start_tile(OperandTile& tile, const uint16_t* matrix, uint64_t along, uint64_t count,
                                           uint64_t k, uint64_t last, uint64_t stride, bool aligned) {
    constexpr unsigned PIECES = (k_fastest ? PORTABLE_DEPTH : PORTABLE_SIDE) / 8;
    uint64_t first_row = k_fastest ? along : k, first_col = k_fastest ? k : along;
    uint64_t rows = k_fastest ? count : last, cols = k_fastest ? last : count;
#pragma unroll
    for (unsigned i = 0; i < PORTABLE_SIDE * PORTABLE_DEPTH / 8 / THREADS; i++) {
        unsigned e = threadIdx.x + i * THREADS, row = e / PIECES, piece = e % PIECES;
        uint64_t r = first_row + row, c = first_col + piece * 8;
        uint16_t* dst = tile.at + piece_at<k_fastest>(row, piece);
        uint64_t left = r < rows && c < cols ? cols - c : 0;
        const uint16_t* src = left ? matrix + r * stride + c : matrix;
        if (aligned) {
            copy_async_16(dst, src, left < 8 ? unsigned(left) * 2 : 16);
        } else {
#pragma unroll
            for (unsigned j = 0; j < 8; j++) dst[j] = j < left ? src[j] : uint16_t(0);
        }
    }
}

// The 16 × 16 of a tile at (along, k), as ldmatrix gives it: registers 0 and 1
// along first, 2 and 3 the next 8 of k (`k_first`: the other way round).
template <bool k_fastest, bool k_first>
__device__ __forceinline__ void fragment(uint32_t (&r)[4], const OperandTile& tile, unsigned along, unsigned k) {
    unsigned lane = threadIdx.x % 32, low = lane / 8 % 2 * 8, high = lane / 16 * 8;
    unsigned of_along = along + (k_first ? high : low), of_k = k + (k_first ? low : high);
    if (k_fastest) load_matrices(r, tile.at + piece_at<true>(of_along + lane % 8, of_k / 8));
    else load_matrices_transposed(r, tile.at + piece_at<false>(of_k + lane % 8, of_along / 8));
}

template <bool trans_a, bool trans_b, typename WithSums>
__device__ __forceinline__ void matmul_bf16(const MatMulBf16Arguments& a, PortableShared& s, WithSums with_sums) {
    const Work& w = a.work;
    Part p = part<PORTABLE_SIDE, PORTABLE_SIDE>(w, blockIdx.x);
    const uint16_t *of_a = a.a + p.member * w.m * w.k, *of_b = a.b + p.member * w.k * w.n;
    unsigned steps = unsigned((p.last - p.first + PORTABLE_DEPTH - 1) / PORTABLE_DEPTH);
    auto start = [&](unsigned step) {
        if (step < steps) {
            auto& stage = s.stages[step % PORTABLE_STAGES];
            uint64_t k = p.first + uint64_t(step) * PORTABLE_DEPTH;
            start_tile<!trans_a>(stage.a, of_a, p.row, w.m, k, w.k, trans_a ? w.m : w.k, a.a_aligned);
            start_tile<trans_b>(stage.b, of_b, p.col, w.n, k, w.k, trans_b ? w.k : w.n, a.b_aligned);
        }
        copy_async_commit();
    };
    for (unsigned i = 0; i + 1 < PORTABLE_STAGES; i++) start(i);

    unsigned warp = threadIdx.x / 32, down = warp / 4 * 64, across = warp % 4 * 32;
    float sums[4][4][4] = {};
    for (unsigned step = 0; step < steps; step++) {
        copy_async_wait<PORTABLE_STAGES - 2>();
        __syncthreads();  // This stage is there for all, and the one before was read by all.
        start(step + PORTABLE_STAGES - 1);
        const auto& stage = s.stages[step % PORTABLE_STAGES];
#pragma unroll
        for (unsigned k = 0; k < PORTABLE_DEPTH; k += 16) {
            uint32_t x[4][4], y[2][4];
#pragma unroll
            for (unsigned i = 0; i < 4; i++) fragment<!trans_a, false>(x[i], stage.a, down + 16 * i, k);
#pragma unroll
            for (unsigned j = 0; j < 2; j++) fragment<trans_b, true>(y[j], stage.b, across + 16 * j, k);
#pragma unroll
            for (unsigned i = 0; i < 4; i++)
#pragma unroll
                for (unsigned j = 0; j < 4; j++)
                    multiply_16x8x16(sums[i][j], x[i], y[j / 2][j % 2 * 2], y[j / 2][j % 2 * 2 + 1]);
        }
    }
    copy_async_wait<0>();
    __syncthreads();  // The stages become the way out.
    uint64_t row = p.row + down, col = p.col + across;
    auto ahead = with_sums.before(w, p, row, col);
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
        auto before = ahead;
        if (i < 3) ahead = with_sums.before(w, p, row + 16 * (i + 1), col);
        with_sums(s.out[warp], w, p, row + 16 * i, col, sums[i], before);
    }
}

KERNEL(matmul_bf16_nn, MatMulBf16Arguments, THREADS) {
    SHARED(PortableShared, s);
    matmul_bf16<false, false>(a, s, StoreEnd{});
}
KERNEL(matmul_bf16_nt, MatMulBf16Arguments, THREADS) {
    SHARED(PortableShared, s);
    matmul_bf16<false, true>(a, s, StoreEnd{});
}
KERNEL(matmul_bf16_tn, MatMulBf16Arguments, THREADS) {
    SHARED(PortableShared, s);
    matmul_bf16<true, false>(a, s, StoreEnd{});
}
KERNEL(matmul_bf16_tt, MatMulBf16Arguments, THREADS) {
    SHARED(PortableShared, s);
    matmul_bf16<true, true>(a, s, StoreEnd{});
}

struct LossBf16Arguments {
    MatMulBf16Arguments product;
    Loss loss;
};
KERNEL(linear_cross_entropy_bf16, LossBf16Arguments, THREADS) {
    SHARED(PortableShared, s);
    matmul_bf16<false, true>(a.product, s, LossForward{a.loss});
}
KERNEL(linear_cross_entropy_backward_bf16, LossBf16Arguments, THREADS) {
    SHARED(PortableShared, s);
    matmul_bf16<false, true>(a.product, s, LossBackward{a.loss});
}

// Adds the parts of a product that was split along k, in their order.
KERNEL(matmul_combine, Work, THREADS) {
    uint64_t i = uint64_t(blockIdx.x) * THREADS + threadIdx.x, count = a.batch * a.m * a.n;
    if (i >= count) return;
    float sum = 0;
    for (unsigned split = 0; split < a.splits; split++) sum += a.partial[split * count + i];
    finish(a.end, i, i % a.n, sum);
}
