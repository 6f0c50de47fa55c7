// Gradients of causal attention over bfloat16 on Hopper's tensor cores
// (sm_90a): TMA, mbarrier and wgmma. The mathematics, the shapes and the form
// are those of attention_bf16_backward.cu; D is 64 or 128.
//
// Two kernels of one form, so that no sum is made by two blocks: one owns 128
// queries and walks over keys, the other owns 128 keys of a key head and walks
// over the queries that see them, of one query head after the other. Each of
// two consumer warpgroups has 64 rows of what is owned. A step is 64 rows of
// the two other operands. For it a consumer multiplies
//
//     z = x₀ · y₀ᵀ, which becomes p,     dp = x₁ · y₁ᵀ, which becomes ds,
//     sums += ds · y₀,                   and with owned keys sums_v += p · y₁,
//
// where x = (q, dout), y = (k, v), or with owned keys x = (k, v), y = (q, dout)
// and p and ds are the transposed ones. p and ds go from registers into the
// products as left operands; y is read along its columns for the first two and
// along its rows for the sums, from one tile. The price of the order is that q·k
// and dout·v are computed twice: seven products where FlashAttention-3 has five,
// which adds up dq by many blocks, in an order that differs from run to run.
//
// What is under way beside what: dp is multiplied while z becomes p, sums_v
// while dp becomes ds, and the sums of one step while z and dp of the next are
// waited for. The other consumer fills the gaps. With D = 128 the sums, z, dp
// and ds take 208 of a thread's 240 registers; p has to leave its own before
// the next z begins.
//
// One thread asks TMA for the tiles, into a ring of three stages. With owned
// keys the log-sum-exps and deltas differ by column of z; a warp beside that
// thread brings them to the stage (TMA cannot: a head's need not begin at 16
// bytes). A consumer passes over a step in which causality or the window hides
// everything from it. Meanwhile it keeps the stage before, whose products may be
// under way, and needs the one after: hence three.
#include "attention_hopper.cuh"

struct AttentionHopperBackwardArguments {
    // Of [B, T, heads · D], in boxes of 64 columns × 64 rows.
    TensorMap q, k, v, dout;
    AttentionBf16Arguments whole;
};

constexpr unsigned STEP_ROWS = 64, BACKWARD_RING = 3;

template <unsigned D>
struct alignas(1024) AttentionHopperBackwardShared {
    static constexpr unsigned TILE = STEP_ROWS * D;
    // x of each consumer.
    uint16_t own[2][2][TILE];
    // y of each stage.
    uint16_t stages[BACKWARD_RING][2][TILE];
    uint16_t out[OWN_ROWS * D];
    // lse, in powers of two, and delta of a stage's queries.
    float statistics[BACKWARD_RING][2][STEP_ROWS];
    uint64_t owned, full[BACKWARD_RING], empty[BACKWARD_RING];
};

// A way through the rows that see or are seen, once for each of some heads, and
// through the ring.
struct Walk {
    unsigned begin, end, head, last_head;
    unsigned row, slot = 0, parity = 0;
    __device__ __forceinline__ bool more() const { return head <= last_head; }
    __device__ __forceinline__ void next() {
        row += STEP_ROWS;
        if (row >= end) row = begin, head++;
        if (++slot == BACKWARD_RING) slot = 0, parity ^= 1;
    }
};

template <bool of_keys>
__device__ __forceinline__ Walk walk(const AttentionBf16Arguments& a, const OwnRows& own) {
    uint64_t group = a.heads / a.kv_heads;
    uint64_t begin = own.first, end = own.first + OWN_ROWS, head = own.head * group, heads = group;
    if (of_keys) {
        end += a.window - 1;
    } else {
        begin = own.first + 1 > a.window ? (own.first + 1 - a.window) / STEP_ROWS * STEP_ROWS : 0;
        head = own.head / group, heads = 1;
    }
    end = end < a.time ? end : a.time;
    return {unsigned(begin), unsigned(end), unsigned(head), unsigned(head + heads - 1), unsigned(begin)};
}

template <unsigned D, bool of_keys>
__device__ __forceinline__ void produce_steps(const AttentionHopperBackwardArguments& a,
                                              AttentionHopperBackwardShared<D>& s, const OwnRows& own) {
    const TensorMap &x0 = of_keys ? a.k : a.q, &x1 = of_keys ? a.v : a.dout;
    const TensorMap &y0 = of_keys ? a.q : a.k, &y1 = of_keys ? a.dout : a.v;
    prefetch_map(x0);
    prefetch_map(x1);
    prefetch_map(y0);
    prefetch_map(y1);
    barrier_arrive_expecting(&s.owned, sizeof s.own);
#pragma unroll
    for (unsigned i = 0; i < 2; i++) {
        uint64_t row = own.first + i * STEP_ROWS;
        ask_rows<D, STEP_ROWS>(s.own[i][0], x0, own.head, row, own.member, &s.owned);
        ask_rows<D, STEP_ROWS>(s.own[i][1], x1, own.head, row, own.member, &s.owned);
    }
    for (Walk w = walk<of_keys>(a.whole, own); w.more(); w.next()) {
        uint64_t* full = &s.full[w.slot];
        barrier_wait(&s.empty[w.slot], w.parity ^ 1);
        barrier_arrive_expecting(full, sizeof s.stages[w.slot]);
        ask_rows<D, STEP_ROWS>(s.stages[w.slot][0], y0, w.head, w.row, own.member, full);
        ask_rows<D, STEP_ROWS>(s.stages[w.slot][1], y1, w.head, w.row, own.member, full);
    }
}

// Two queries a lane. After the end of time they are 0, as all scores there
// are: ds becomes 0 too.
template <unsigned D>
__device__ __forceinline__ void produce_statistics(const AttentionBf16Arguments& a,
                                                   AttentionHopperBackwardShared<D>& s, const OwnRows& own) {
    unsigned lane = threadIdx.x % 32;
    for (Walk w = walk<true>(a, own); w.more(); w.next()) {
        float lse[2], delta[2];
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            uint64_t t = w.row + lane + 32 * i, at = (own.member * a.heads + w.head) * a.time + t;
            lse[i] = t < a.time ? a.lse[at] * LOG2_E : 0.0f;
            delta[i] = t < a.time ? a.delta[at] : 0.0f;
        }
        barrier_wait(&s.empty[w.slot], w.parity ^ 1);
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            s.statistics[w.slot][0][lane + 32 * i] = lse[i];
            s.statistics[w.slot][1][lane + 32 * i] = delta[i];
        }
        barrier_arrive(&s.full[w.slot]);
    }
}

template <unsigned D, bool of_keys>
__device__ __forceinline__ void consume_steps(const AttentionBf16Arguments& a, AttentionHopperBackwardShared<D>& s,
                                              const OwnRows& own) {
    unsigned consumer = warpgroup() - 1, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4 * 2;
    unsigned row = (threadIdx.x / 32 - 4) * WARP_ROWS;
    bool speaks = lane == 0;
    float of_row[2][2] = {};
    if (!of_keys) {
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            uint64_t t = own.first + row + g + 8 * i;
            uint64_t at = (own.member * a.heads + own.head) * a.time + (t < a.time ? t : 0);
            of_row[0][i] = a.lse[at] * LOG2_E, of_row[1][i] = a.delta[at];
        }
    }
    float z[STEP_ROWS / 8][4], dp[STEP_ROWS / 8][4];
    float sums[D / 8][4] = {}, sums_v[of_keys ? D / 8 : 1][4] = {};
    uint32_t p[STEP_ROWS / 16][4], ds[STEP_ROWS / 16][4];
    float scale = a.scale * LOG2_E;
    int window = int(a.window);
    // The stage whose products are under way.
    unsigned before = BACKWARD_RING;
    barrier_wait(&s.owned, 0);
    for (Walk w = walk<of_keys>(a, own); w.more(); w.next()) {
        barrier_wait(&s.full[w.slot], w.parity);
        // How far the consumer's first query lies after its first key.
        int apart = int(own.first + consumer * STEP_ROWS) - int(w.row), ahead = of_keys ? -apart : apart;
        if (ahead + int(STEP_ROWS) <= 0 || ahead - int(STEP_ROWS - 1) >= window) {
            if (speaks) barrier_arrive(&s.empty[w.slot]);
            continue;
        }
        const auto& y = s.stages[w.slot];
        start_scores<D, STEP_ROWS>(z, s.own[consumer][0], y[0]);
        start_scores<D, STEP_ROWS>(dp, s.own[consumer][1], y[1]);
        warpgroup_wait<1>();  // z is there, and the sums of the last step were made.
        registers_fence(z);
        if (speaks && before < BACKWARD_RING) barrier_arrive(&s.empty[before]);
        before = w.slot;
        // lse or delta of each of fragment j's elements.
        auto statistic = [&](unsigned which, unsigned j, float (&of)[4]) {
            float2 of_column = {};
            if (of_keys) of_column = *reinterpret_cast<const float2*>(&s.statistics[w.slot][which][8 * j + c]);
            of[0] = of_keys ? of_column.x : of_row[which][0], of[1] = of_keys ? of_column.y : of_row[which][0];
            of[2] = of_keys ? of_column.x : of_row[which][1], of[3] = of_keys ? of_column.y : of_row[which][1];
        };
#pragma unroll
        for (unsigned j = 0; j < STEP_ROWS / 8; j++) {
            float lse[4];
            statistic(0, j, lse);
#pragma unroll
            for (unsigned e = 0; e < 4; e++) z[j][e] = fmaf(z[j][e], scale, -lse[e]);
        }
        if (ahead < int(STEP_ROWS - 1) || ahead + int(STEP_ROWS) > window) {
#pragma unroll
            for (unsigned j = 0; j < STEP_ROWS / 8; j++)
#pragma unroll
                for (unsigned e = 0; e < 4; e++) {
                    int along = int(row % STEP_ROWS + g + e / 2 * 8), across = int(8 * j + c + e % 2);
                    int distance = ahead + (of_keys ? across - along : along - across);
                    z[j][e] = unsigned(distance) < unsigned(window) ? z[j][e] : -infinity();
                }
        }
#pragma unroll
        for (unsigned j = 0; j < STEP_ROWS / 8; j++)
#pragma unroll
            for (unsigned e = 0; e < 4; e++) z[j][e] = exp2_fast(z[j][e]);
        if constexpr (of_keys) {
#pragma unroll
            for (unsigned i = 0; i < STEP_ROWS / 16; i++) as_left(p[i], z, i);
            start_sums<D>(sums_v, p, y[1]);
        }
        warpgroup_wait<of_keys ? 1 : 0>();  // dp is there.
        registers_fence(dp);
#pragma unroll
        for (unsigned j = 0; j < STEP_ROWS / 8; j++) {
            float delta[4];
            statistic(1, j, delta);
#pragma unroll
            for (unsigned e = 0; e < 4; e++) z[j][e] *= dp[j][e] - delta[e];
        }
#pragma unroll
        for (unsigned i = 0; i < STEP_ROWS / 16; i++) as_left(ds[i], z, i);
        start_sums<D>(sums, ds, y[0]);
        if constexpr (of_keys) warpgroup_wait<1>();  // p's registers are free for the next scores.
    }
    warpgroup_wait<0>();
    registers_fence(sums);
    registers_fence(sums_v);
    uint64_t own_row = of_keys ? a.k_row : a.q_row, offset = head_offset(a, own.member, own.head, own_row);
    const float factor[2] = {a.scale, a.scale}, one[2] = {1.0f, 1.0f};
    store_rows<D>(s.out, row, sums, factor, (of_keys ? a.dk : a.dq) + offset, own.first, own_row, a);
    if constexpr (of_keys) {
        uint16_t* head = a.dv + head_offset(a, own.member, own.head, a.v_row);
        store_rows<D>(s.out, row, sums_v, one, head, own.first, a.v_row, a);
    }
}

template <unsigned D, bool of_keys>
__device__ __forceinline__ void attention_hopper_backward(const AttentionHopperBackwardArguments& a,
                                                          AttentionHopperBackwardShared<D>& s) {
    if (threadIdx.x == 0) {
        barrier_init(&s.owned, 1);
        for (unsigned i = 0; i < BACKWARD_RING; i++) {
            // Whoever asks for the tiles, and the lanes that bring statistics.
            barrier_init(&s.full[i], of_keys ? 33 : 1);
            barrier_init(&s.empty[i], ATTENTION_CONSUMER_WARPS);
        }
        barrier_init_fence();
    }
    __syncthreads();  // The barriers are there.
    OwnRows own = own_rows(of_keys ? a.whole.kv_heads : a.whole.heads, a.whole.time, !of_keys);
    if (threadIdx.x < 128) {
        registers_release<24>();
        if (threadIdx.x == 0) produce_steps<D, of_keys>(a, s, own);
        if (of_keys && threadIdx.x / 32 == 1) produce_statistics<D>(a.whole, s, own);
    } else {
        registers_acquire<240>();
        consume_steps<D, of_keys>(a.whole, s, own);
    }
}

ATTENTION_HOPPER(attention_backward_hopper_queries_64, AttentionHopperBackwardArguments,
                 AttentionHopperBackwardShared<64>, attention_hopper_backward<64, false>)
ATTENTION_HOPPER(attention_backward_hopper_queries_128, AttentionHopperBackwardArguments,
                 AttentionHopperBackwardShared<128>, attention_hopper_backward<128, false>)
ATTENTION_HOPPER(attention_backward_hopper_keys_64, AttentionHopperBackwardArguments,
                 AttentionHopperBackwardShared<64>, attention_hopper_backward<64, true>)
ATTENTION_HOPPER(attention_backward_hopper_keys_128, AttentionHopperBackwardArguments,
                 AttentionHopperBackwardShared<128>, attention_hopper_backward<128, true>)
