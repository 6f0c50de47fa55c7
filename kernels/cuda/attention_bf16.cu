// Causal attention over bfloat16 on tensor cores, forward, for sm_80 and later:
// q, out [B,T,H,D]; k, v [B,T,K,D], K divides H; lse f32 [B,H,T]. Rows of q, k
// and v may lie further apart than their heads fill: they may be columns of one
// projection. D is at most 64 or 128, smaller heads are filled up with zeros.
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
#include "attention_softmax.cuh"

constexpr unsigned STEP_KEYS = 64;

template <unsigned D>
struct alignas(128) AttentionBf16Shared {
    uint16_t q[OWN_ROWS * D];
    struct {
        uint16_t k[STEP_KEYS * D], v[STEP_KEYS * D];
    } stages[2];
};

template <unsigned D>
__device__ __forceinline__ void attention_bf16(const AttentionBf16Arguments& a, AttentionBf16Shared<D>& s) {
    OwnRows own = own_rows(a.heads, a.time, true);
    uint64_t kv_head = own.head / (a.heads / a.kv_heads);
    const uint16_t* k_head = a.k + head_offset(a, own.member, kv_head, a.k_row);
    const uint16_t* v_head = a.v + head_offset(a, own.member, kv_head, a.v_row);
    // Keys that the block's queries see.
    uint64_t begin = own.first + 1 > a.window ? (own.first + 1 - a.window) / STEP_KEYS * STEP_KEYS : 0;
    uint64_t end = own.first + OWN_ROWS < a.time ? own.first + OWN_ROWS : a.time;
    unsigned steps = unsigned((end - begin + STEP_KEYS - 1) / STEP_KEYS);
    auto start = [&](unsigned step) {
        if (step < steps) {
            uint64_t key = begin + uint64_t(step) * STEP_KEYS;
            start_rows<D, STEP_KEYS>(s.stages[step % 2].k, k_head, key, a.k_row, a);
            start_rows<D, STEP_KEYS>(s.stages[step % 2].v, v_head, key, a.v_row, a);
        }
        copy_async_commit();
    };
    start_rows<D, OWN_ROWS>(s.q, a.q + head_offset(a, own.member, own.head, a.q_row), own.first, a.q_row, a);
    copy_async_commit();
    start(0);
    copy_async_wait<1>();
    __syncthreads();  // The queries are there.

    unsigned row = threadIdx.x / 32 * WARP_ROWS;
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
        mask(z, ahead, window, scale);
        float factor[2];
        exponentials(z, so_far, factor);
        rescale<D>(sums, factor);
        add_product<D>(sums, z, stage.v, 0);
    }
    finish_rows<D>(s.q, row, sums, so_far, own, a);
}

KERNEL(attention_bf16_64, AttentionBf16Arguments, THREADS) {
    SHARED(AttentionBf16Shared<64>, s);
    attention_bf16<64>(a, s);
}
KERNEL(attention_bf16_128, AttentionBf16Arguments, THREADS) {
    SHARED(AttentionBf16Shared<128>, s);
    attention_bf16<128>(a, s);
}
