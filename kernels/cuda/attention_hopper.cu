// Causal attention over bfloat16 on Hopper's tensor cores (sm_90a), forward:
// TMA, mbarrier and wgmma. Shapes as in attention_bf16.cu; D is 64 or 128.
//
// After FlashAttention-3 (Shah et al. 2024): a block of three warpgroups owns
// 128 queries of a head. One thread of the first, the producer, asks TMA for
// the queries and then for blocks of 128 keys and values, into a ring of two
// stages. The two consumers have 64 queries each. While a consumer turns the
// scores of one step into probabilities, its product of the last step's
// probabilities, which it holds in registers, with their values is under way.
// The softmax is a running one, in powers of two.
//
// Tiles are those of attention_hopper.cuh. q and k have the head's columns
// fastest, as the product along them wants; v is read with its rows along the
// sum.
#include "attention_hopper.cuh"
#include "attention_softmax.cuh"

struct AttentionHopperArguments {
    // Of [B, T, heads · D], in boxes of 64 columns × 128 rows.
    TensorMap q, k, v;
    AttentionBf16Arguments whole;
};

constexpr unsigned HOPPER_KEYS = 128, RING = 2;

template <unsigned D>
struct alignas(1024) AttentionHopperShared {
    uint16_t q[OWN_ROWS * D];
    struct {
        uint16_t k[HOPPER_KEYS * D], v[HOPPER_KEYS * D];
    } stages[RING];
    uint16_t out[OWN_ROWS * D];
    uint64_t queries, keys_full[RING], keys_empty[RING], values_full[RING], values_empty[RING];
};

// Which keys the block's queries see.
struct KeyRange {
    uint64_t begin;
    unsigned steps;
};
__device__ __forceinline__ KeyRange key_range(const AttentionBf16Arguments& a, const OwnRows& own) {
    uint64_t begin = own.first + 1 > a.window ? (own.first + 1 - a.window) / HOPPER_KEYS * HOPPER_KEYS : 0;
    uint64_t end = own.first + OWN_ROWS < a.time ? own.first + OWN_ROWS : a.time;
    return {begin, unsigned((end - begin + HOPPER_KEYS - 1) / HOPPER_KEYS)};
}

// Asks for a tile of 128 rows, with which the barrier's phase ends.
template <unsigned D>
__device__ __forceinline__ void ask_tile(uint16_t* to, const TensorMap& map, uint64_t head, uint64_t row,
                                         uint64_t member, uint64_t* full) {
    barrier_arrive_expecting(full, 128 * D * 2);
    ask_rows<D, 128>(to, map, head, row, member, full);
}

template <unsigned D>
__device__ __forceinline__ void produce_rows(const AttentionHopperArguments& a, AttentionHopperShared<D>& s,
                                             const OwnRows& own) {
    prefetch_map(a.q);
    prefetch_map(a.k);
    prefetch_map(a.v);
    KeyRange keys = key_range(a.whole, own);
    uint64_t kv_head = own.head / (a.whole.heads / a.whole.kv_heads);
    ask_tile<D>(s.q, a.q, own.head, own.first, own.member, &s.queries);
    for (unsigned step = 0; step < keys.steps; step++) {
        unsigned slot = step % RING, parity = step / RING & 1;
        uint64_t row = keys.begin + uint64_t(step) * HOPPER_KEYS;
        barrier_wait(&s.keys_empty[slot], parity ^ 1);
        ask_tile<D>(s.stages[slot].k, a.k, kv_head, row, own.member, &s.keys_full[slot]);
        barrier_wait(&s.values_empty[slot], parity ^ 1);
        ask_tile<D>(s.stages[slot].v, a.v, kv_head, row, own.member, &s.values_full[slot]);
    }
}

template <unsigned D>
__device__ __forceinline__ void consume_rows(const AttentionHopperArguments& of, AttentionHopperShared<D>& s,
                                             const OwnRows& own) {
    const AttentionBf16Arguments& a = of.whole;
    KeyRange keys = key_range(a, own);
    unsigned consumer = warpgroup() - 1, lane = threadIdx.x % 32, row = (threadIdx.x / 32 - 4) * WARP_ROWS;
    bool speaks = lane == 0;
    const uint16_t* q = s.q + consumer * 64 * 64;
    float scale = a.scale * LOG2_E;
    unsigned window = unsigned(a.window);
    float z[HOPPER_KEYS / 8][4], sums[D / 8][4] = {}, factor[2];
    uint32_t p[HOPPER_KEYS / 16][4];
    RunningSoftmax so_far{{-infinity(), -infinity()}, {0, 0}};
    barrier_wait(&s.queries, 0);
    auto probabilities = [&](unsigned step) {
        int ahead = int(int64_t(own.first + row) - int64_t(keys.begin + uint64_t(step) * HOPPER_KEYS));
        mask(z, ahead, window, scale);
        exponentials(z, so_far, factor);
    };
    auto keep = [&] {
#pragma unroll
        for (unsigned i = 0; i < HOPPER_KEYS / 16; i++) as_left(p[i], z, i);
    };
    barrier_wait(&s.keys_full[0], 0);
    start_scores<D, OWN_ROWS>(z, q, s.stages[0].k);
    warpgroup_wait<0>();
    registers_fence(z);
    if (speaks) barrier_arrive(&s.keys_empty[0]);
    probabilities(0);
    keep();
    for (unsigned step = 1; step < keys.steps; step++) {
        unsigned slot = step % RING, before = (step - 1) % RING;
        barrier_wait(&s.keys_full[slot], step / RING & 1);
        start_scores<D, OWN_ROWS>(z, q, s.stages[slot].k);
        barrier_wait(&s.values_full[before], (step - 1) / RING & 1);
        start_sums<D>(sums, p, s.stages[before].v);
        warpgroup_wait<1>();  // The scores are there.
        registers_fence(z);
        if (speaks) barrier_arrive(&s.keys_empty[slot]);
        probabilities(step);
        warpgroup_wait<0>();  // The last values have been added.
        registers_fence(sums);
        if (speaks) barrier_arrive(&s.values_empty[before]);
        rescale<D>(sums, factor);
        keep();
    }
    unsigned last = (keys.steps - 1) % RING;
    barrier_wait(&s.values_full[last], (keys.steps - 1) / RING & 1);
    start_sums<D>(sums, p, s.stages[last].v);
    warpgroup_wait<0>();
    registers_fence(sums);
    finish_rows<D>(s.out, row, sums, so_far, own, a);
}

template <unsigned D>
__device__ __forceinline__ void attention_hopper(const AttentionHopperArguments& a, AttentionHopperShared<D>& s) {
    if (threadIdx.x == 0) {
        barrier_init(&s.queries, 1);
        for (unsigned i = 0; i < RING; i++) {
            barrier_init(&s.keys_full[i], 1);
            barrier_init(&s.values_full[i], 1);
            barrier_init(&s.keys_empty[i], ATTENTION_CONSUMER_WARPS);
            barrier_init(&s.values_empty[i], ATTENTION_CONSUMER_WARPS);
        }
        barrier_init_fence();
    }
    __syncthreads();  // The barriers are there.
    OwnRows own = own_rows(a.whole.heads, a.whole.time, true);
    if (threadIdx.x < 128) {
        registers_release<24>();
        if (threadIdx.x == 0) produce_rows<D>(a, s, own);
    } else {
        registers_acquire<240>();
        consume_rows<D>(a, s, own);
    }
}

ATTENTION_HOPPER(attention_hopper_64, AttentionHopperArguments, AttentionHopperShared<64>, attention_hopper<64>)
ATTENTION_HOPPER(attention_hopper_128, AttentionHopperArguments, AttentionHopperShared<128>, attention_hopper<128>)
