// Twins of the instructions in ptx.cuh. What the hardware may do late is done
// late, at a random time: an asynchronous copy lands at once or when it is
// waited for, a TMA box some rounds later, and a warpgroup product reads its
// operands when it is issued or not before it is waited for.
#pragma once
#include "sim.h"

struct alignas(64) TensorMap {
    uint64_t opaque[16];
};

namespace sim {

// What cuTensorMapEncodeTiled writes here: a tensor of 16-bit elements of rank
// 3 and a box of it, stored with the swizzle of 128 bytes.
struct Map {
    uint64_t base, sizes[3], strides[2];  // Strides of y and z, in bytes.
    uint32_t box[3], magic;
};
constexpr uint32_t MAP_MAGIC = 0x54454e53;

void start_copy_16(void* dst, const void* src, unsigned bytes);
void commit_copies();
void wait_copies(unsigned groups);
void matrices(uint32_t (&r)[4], const void* row, bool transposed);
// Into the blocks of the cluster that `mask` has a bit for.
void start_box(void* dst, const TensorMap& map, unsigned x, unsigned y, unsigned z, uint64_t* barrier, unsigned mask);
void start_product(float* d, unsigned cols, uint64_t a, uint64_t b, bool accumulate, bool a_along, bool b_along);
void start_product(float* d, unsigned cols, const uint32_t (&a)[4], uint64_t b, bool b_along);
void commit_products();
void wait_products(unsigned groups);

}  // namespace sim

// From the beginning of the block's shared memory.
uint32_t shared_address(const void* at);

inline void copy_async_16(void* dst, const void* src, unsigned bytes) { sim::start_copy_16(dst, src, bytes); }
inline void copy_async_commit() { sim::commit_copies(); }
template <int groups>
void copy_async_wait() {
    sim::wait_copies(groups);
}
inline void load_matrices(uint32_t (&r)[4], const void* row) { sim::matrices(r, row, false); }
inline void load_matrices_transposed(uint32_t (&r)[4], const void* row) { sim::matrices(r, row, true); }
void multiply_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
uint32_t pack_bfloat16(float low, float high);
inline float exp2_fast(float x) {
    float power = std::exp2(x);
    return power < std::numeric_limits<float>::min() ? 0.0f : power;
}

// 1/x, within 1 unit in the last place.
inline float reciprocal_fast(float x) { return 1.0f / x; }

void barrier_init(uint64_t* barrier, unsigned arrivals);
inline void barrier_init_fence() {}
void barrier_arrive(uint64_t* barrier);
void barrier_arrive_expecting(uint64_t* barrier, unsigned bytes);
void barrier_wait(uint64_t* barrier, unsigned parity);

inline unsigned cluster_rank() { return sim::rank(); }
inline void cluster_sync() { sim::cluster_sync(); }
void barrier_arrive_at(uint64_t* barrier, unsigned rank);
inline void barrier_wait_cluster(uint64_t* barrier, unsigned parity) { barrier_wait(barrier, parity); }

inline void prefetch_map(const TensorMap&) {}
inline void prefetch_line(const void*) {}
inline void store_16(float* to, float a, float b, float c, float d) {
    *reinterpret_cast<float4*>(to) = float4{a, b, c, d};
}
inline void store_8(uint16_t* to, uint32_t a, uint32_t b) { *reinterpret_cast<uint2*>(to) = uint2{a, b}; }
inline void copy_box(void* dst, const TensorMap& map, unsigned x, unsigned y, unsigned z, uint64_t* barrier) {
    sim::start_box(dst, map, x, y, z, barrier, 1u << sim::rank());
}
inline void copy_box_to_all(void* dst, const TensorMap& map, unsigned x, unsigned y, unsigned z, uint64_t* barrier,
                            unsigned blocks) {
    sim::start_box(dst, map, x, y, z, barrier, (1u << blocks) - 1);
}

template <int registers>
void registers_release() {
    static_assert(registers % 8 == 0 && registers >= 24 && registers <= 256);
}
template <int registers>
void registers_acquire() {
    static_assert(registers % 8 == 0 && registers >= 24 && registers <= 256);
}
void warpgroup_fence();
inline void warpgroup_commit() { sim::commit_products(); }
template <int groups>
void warpgroup_wait() {
    sim::wait_products(groups);
}
template <int a_along, int b_along>
void warpgroup_multiply_64x256x16(float (&d)[128], uint64_t a, uint64_t b, bool accumulate) {
    sim::start_product(d, 256, a, b, accumulate, a_along, b_along);
}
template <unsigned N>
void registers_fence(float (&)[N][4]) {}
template <int a_along, int b_along, unsigned N>
void warpgroup_multiply(float (&d)[N][4], uint64_t a, uint64_t b, bool accumulate) {
    sim::start_product(d[0], 8 * N, a, b, accumulate, a_along, b_along);
}
template <int b_along, unsigned N>
void warpgroup_multiply_registers(float (&d)[N][4], const uint32_t (&a)[4], uint64_t b) {
    sim::start_product(d[0], 8 * N, a, b, b_along);
}
