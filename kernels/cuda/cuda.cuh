// What every kernel file starts with: CUDA itself, or the simulator in its
// place.
//
// A kernel takes one struct of arguments by value (`a`), whose twin on the
// Rust side is `#[repr(C)]`, and dynamic shared memory only (SHARED), so that
// the launcher and the simulator know how much it needs. After them it is told
// the threads of a block and, where that matters, how many blocks a
// multiprocessor has at least. A PAIR_KERNEL runs in clusters of two blocks.
#pragma once
#ifdef __CUDACC__
#include <cstdint>
#define KERNEL(name, Arguments, ...) \
    extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name(const __grid_constant__ Arguments a)
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define PAIR_KERNEL(name, Arguments, ...)                                             \
    extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(__VA_ARGS__) \
        name(const __grid_constant__ Arguments a)
#else
#define PAIR_KERNEL KERNEL
#endif
#define SHARED(Layout, name)                                                  \
    extern __shared__ __align__(1024) unsigned char shared_bytes[];           \
    Layout& name = *reinterpret_cast<Layout*>(shared_bytes)
#else
#include "sim/sim.h"
#define CLUSTER_KERNEL(name, Arguments, blocks, ...)                                                      \
    static void name(const Arguments& a);                                                                 \
    static const sim::Kernel name##_kernel(#name, sizeof(Arguments), blocks, [](const void* arguments) {  \
        constexpr unsigned bounds[] = {__VA_ARGS__};                                                      \
        if (sim::block.x * sim::block.y * sim::block.z > bounds[0]) sim::fail(#name ": too many threads"); \
        name(*static_cast<const Arguments*>(arguments));                                                  \
    });                                                                                                   \
    static void name(const Arguments& a)
#define KERNEL(name, Arguments, ...) CLUSTER_KERNEL(name, Arguments, 1, __VA_ARGS__)
#define PAIR_KERNEL(name, Arguments, ...) CLUSTER_KERNEL(name, Arguments, 2, __VA_ARGS__)
#define SHARED(Layout, name) Layout& name = *reinterpret_cast<Layout*>(sim::shared(sizeof(Layout)))
#endif

// Threads of a block, where nothing else decides.
constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / 32;
constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr float LOG2_E = 1.4426950408889634f;

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }

// The larger; NaN wins, as in the CPU device.
__device__ __forceinline__ float larger(float a, float b) { return (a >= b || a != a) ? a : b; }
__device__ __forceinline__ float smaller(float a, float b) { return (a <= b || a != a) ? a : b; }

// bfloat16 is the upper half of a binary32.
__device__ __forceinline__ float of_bfloat16(uint32_t bits) { return __uint_as_float(bits << 16); }
// The nearest, ties to even; NaN stays NaN.
__device__ __forceinline__ uint32_t to_bfloat16(float x) {
    uint32_t bits = __float_as_uint(x);
    return x != x ? bits >> 16 | 0x40u : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}

// Butterfly over a warp: every lane gets the same bits, in a fixed order.
__device__ __forceinline__ float warp_sum(float value) {
    for (int mask = 16; mask > 0; mask >>= 1) value += __shfl_xor_sync(ALL_LANES, value, mask);
    return value;
}
__device__ __forceinline__ float warp_maximum(float value) {
    for (int mask = 16; mask > 0; mask >>= 1) value = larger(value, __shfl_xor_sync(ALL_LANES, value, mask));
    return value;
}

// Over a block of THREADS, in a fixed order; `parts` is shared. Every thread
// gets the result. All threads must call it.
__device__ __forceinline__ float block_sum(float value, float (&parts)[WARPS]) {
    value = warp_sum(value);
    __syncthreads();  // The last use of `parts` is over.
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    float total = 0;
    for (unsigned i = 0; i < WARPS; i++) total += parts[i];
    return total;
}
__device__ __forceinline__ float block_maximum(float value, float (&parts)[WARPS]) {
    value = warp_maximum(value);
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    float most = parts[0];
    for (unsigned i = 1; i < WARPS; i++) most = larger(most, parts[i]);
    return most;
}

// Indices out of range: how many, and the first step that had one.
struct Faults {
    unsigned first;
    unsigned count;
};

// `index` if it is in 0..bound, else the nearest that is, and a mark in
// `faults`.
__device__ __forceinline__ uint32_t clamp_index(int index, uint32_t bound, Faults* faults, unsigned step) {
    if (index >= 0 && uint32_t(index) < bound) return uint32_t(index);
    atomicAdd(&faults->count, 1u);
    atomicMin(&faults->first, step);
    return index < 0 ? 0 : bound - 1;
}
