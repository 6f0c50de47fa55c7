// The simulator: CUDA's execution model on a CPU, for correctness.
//
// One fiber per CUDA thread. Clusters of blocks (mostly of one) run one after
// the other, in shuffled order; the fibers of a cluster are resumed in an order
// that is shuffled anew in every round, so that code which forgets a barrier
// meets an order that breaks it. Shared memory is poisoned (each word a NaN, a
// huge index) before every cluster. A barrier that not all threads reach, lanes
// of a warp that meet in different operations, blocks that use more shared
// memory than was asked for at launch, and blocks that reach into the shared
// memory of one that has ended end the launch with an error that names the
// thread.
//
// It cannot see missing memory fences, bank conflicts or speed.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <string>

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};

namespace sim {

struct Fault {
    std::string what;
};

extern dim3 grid, block, block_index, thread_index;

// Ends the launch: the message names the block and thread.
[[noreturn]] void fail(const std::string& what);
// The same from work that lands.
void report(const std::string& what);
// Lets other threads run. `waiting_for` is what a deadlock report says.
void yield(const char* waiting_for);
// Something changed that others may wait for.
void progress();
// The block's shared memory; `bytes` must have been asked for at launch.
unsigned char* shared(size_t bytes);

// What was asked for.
size_t shared_bytes();

// The engine's own work: done some rounds later, while threads wait or run.
// A cluster that ends before all of it is done has failed.
void land_later(std::function<void()> work);
// Bits that depend on the launch's seed alone.
uint64_t random();
// How many clusters have begun: what one left behind can be told.
uint64_t clusters_run();

// The thread's number in its cluster, in its block, and in its warp.
unsigned fiber();
unsigned thread();
unsigned lane();

// The block's number in its cluster, and how many there are.
unsigned rank();
unsigned blocks_of_cluster();
// The beginning of a block's shared memory; null once it has ended.
unsigned char* shared_of(unsigned rank);
// Until all threads of the cluster are here.
void cluster_sync();
// Every lane of this thread's warp gives `bytes` at `mine`; returns the 32
// contributions, `bytes` apart. `kind` must be the same for all lanes.
const unsigned char* exchange(const char* kind, const void* mine, size_t bytes);

// All lanes' values of `mine`.
template <typename T>
const T* gather_lanes(const char* kind, const T& mine) {
    return reinterpret_cast<const T*>(exchange(kind, &mine, sizeof(T)));
}

// A kernel that can be launched by name.
struct Kernel {
    const char* name;
    size_t argument_bytes;
    // Of a cluster.
    unsigned blocks;
    void (*run)(const void* arguments);
    const Kernel* next;
    Kernel(const char* name, size_t argument_bytes, unsigned blocks, void (*run)(const void*));
};
const Kernel* find(const char* name);

struct Launch {
    dim3 grid, block;
    size_t shared_bytes = 0;
    uint64_t seed = 0;
};
// Runs a kernel to its end. Returns an empty string, or what went wrong.
std::string launch(const Kernel& kernel, const Launch& how, const void* arguments);

}  // namespace sim

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define gridDim (sim::grid)
#define blockDim (sim::block)
#define blockIdx (sim::block_index)
#define threadIdx (sim::thread_index)

void __syncthreads();
void __syncwarp(unsigned mask = 0xffffffffu);

inline float __shfl_xor_sync(unsigned, float value, int mask) {
    return sim::gather_lanes("__shfl_xor_sync", value)[sim::lane() ^ unsigned(mask)];
}
inline float __shfl_sync(unsigned, float value, int from) {
    return sim::gather_lanes("__shfl_sync", value)[unsigned(from) & 31];
}
inline unsigned __shfl_xor_sync(unsigned, unsigned value, int mask) {
    return sim::gather_lanes("__shfl_xor_sync", value)[sim::lane() ^ unsigned(mask)];
}
inline int __shfl_sync(unsigned, int value, int from) {
    return sim::gather_lanes("__shfl_sync", value)[unsigned(from) & 31];
}
inline unsigned __ballot_sync(unsigned, int predicate) {
    const int* all = sim::gather_lanes("__ballot_sync", predicate);
    unsigned bits = 0;
    for (unsigned i = 0; i < 32; i++) bits |= unsigned(all[i] != 0) << i;
    return bits;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(unsigned bits) { return __builtin_ffs(int(bits)); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }

// Fibers switch only where they say so, so plain operations are atomic.
inline unsigned atomicAdd(unsigned* at, unsigned value) {
    unsigned old = *at;
    *at += value;
    return old;
}
inline unsigned atomicMin(unsigned* at, unsigned value) {
    unsigned old = *at;
    if (value < old) *at = value;
    return old;
}

inline float __int_as_float(int bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
inline float __uint_as_float(unsigned bits) { return __int_as_float(int(bits)); }
inline int __float_as_int(float value) {
    int bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}
inline unsigned __float_as_uint(float value) { return unsigned(__float_as_int(value)); }
