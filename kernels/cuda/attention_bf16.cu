// Causal attention over bfloat16 on tensor cores, forward, for sm_80 and later:
// q, out [B,T,H,D]; k, v [B,T,K,D], K divides H; lse f32 [B,H,T]. D is at most
// 64 or 128, smaller heads are filled up with zeros.
//
// out_t = Σ_s p_ts v_s, p_t = softmax over the window of scale · q_t · k_s.
//
// FlashAttention-2 (Dao 2023): a block of 8 warps owns 128 queries of a head
// and walks over the blocks of 64 keys that they see, one being multiplied
// while cp.async brings the next. A warp has 16 queries: their fragments stay
// in registers, and so do their scores, which become the left operand of the
// product with v without leaving them; hence no warp waits for another but for
// the copies. The softmax is a running one, in powers of two. p is rounded to
// bfloat16 for its product, all sums are f32.
#include "attention_tiles.cuh"

constexpr unsigned STEP_KEYS = 64;

template <unsigned D>
struct alignas(128) AttentionBf16Shared {
    uint16_t q[OWN_ROWS * D];
    struct {
        uint16_t k[STEP_KEYS * D], v[STEP_KEYS * D];
    } stages[2];
};

// What a row of scores has come to, twice: rows r and r + 8 of a fragment.
struct RunningSoftmax {
    // The largest score (in powers of two), and this lane's part of the sum.
    float most[2], total[2];
};

// Scores to exp(score − the largest so far); `factor` is what has been summed
// before must be multiplied by.
template <unsigned N>
__device__ __forceinline__ void exponentials(float (&z)[N][4], RunningSoftmax& so_far, float (&factor)[2]) {
#pragma unroll
    for (unsigned i = 0; i < 2; i++) {
        float most = so_far.most[i];
#pragma unroll
        for (unsigned j = 0; j < N; j++) most = fmaxf(most, fmaxf(z[j][2 * i], z[j][2 * i + 1]));
        most = quad_maximum(most);
        // Of a row of −∞ only, nothing may become NaN by −∞ − −∞.
        float shift = most == -infinity() ? 0.0f : most, sum = 0;
        factor[i] = exp2_fast(so_far.most[i] - shift);
#pragma unroll
        for (unsigned j = 0; j < N; j++) {
            z[j][2 * i] = exp2_fast(z[j][2 * i] - shift);
            z[j][2 * i + 1] = exp2_fast(z[j][2 * i + 1] - shift);
            sum += z[j][2 * i] + z[j][2 * i + 1];
        }
        so_far.total[i] = so_far.total[i] * factor[i] + sum;
        so_far.most[i] = most;
    }
}

template <unsigned D>
__device__ __forceinline__ void attention_bf16(const AttentionBf16Arguments& a, AttentionBf16Shared<D>& s) {
    OwnRows own = own_rows(a.heads, a.time, true);
    uint64_t kv_head = own.head / (a.heads / a.kv_heads);
    uint64_t q_stride = a.heads * a.dim, k_stride = a.kv_heads * a.dim;
    uint64_t q_offset = own.member * a.time * q_stride + own.head * a.dim;
    uint64_t k_offset = own.member * a.time * k_stride + kv_head * a.dim;
    // Keys that the block's queries see.
    uint64_t begin = own.first + 1 > a.window ? (own.first + 1 - a.window) / STEP_KEYS * STEP_KEYS : 0;
    uint64_t end = own.first + OWN_ROWS < a.time ? own.first + OWN_ROWS : a.time;
    unsigned steps = unsigned((end - begin + STEP_KEYS - 1) / STEP_KEYS);
    auto start = [&](unsigned step) {
        if (step < steps) {
            uint64_t key = begin + uint64_t(step) * STEP_KEYS;
            start_rows<D, STEP_KEYS>(s.stages[step % 2].k, a.k + k_offset, key, k_stride, a);
            start_rows<D, STEP_KEYS>(s.stages[step % 2].v, a.v + k_offset, key, k_stride, a);
        }
        copy_async_commit();
    };
    start_rows<D, OWN_ROWS>(s.q, a.q + q_offset, own.first, q_stride, a);
    copy_async_commit();
    start(0);
    copy_async_wait<1>();
    __syncthreads();  // The queries are there.

    unsigned lane = threadIdx.x % 32, row = threadIdx.x / 32 * WARP_ROWS;
    uint32_t q[D / 16][4];
#pragma unroll
    for (unsigned k = 0; k < D / 16; k++) left_fragment<D>(q[k], s.q, row, 16 * k);
    float sums[D / 8][4] = {};
    RunningSoftmax so_far{{-infinity(), -infinity()}, {0, 0}};
    float scale = a.scale * LOG2_E;
    unsigned window = unsigned(a.window);
    for (unsigned step = 0; step < steps; step++) {
        copy_async_wait<0>();
        __syncthreads();  // This stage is there for all, and the other was read by all.
        start(step + 1);
        const auto& stage = s.stages[step % 2];
        // How far the warp's first query lies after the first key.
        int ahead = int(int64_t(own.first + row) - int64_t(begin + uint64_t(step) * STEP_KEYS));
        bool none = ahead + int(WARP_ROWS) <= 0 || ahead - int(STEP_KEYS - 1) >= int(window);
        if (none) continue;
        float z[STEP_KEYS / 8][4] = {};
#pragma unroll
        for (unsigned k = 0; k < D / 16; k++)
#pragma unroll
            for (unsigned j = 0; j < STEP_KEYS / 16; j++) {
                uint32_t y[4];
                across_fragment<D>(y, stage.k, 16 * j, 16 * k);
                multiply_16x8x16(z[2 * j], q[k], y[0], y[1]);
                multiply_16x8x16(z[2 * j + 1], q[k], y[2], y[3]);
            }
        bool all = ahead >= int(STEP_KEYS - 1) && ahead + int(WARP_ROWS) <= int(window);
#pragma unroll
        for (unsigned j = 0; j < STEP_KEYS / 8; j++)
#pragma unroll
            for (unsigned e = 0; e < 4; e++) {
                int distance = ahead + int(lane / 4 + e / 2 * 8) - int(8 * j + lane % 4 * 2 + e % 2);
                z[j][e] = all || unsigned(distance) < window ? z[j][e] * scale : -infinity();
            }
        float factor[2];
        exponentials(z, so_far, factor);
#pragma unroll
        for (unsigned n = 0; n < D / 8; n++) {
            sums[n][0] *= factor[0], sums[n][1] *= factor[0];
            sums[n][2] *= factor[1], sums[n][3] *= factor[1];
        }
        add_product<D>(sums, z, stage.v, 0);
    }
    float inverse[2];
#pragma unroll
    for (unsigned i = 0; i < 2; i++) {
        float total = quad_sum(so_far.total[i]);
        inverse[i] = 1.0f / total;
        uint64_t t = own.first + row + lane / 4 + 8 * i;
        if (lane % 4 == 0 && t < a.time)
            a.lse[(own.member * a.heads + own.head) * a.time + t] = so_far.most[i] * LN_2 + logf(total);
    }
    store_rows<D>(s.q, row, sums, inverse, a.out + q_offset, own.first, q_stride, a);
}

KERNEL(attention_bf16_64, AttentionBf16Arguments, THREADS) {
    SHARED(AttentionBf16Shared<64>, s);
    attention_bf16<64>(a, s);
}
KERNEL(attention_bf16_128, AttentionBf16Arguments, THREADS) {
    SHARED(AttentionBf16Shared<128>, s);
    attention_bf16<128>(a, s);
}
