// out = end(alpha · op(A) · op(B)) of bfloat16 on Hopper's tensor cores
// (sm_90a): TMA, mbarrier and wgmma.
//
// A block of three warpgroups stays on its multiprocessor and takes one tile
// of 128 × 256 after the other. One thread of the first warpgroup, the
// producer, asks TMA for boxes of A and B, 64 along k, into a ring of four
// stages. The two consumers multiply, 64 × 256 each, straight from shared
// memory; one product stays under way while the next stage is waited for, and
// a stage is given back when no product reads it any more. Each stage has two
// barriers: `full` (the boxes' bytes have landed) and `empty` (each consumer
// warp has arrived). While consumers write a tile out, the producer fills the
// ring for the next one.
//
// Blocks work alone or in clusters of two, which take two tiles one below the
// other: each asks for its own rows of A and for half of the columns of B, and
// TMA writes that half to both. So a multiprocessor takes 32 KiB from L2 for
// 2^22 multiply-adds instead of 48. Only one that both have emptied is written
// again: warps arrive at the `empty` barriers of both.
//
// In a stage an operand lies as TMA's swizzle of 128 bytes leaves it: rows of
// 64 elements, along k or, for an operand stored with k outermost, in boxes of
// 64 along m or n by 64 of k.
//
// The last two kernels are the first product of a linear cross-entropy, whose
// end is in loss.cuh.
#include "loss.cuh"

struct MatMulHopperArguments {
    TensorMap a, b;
    Work work;
};

constexpr unsigned HOPPER_ROWS = 128, HOPPER_COLS = 256, HOPPER_DEPTH = 64, HOPPER_STAGES = 4;
constexpr unsigned HOPPER_THREADS = 384, CONSUMER_WARPS = 8;
// Of a box of 64 × 64 elements.
constexpr unsigned BOX_BYTES = 64 * 64 * 2;

struct HopperShared {
    struct alignas(1024) {
        uint16_t a[HOPPER_ROWS * HOPPER_DEPTH], b[HOPPER_COLS * HOPPER_DEPTH];
    } stages[HOPPER_STAGES];
    Stage out[CONSUMER_WARPS];
    uint64_t full[HOPPER_STAGES], empty[HOPPER_STAGES];
};

// A place in the ring, and the parity of its present round.
struct Ring {
    unsigned slot = 0, parity = 0;
    __device__ __forceinline__ void next() {
        if (++slot == HOPPER_STAGES) slot = 0, parity ^= 1;
    }
};

// Asks for `side` × 64 of an operand, for this block or for all `blocks` of the
// cluster. With k fastest that is one box; else one for each 64 along m or n.
template <bool k_fastest, unsigned side, unsigned blocks>
__device__ __forceinline__ void ask(uint16_t* to, const TensorMap& map, uint64_t along, uint64_t k, uint64_t member,
                                    uint64_t* full) {
    auto box = [&](uint16_t* at, uint64_t x, uint64_t y) {
        if (blocks == 1) copy_box(at, map, unsigned(x), unsigned(y), unsigned(member), full);
        else copy_box_to_all(at, map, unsigned(x), unsigned(y), unsigned(member), full, blocks);
    };
    if (k_fastest) {
        box(to, k, along);
    } else {
#pragma unroll
        for (unsigned i = 0; i < side / 64; i++) box(to + i * 64 * 64, along + i * 64, k);
    }
}

// The tiles of a cluster, one below the other, and of it this block's.
template <unsigned blocks>
__device__ __forceinline__ uint64_t parts_of_clusters(const Work& w) {
    return parts<blocks * HOPPER_ROWS, HOPPER_COLS>(w);
}
template <unsigned blocks>
__device__ __forceinline__ Part part_of_cluster(const Work& w, uint64_t index, unsigned rank) {
    Part p = part<blocks * HOPPER_ROWS, HOPPER_COLS>(w, index);
    p.row += rank * HOPPER_ROWS;
    return p;
}

template <bool trans_a, bool trans_b, unsigned blocks>
__device__ __forceinline__ void produce(const MatMulHopperArguments& a, HopperShared& s) {
    constexpr unsigned SHARE = HOPPER_COLS / blocks;
    prefetch_map(a.a);
    prefetch_map(a.b);
    unsigned rank = blocks > 1 ? cluster_rank() : 0;
    Ring ring;
    for (uint64_t i = blockIdx.x / blocks; i < parts_of_clusters<blocks>(a.work); i += gridDim.x / blocks) {
        Part p = part_of_cluster<blocks>(a.work, i, rank);
        for (uint64_t k = p.first; k < p.last; k += HOPPER_DEPTH, ring.next()) {
            auto& stage = s.stages[ring.slot];
            uint64_t* full = &s.full[ring.slot];
            if (blocks == 1) barrier_wait(&s.empty[ring.slot], ring.parity ^ 1);
            else barrier_wait_cluster(&s.empty[ring.slot], ring.parity ^ 1);
            barrier_arrive_expecting(full, sizeof stage);
            ask<!trans_a, HOPPER_ROWS, 1>(stage.a, a.a, p.row, k, p.member, full);
            ask<trans_b, SHARE, blocks>(stage.b + rank * SHARE * HOPPER_DEPTH, a.b, p.col + rank * SHARE, k, p.member,
                                        full);
        }
    }
}

// A consumer's products of one stage.
template <bool trans_a, bool trans_b>
__device__ __forceinline__ void multiply_stage(float (&sums)[128], const uint16_t* of_a, const uint16_t* of_b,
                                               bool accumulate) {
    warpgroup_fence();
#pragma unroll
    for (unsigned k = 0; k < HOPPER_DEPTH; k += 16) {
        // 16 of k are 32 bytes within rows, or 16 rows of 128 bytes.
        uint64_t x = tile_descriptor(of_a, trans_a ? k * 128 : k * 2, BOX_BYTES);
        uint64_t y = tile_descriptor(of_b, trans_b ? k * 2 : k * 128, BOX_BYTES);
        warpgroup_multiply_64x256x16<int(trans_a), int(!trans_b)>(sums, x, y, accumulate || k > 0);
    }
    warpgroup_commit();
}

// A warp gives a stage back, to all that write it.
template <unsigned blocks>
__device__ __forceinline__ void release(uint64_t* empty) {
    unsigned lane = threadIdx.x % 32;
    if (lane >= blocks) return;
    if (blocks == 1) barrier_arrive(empty);
    else barrier_arrive_at(empty, lane);
}

template <bool trans_a, bool trans_b, unsigned blocks, typename WithSums>
__device__ __forceinline__ void consume(const MatMulHopperArguments& a, HopperShared& s, WithSums with_sums) {
    const Work& w = a.work;
    unsigned consumer = warpgroup() - 1, warp = threadIdx.x / 32 - 4, rank = blocks > 1 ? cluster_rank() : 0;
    Ring ring;
    for (uint64_t i = blockIdx.x / blocks; i < parts_of_clusters<blocks>(w); i += gridDim.x / blocks) {
        Part p = part_of_cluster<blocks>(w, i, rank);
        with_sums.template announce<HOPPER_ROWS, HOPPER_COLS>(w, p, threadIdx.x - 128, CONSUMER_WARPS * 32);
        float sums[128];
        unsigned before = 0;
        for (uint64_t k = p.first; k < p.last; k += HOPPER_DEPTH, ring.next()) {
            const auto& stage = s.stages[ring.slot];
            barrier_wait(&s.full[ring.slot], ring.parity);
            multiply_stage<trans_a, trans_b>(sums, stage.a + consumer * 64 * 64, stage.b, k > p.first);
            warpgroup_wait<1>();
            if (k > p.first) release<blocks>(&s.empty[before]);
            before = ring.slot;
        }
        uint64_t row = p.row + warp * 16;
        auto ahead = with_sums.before(w, p, row, p.col);
        warpgroup_wait<0>();
        release<blocks>(&s.empty[before]);
#pragma unroll
        for (unsigned j = 0; j < 8; j++) {
            float quarter[4][4];
#pragma unroll
            for (unsigned e = 0; e < 16; e++) quarter[e / 4][e % 4] = sums[j * 16 + e];
            auto read = ahead;
            if (j < 7) ahead = with_sums.before(w, p, row, p.col + (j + 1) * 32);
            with_sums(s.out[warp], w, p, row, p.col + j * 32, quarter, read);
        }
    }
}

template <bool trans_a, bool trans_b, unsigned blocks, typename WithSums>
__device__ __forceinline__ void matmul_hopper(const MatMulHopperArguments& a, HopperShared& s, WithSums with_sums) {
    if (threadIdx.x == 0) {
        for (unsigned i = 0; i < HOPPER_STAGES; i++) {
            barrier_init(&s.full[i], 1);
            barrier_init(&s.empty[i], CONSUMER_WARPS * blocks);
        }
        barrier_init_fence();
    }
    if (blocks == 1) __syncthreads();  // The barriers are there.
    else cluster_sync();  // Those of both blocks are.
    if (threadIdx.x < 128) {
        registers_release<40>();
        if (threadIdx.x == 0) produce<trans_a, trans_b, blocks>(a, s);
    } else {
        registers_acquire<232>();
        consume<trans_a, trans_b, blocks>(a, s, with_sums);
    }
    // Until then the other block may write here.
    if (blocks > 1) cluster_sync();
}

struct LossHopperArguments {
    MatMulHopperArguments product;
    Loss loss;
};

// Other architectures have the kernel's name and no body: the backend launches
// it on capability 9.0 only.
#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HOPPER_BODY(trans_a, trans_b, blocks, product, with_sums) \
    { __trap(); }
#else
#define HOPPER_BODY(trans_a, trans_b, blocks, product, with_sums)       \
    {                                                                   \
        SHARED(HopperShared, s);                                        \
        matmul_hopper<trans_a, trans_b, blocks>(product, s, with_sums); \
    }
#endif
// Each alone, and in pairs.
#define HOPPER_KERNELS(name, Arguments, trans_a, trans_b, product, with_sums) \
    KERNEL(name, Arguments, HOPPER_THREADS)                                   \
    HOPPER_BODY(trans_a, trans_b, 1, product, with_sums)                      \
    PAIR_KERNEL(name##_pair, Arguments, HOPPER_THREADS)                       \
    HOPPER_BODY(trans_a, trans_b, 2, product, with_sums)

HOPPER_KERNELS(matmul_hopper_nn, MatMulHopperArguments, false, false, a, StoreEnd{})
HOPPER_KERNELS(matmul_hopper_nt, MatMulHopperArguments, false, true, a, StoreEnd{})
HOPPER_KERNELS(matmul_hopper_tn, MatMulHopperArguments, true, false, a, StoreEnd{})
HOPPER_KERNELS(matmul_hopper_tt, MatMulHopperArguments, true, true, a, StoreEnd{})
HOPPER_KERNELS(linear_cross_entropy_hopper, LossHopperArguments, false, true, a.product, LossForward{a.loss})
HOPPER_KERNELS(linear_cross_entropy_backward_hopper, LossHopperArguments, false, true, a.product,
               LossBackward{a.loss})
