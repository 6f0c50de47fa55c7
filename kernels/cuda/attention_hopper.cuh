// What the kernels for attention on Hopper share: how TMA brings tiles of a
// head's rows, how warpgroups multiply them, and how a kernel is declared.
//
// A tile of ROWS rows lies as TMA's swizzle of 128 bytes leaves it: D / 64
// boxes of 64 columns, each of ROWS rows of 128 bytes.
#pragma once
#include "attention_tiles.cuh"

// A producer and two consumers, of 128 threads.
constexpr unsigned ATTENTION_THREADS = 384, ATTENTION_CONSUMER_WARPS = 8;

// Asks for rows from `row` on of a head; the map's boxes have ROWS rows. What
// the barrier is to expect is the caller's to say.
template <unsigned D, unsigned ROWS>
__device__ __forceinline__ void ask_rows(uint16_t* to, const TensorMap& map, uint64_t head, uint64_t row,
                                         uint64_t member, uint64_t* full) {
#pragma unroll
    for (unsigned i = 0; i < D / 64; i++)
        copy_box(to + i * ROWS * 64, map, unsigned(head * D) + i * 64, unsigned(row), unsigned(member), full);
}

// Starts z [64, 8N] = 64 rows of a tile of X_ROWS · (a tile of 8N rows)ᵀ, whose
// columns both lie along the sum.
template <unsigned D, unsigned X_ROWS, unsigned N>
__device__ __forceinline__ void start_scores(float (&z)[N][4], const uint16_t* x, const uint16_t* y) {
    registers_fence(z);
    warpgroup_fence();
#pragma unroll
    for (unsigned d = 0; d < D; d += 16) {
        uint64_t left = tile_descriptor(x, d / 64 * X_ROWS * 128 + d % 64 * 2, 0);
        uint64_t right = tile_descriptor(y, d / 64 * 8 * N * 128 + d % 64 * 2, 0);
        warpgroup_multiply<0, 0>(z, left, right, d > 0);
    }
    warpgroup_commit();
}

// Starts sums [64, D] += left · a tile of 16K rows, whose rows lie along the
// sum.
template <unsigned D, unsigned K>
__device__ __forceinline__ void start_sums(float (&sums)[D / 8][4], const uint32_t (&left)[K][4],
                                           const uint16_t* tile) {
    registers_fence(sums);
    warpgroup_fence();
#pragma unroll
    for (unsigned i = 0; i < K; i++)
        warpgroup_multiply_registers<1>(sums, left[i], tile_descriptor(tile, i * 16 * 128, 16 * K * 128));
    warpgroup_commit();
}

// One block a multiprocessor: a compiler that is not told ignores what the two
// kinds of warpgroups say of their registers. Other architectures have the
// kernel's name and no body: the backend launches it on capability 9.0 only.
#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define ATTENTION_HOPPER(name, Arguments, Shared, ...) \
    KERNEL(name, Arguments, ATTENTION_THREADS, 1) { __trap(); }
#else
#define ATTENTION_HOPPER(name, Arguments, Shared, ...) \
    KERNEL(name, Arguments, ATTENTION_THREADS, 1) {    \
        SHARED(Shared, s);                             \
        __VA_ARGS__(a, s);                             \
    }
#endif
