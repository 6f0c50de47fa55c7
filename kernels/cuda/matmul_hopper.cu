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

// Asks for `side` × 64 of an operand. With k fastest that is one box; else one
// for each 64 along m or n.
template <bool k_fastest, unsigned side>
__device__ __forceinline__ void ask(uint16_t* to, const TensorMap& map, uint64_t along, uint64_t k, uint64_t member,
                                    uint64_t* full) {
    if (k_fastest) {
        copy_box(to, map, unsigned(k), unsigned(along), unsigned(member), full);
    } else {
#pragma unroll
        for (unsigned i = 0; i < side / 64; i++)
            copy_box(to + i * 64 * 64, map, unsigned(along) + i * 64, unsigned(k), unsigned(member), full);
    }
}

template <bool trans_a, bool trans_b>
__device__ __forceinline__ void produce(const MatMulHopperArguments& a, HopperShared& s) {
    prefetch_map(a.a);
    prefetch_map(a.b);
    Ring ring;
    for (uint64_t i = blockIdx.x; i < parts<HOPPER_ROWS, HOPPER_COLS>(a.work); i += gridDim.x) {
        Part p = part<HOPPER_ROWS, HOPPER_COLS>(a.work, i);
        for (uint64_t k = p.first; k < p.last; k += HOPPER_DEPTH, ring.next()) {
            auto& stage = s.stages[ring.slot];
            uint64_t* full = &s.full[ring.slot];
            barrier_wait(&s.empty[ring.slot], ring.parity ^ 1);
            barrier_arrive_expecting(full, sizeof stage);
            ask<!trans_a, HOPPER_ROWS>(stage.a, a.a, p.row, k, p.member, full);
            ask<trans_b, HOPPER_COLS>(stage.b, a.b, p.col, k, p.member, full);
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

template <bool trans_a, bool trans_b, typename WithSums>
__device__ __forceinline__ void consume(const MatMulHopperArguments& a, HopperShared& s, WithSums with_sums) {
    const Work& w = a.work;
    unsigned consumer = warpgroup() - 1, warp = threadIdx.x / 32 - 4;
    bool speaks = threadIdx.x % 32 == 0;
    Ring ring;
    for (uint64_t i = blockIdx.x; i < parts<HOPPER_ROWS, HOPPER_COLS>(w); i += gridDim.x) {
        Part p = part<HOPPER_ROWS, HOPPER_COLS>(w, i);
        float sums[128];
        unsigned before = 0;
        for (uint64_t k = p.first; k < p.last; k += HOPPER_DEPTH, ring.next()) {
            const auto& stage = s.stages[ring.slot];
            barrier_wait(&s.full[ring.slot], ring.parity);
            multiply_stage<trans_a, trans_b>(sums, stage.a + consumer * 64 * 64, stage.b, k > p.first);
            warpgroup_wait<1>();
            if (k > p.first && speaks) barrier_arrive(&s.empty[before]);
            before = ring.slot;
        }
        warpgroup_wait<0>();
        if (speaks) barrier_arrive(&s.empty[before]);
#pragma unroll
        for (unsigned j = 0; j < 8; j++) {
            float quarter[4][4];
#pragma unroll
            for (unsigned e = 0; e < 16; e++) quarter[e / 4][e % 4] = sums[j * 16 + e];
            with_sums(s.out[warp], w, p, p.row + warp * 16, p.col + j * 32, quarter);
        }
    }
}

template <bool trans_a, bool trans_b, typename WithSums>
__device__ __forceinline__ void matmul_hopper(const MatMulHopperArguments& a, HopperShared& s, WithSums with_sums) {
    if (threadIdx.x == 0) {
        for (unsigned i = 0; i < HOPPER_STAGES; i++) {
            barrier_init(&s.full[i], 1);
            barrier_init(&s.empty[i], CONSUMER_WARPS);
        }
        barrier_init_fence();
    }
    __syncthreads();  // The barriers are there.
    if (threadIdx.x < 128) {
        registers_release<40>();
        if (threadIdx.x == 0) produce<trans_a, trans_b>(a, s);
    } else {
        registers_acquire<232>();
        consume<trans_a, trans_b>(a, s, with_sums);
    }
}

struct LossHopperArguments {
    MatMulHopperArguments product;
    Loss loss;
};

// Other architectures have the kernel's name and no body: the backend launches
// it on capability 9.0 only.
#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HOPPER_KERNEL(name, Arguments, trans_a, trans_b, product, with_sums) \
    KERNEL(name, Arguments, HOPPER_THREADS) { __trap(); }
#else
#define HOPPER_KERNEL(name, Arguments, trans_a, trans_b, product, with_sums) \
    KERNEL(name, Arguments, HOPPER_THREADS) {                                \
        SHARED(HopperShared, s);                                             \
        matmul_hopper<trans_a, trans_b>(product, s, with_sums);              \
    }
#endif
HOPPER_KERNEL(matmul_hopper_nn, MatMulHopperArguments, false, false, a, StoreEnd{})
HOPPER_KERNEL(matmul_hopper_nt, MatMulHopperArguments, false, true, a, StoreEnd{})
HOPPER_KERNEL(matmul_hopper_tn, MatMulHopperArguments, true, false, a, StoreEnd{})
HOPPER_KERNEL(matmul_hopper_tt, MatMulHopperArguments, true, true, a, StoreEnd{})
HOPPER_KERNEL(linear_cross_entropy_hopper, LossHopperArguments, false, true, a.product, LossForward{a.loss})
HOPPER_KERNEL(linear_cross_entropy_backward_hopper, LossHopperArguments, false, true, a.product, LossBackward{a.loss})
