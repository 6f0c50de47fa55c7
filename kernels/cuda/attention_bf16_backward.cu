// Gradients of causal attention over bfloat16 on tensor cores, for sm_80 and
// later; shapes as in attention_bf16.cu.
//
// With p from the saved log-sum-exp and δ_t = dout_t · out_t:
// dv_s = Σ_t p_ts dout_t, ds_ts = p_ts (dout_t · v_s − δ_t),
// dq_t = scale · Σ_s ds_ts k_s, dk_s = scale · Σ_t ds_ts q_t (Dao 2023).
//
// Two kernels of one form, so that no sum is made by two blocks: one owns 128
// queries and walks over keys, the other owns 128 keys of a key head and walks
// over the queries that see them, of one query head after the other. A warp
// has 16 rows of what is owned; p and ds of 32 columns at a time stay in its
// registers and become left operands there. In the second kernel that are the
// transposed ones. cp.async brings the next step while one is multiplied. The
// price of the order: q·k and dout·v are computed twice.
#include "attention_tiles.cuh"

constexpr unsigned COLUMN_GROUP = 32;

template <unsigned D>
struct alignas(128) AttentionBackwardShared {
    // Rows of a step.
    static constexpr unsigned STEP = D == 128 ? 32 : 64;
    // q and dout, or k and v.
    uint16_t own[2][OWN_ROWS * D];
    struct {
        uint16_t tiles[2][STEP * D];
    } stages[2];
    // lse and delta of a step's queries.
    float statistics[2][2][STEP];
};

// z [16, 32] = rows row.. of x · (rows first.. of y)ᵀ.
template <unsigned D>
__device__ __forceinline__ void scores(float (&z)[COLUMN_GROUP / 8][4], const uint16_t* x, unsigned row,
                                       const uint16_t* y, unsigned first) {
#pragma unroll
    for (unsigned j = 0; j < COLUMN_GROUP / 8; j++)
#pragma unroll
        for (unsigned e = 0; e < 4; e++) z[j][e] = 0;
#pragma unroll
    for (unsigned k = 0; k < D / 16; k++) {
        uint32_t left[4];
        left_fragment<D>(left, x, row, 16 * k);
#pragma unroll
        for (unsigned j = 0; j < COLUMN_GROUP / 16; j++) {
            uint32_t right[4];
            across_fragment<D>(right, y, first + 16 * j, 16 * k);
            multiply_16x8x16(z[2 * j], left, right[0], right[1]);
            multiply_16x8x16(z[2 * j + 1], left, right[2], right[3]);
        }
    }
}

template <unsigned D, bool of_keys>
__device__ __forceinline__ void attention_backward(const AttentionBf16Arguments& a, AttentionBackwardShared<D>& s) {
    constexpr unsigned STEP = AttentionBackwardShared<D>::STEP;
    uint64_t group = a.heads / a.kv_heads;
    uint64_t dout_row = a.heads * a.dim;
    OwnRows own = own_rows(of_keys ? a.kv_heads : a.heads, a.time, !of_keys);
    // The rows that see or are seen, and how often: once for each query head.
    uint64_t begin, end;
    if (of_keys) {
        begin = own.first;
        end = own.first + OWN_ROWS - 1 + a.window < a.time ? own.first + OWN_ROWS - 1 + a.window : a.time;
    } else {
        begin = own.first + 1 > a.window ? (own.first + 1 - a.window) / STEP * STEP : 0;
        end = own.first + OWN_ROWS < a.time ? own.first + OWN_ROWS : a.time;
    }
    unsigned steps_of_head = unsigned((end - begin + STEP - 1) / STEP);
    unsigned steps = of_keys ? unsigned(group) * steps_of_head : steps_of_head;
    uint64_t first_head = of_keys ? own.head * group : own.head / group;
    auto start = [&](unsigned step) {
        if (step < steps) {
            uint64_t head = first_head + step / steps_of_head;
            uint64_t first = begin + uint64_t(step % steps_of_head) * STEP;
            uint64_t rows[2] = {of_keys ? a.q_row : a.k_row, of_keys ? dout_row : a.v_row};
            const uint16_t* from[2] = {of_keys ? a.q : a.k, of_keys ? a.dout : a.v};
#pragma unroll
            for (unsigned i = 0; i < 2; i++)
                start_rows<D, STEP>(s.stages[step % 2].tiles[i], from[i] + head_offset(a, own.member, head, rows[i]),
                                    first, rows[i], a);
        }
        copy_async_commit();
    };
    // Of a step's query, for the threads that bring them: lse in powers of two,
    // or delta; 0 after the end.
    auto statistic = [&](unsigned step) {
        uint64_t head = first_head + step / steps_of_head;
        uint64_t t = begin + uint64_t(step % steps_of_head) * STEP + threadIdx.x % STEP;
        if (step >= steps || threadIdx.x >= 2 * STEP || t >= a.time) return 0.0f;
        uint64_t at = (own.member * a.heads + head) * a.time + t;
        return threadIdx.x < STEP ? a.lse[at] * LOG2_E : a.delta[at];
    };
    auto keep_statistic = [&](unsigned step, float value) {
        if (of_keys && threadIdx.x < 2 * STEP)
            s.statistics[step % 2][threadIdx.x / STEP][threadIdx.x % STEP] = value;
    };
    uint64_t strides[2] = {of_keys ? a.k_row : a.q_row, of_keys ? a.v_row : dout_row};
    uint64_t offsets[2] = {head_offset(a, own.member, own.head, strides[0]),
                           head_offset(a, own.member, own.head, strides[1])};
    start_rows<D, OWN_ROWS>(s.own[0], (of_keys ? a.k : a.q) + offsets[0], own.first, strides[0], a);
    start_rows<D, OWN_ROWS>(s.own[1], (of_keys ? a.v : a.dout) + offsets[1], own.first, strides[1], a);
    start(0);
    if (of_keys) keep_statistic(0, statistic(0));

    unsigned lane = threadIdx.x % 32, g = lane / 4, c = lane % 4 * 2, row = threadIdx.x / 32 * WARP_ROWS;
    float lse[2] = {}, delta[2] = {};
    if (!of_keys) {
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            uint64_t t = own.first + row + g + 8 * i;
            uint64_t at = (own.member * a.heads + own.head) * a.time + (t < a.time ? t : 0);
            lse[i] = a.lse[at] * LOG2_E, delta[i] = a.delta[at];
        }
    }
    float sums[D / 8][4] = {}, sums_v[of_keys ? D / 8 : 1][4] = {};
    float scale = a.scale * LOG2_E;
    unsigned window = unsigned(a.window);
    for (unsigned step = 0; step < steps; step++) {
        copy_async_wait<0>();
        __syncthreads();  // This step is there for all, and the one before was read by all.
        start(step + 1);
        float next = of_keys ? statistic(step + 1) : 0.0f;
        const auto& tiles = s.stages[step % 2].tiles;
        const auto& statistics = s.statistics[step % 2];
#pragma unroll
        for (unsigned first = 0; first < STEP; first += COLUMN_GROUP) {
            // How far the first query of the warp's part lies after its first key.
            int64_t apart = int64_t(own.first + row) -
                            int64_t(begin + uint64_t(step % steps_of_head) * STEP + first);
            int ahead = int(of_keys ? -apart : apart);
            constexpr int QUERIES = of_keys ? COLUMN_GROUP : WARP_ROWS, KEYS = of_keys ? WARP_ROWS : COLUMN_GROUP;
            if (ahead + QUERIES <= 0 || ahead - (KEYS - 1) >= int(window)) continue;
            bool all = ahead >= KEYS - 1 && ahead + QUERIES <= int(window);
            float p[COLUMN_GROUP / 8][4], ds[COLUMN_GROUP / 8][4];
            scores<D>(p, s.own[0], row, tiles[0], first);
            scores<D>(ds, s.own[1], row, tiles[1], first);
#pragma unroll
            for (unsigned j = 0; j < COLUMN_GROUP / 8; j++)
#pragma unroll
                for (unsigned e = 0; e < 4; e++) {
                    int along = int(g + e / 2 * 8), across = int(8 * j + c + e % 2);
                    int distance = ahead + (of_keys ? across - along : along - across);
                    float of_lse = of_keys ? statistics[0][first + across] : lse[e / 2];
                    float of_delta = of_keys ? statistics[1][first + across] : delta[e / 2];
                    bool seen = all || unsigned(distance) < window;
                    p[j][e] = seen ? exp2_fast(fmaf(p[j][e], scale, -of_lse)) : 0.0f;
                    ds[j][e] = p[j][e] * (ds[j][e] - of_delta);
                }
            if constexpr (of_keys) add_product<D>(sums_v, p, tiles[1], first);
            add_product<D>(sums, ds, tiles[0], first);
        }
        keep_statistic(step + 1, next);
    }
    copy_async_wait<0>();
    const float factor[2] = {a.scale, a.scale}, one[2] = {1.0f, 1.0f};
    store_rows<D>(s.own[0], row, sums, factor, (of_keys ? a.dk : a.dq) + offsets[0], own.first, strides[0], a);
    if constexpr (of_keys)
        store_rows<D>(s.own[1], row, sums_v, one, a.dv + offsets[1], own.first, strides[1], a);
}

KERNEL(attention_backward_bf16_queries_64, AttentionBf16Arguments, THREADS) {
    SHARED(AttentionBackwardShared<64>, s);
    attention_backward<64, false>(a, s);
}
KERNEL(attention_backward_bf16_queries_128, AttentionBf16Arguments, THREADS) {
    SHARED(AttentionBackwardShared<128>, s);
    attention_backward<128, false>(a, s);
}
KERNEL(attention_backward_bf16_keys_64, AttentionBf16Arguments, THREADS) {
    SHARED(AttentionBackwardShared<64>, s);
    attention_backward<64, true>(a, s);
}
KERNEL(attention_backward_bf16_keys_128, AttentionBf16Arguments, THREADS) {
    SHARED(AttentionBackwardShared<128>, s);
    attention_backward<128, true>(a, s);
}

// delta = dout · out: a warp a query and head, four elements a lane where
// addresses allow it.
KERNEL(attention_delta_bf16, AttentionBf16Arguments, THREADS) {
    uint64_t row = uint64_t(blockIdx.x) * WARPS + threadIdx.x / 32;
    if (row >= a.batch * a.time * a.heads) return;
    const uint16_t *dout = a.dout + row * a.dim, *out = a.out + row * a.dim;
    unsigned lane = threadIdx.x % 32;
    float sum = 0;
    if (a.aligned) {
        for (unsigned d = lane * 4; d < a.dim; d += 128) {
            float2 x = *reinterpret_cast<const float2*>(dout + d), y = *reinterpret_cast<const float2*>(out + d);
            uint32_t of_x[2] = {__float_as_uint(x.x), __float_as_uint(x.y)};
            uint32_t of_y[2] = {__float_as_uint(y.x), __float_as_uint(y.y)};
#pragma unroll
            for (unsigned i = 0; i < 2; i++) {
                sum = fmaf(of_bfloat16(of_x[i] & 0xffff), of_bfloat16(of_y[i] & 0xffff), sum);
                sum = fmaf(of_bfloat16(of_x[i] >> 16), of_bfloat16(of_y[i] >> 16), sum);
            }
        }
    } else {
        for (unsigned d = lane; d < a.dim; d += 32) sum = fmaf(of_bfloat16(dout[d]), of_bfloat16(out[d]), sum);
    }
    sum = warp_sum(sum);
    uint64_t head = row % a.heads, t = row / a.heads % a.time, member = row / a.heads / a.time;
    if (lane == 0) a.delta[(member * a.heads + head) * a.time + t] = sum;
}
