// Every instruction that C++ has no name for: the only file with inline PTX.
// In the simulator sim/ptx.h has a twin of each, of the same name.
//
// References: PTX ISA 9.0, chapters 9.7.9.25 (asynchronous copies), 9.7.13
// (mbarrier), 9.7.14 (mma.sync, ldmatrix), 9.7.15 (wgmma).
#pragma once
#include "cuda.cuh"
#ifndef __CUDACC__
#include "sim/ptx.h"
#else

__device__ __forceinline__ uint32_t shared_address(const void* at) { return uint32_t(__cvta_generic_to_shared(at)); }

// --- sm_80: asynchronous copies of 16 bytes, fragments, products ---

// Copies `bytes` (0..16) and zeroes the rest of the 16. Both sides are aligned
// to 16 bytes.
__device__ __forceinline__ void copy_async_16(void* dst, const void* src, unsigned bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(dst)), "l"(src), "r"(bytes)
                 : "memory");
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most `groups` of this thread's commits are under way.
template <int groups>
__device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

// Four 8 × 8 matrices of 16 bits; lane l gives row l % 8 of matrix l / 8, and
// gets elements (l / 4, 2 (l % 4) + {0, 1}) of each.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
// The same of the transposed matrices.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// d [16,8] += a [16,16] · b [16,8], bfloat16 into f32, a warp.
__device__ __forceinline__ void multiply_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two numbers as bfloat16, the nearest, ties to even; `low` in the lower half.
__device__ __forceinline__ uint32_t pack_bfloat16(float low, float high) {
    uint32_t both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
// Stores of 16 and 8 bytes, which the compiler takes apart where the same
// values are stored one by one in another branch.
__device__ __forceinline__ void store_16(float* to, float a, float b, float c, float d) {
    asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
}
__device__ __forceinline__ void store_8(uint16_t* to, uint32_t a, uint32_t b) {
    asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(to), "r"(a), "r"(b) : "memory");
}
// Asks for the line of global memory at `at`, into L2.
__device__ __forceinline__ void prefetch_line(const void* at) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
}
// 1/x, within 1 unit in the last place.
__device__ __forceinline__ float reciprocal_fast(float x) {
    float inverse;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(x));
    return inverse;
}
// 2^x, within 2 units in the last place; below 2^−126 it is 0.
__device__ __forceinline__ float exp2_fast(float x) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
}

// --- sm_90a: barriers with a transaction count, TMA, warpgroup products ---

// Opaque: made by cuTensorMapEncodeTiled.
struct alignas(64) TensorMap {
    uint64_t opaque[16];
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ __forceinline__ void barrier_init(uint64_t* barrier, unsigned arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// Makes barriers known to the copy engine; a __syncthreads has to follow.
__device__ __forceinline__ void barrier_init_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Arrives, and lets the phase end only when `bytes` more have landed.
__device__ __forceinline__ void barrier_arrive_expecting(uint64_t* barrier, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}
// Until the phase of that parity has ended; at first the one of parity 1 has.
__device__ __forceinline__ void barrier_wait(uint64_t* barrier, unsigned parity) {
    asm volatile(
        "{\n.reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra.uni over;\n"
        "bra.uni again;\n"
        "over:\n}" ::"r"(shared_address(barrier)),
        "r"(parity)
        : "memory");
}

// --- The same across the blocks of a cluster ---

__device__ __forceinline__ unsigned cluster_rank() {
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
// Until all threads of the cluster are here; what they wrote to shared memory
// before is seen after.
__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}
// Arrives at the barrier that block `rank` has where this one has `barrier`.
__device__ __forceinline__ void barrier_arrive_at(uint64_t* barrier, unsigned rank) {
    asm volatile(
        "{\n.reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there];\n}" ::"r"(shared_address(barrier)),
        "r"(rank)
        : "memory");
}
// As barrier_wait, where other blocks arrive too.
__device__ __forceinline__ void barrier_wait_cluster(uint64_t* barrier, unsigned parity) {
    asm volatile(
        "{\n.reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
        "@done bra.uni over;\n"
        "bra.uni again;\n"
        "over:\n}" ::"r"(shared_address(barrier)),
        "r"(parity)
        : "memory");
}

__device__ __forceinline__ void prefetch_map(const TensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
// The map's box from (x, y, z) on, x fastest, to `dst`; what lies outside of
// the tensor becomes 0. The barrier's transaction count gets the bytes.
__device__ __forceinline__ void copy_box(void* dst, const TensorMap& map, unsigned x, unsigned y, unsigned z,
                                         uint64_t* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];"
        ::"r"(shared_address(dst)), "l"(&map), "r"(x), "r"(y), "r"(z), "r"(shared_address(barrier))
        : "memory");
}

// As copy_box, to the same place in each of the first `blocks` blocks of the
// cluster, and to the barrier of each.
__device__ __forceinline__ void copy_box_to_all(void* dst, const TensorMap& map, unsigned x, unsigned y, unsigned z,
                                                uint64_t* barrier, unsigned blocks) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(shared_address(dst)),
        "l"(&map), "r"(x), "r"(y), "r"(z), "r"(shared_address(barrier)), "h"(uint16_t((1u << blocks) - 1))
        : "memory");
}

// Registers of each thread of this warpgroup, from here on.
template <int registers>
__device__ __forceinline__ void registers_release() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}
template <int registers>
__device__ __forceinline__ void registers_acquire() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}

__device__ __forceinline__ void warpgroup_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void warpgroup_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int groups>
__device__ __forceinline__ void warpgroup_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(groups) : "memory");
}

// d [64,256] (=|+=) a · b, bfloat16 operands in shared memory by descriptor.
// `a_along`, `b_along`: 1 where the operand is stored with k outermost.
#define ACCUMULATORS(i)                                                                                  \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),          \
        "+f"(d[i + 6]), "+f"(d[i + 7])
template <int a_along, int b_along>
__device__ __forceinline__ void warpgroup_multiply_64x256x16(float (&d)[128], uint64_t a, uint64_t b, bool accumulate) {
    asm volatile(
        "{\n.reg .pred more;\nsetp.ne.b32 more, %130, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
            "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
            "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
            "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
            "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
            "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
            "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
            "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
            "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
            "%128, %129, more, 1, 1, %131, %132;\n}"
        :
            ACCUMULATORS(0), ACCUMULATORS(8), ACCUMULATORS(16), ACCUMULATORS(24),
            ACCUMULATORS(32), ACCUMULATORS(40), ACCUMULATORS(48), ACCUMULATORS(56),
            ACCUMULATORS(64), ACCUMULATORS(72), ACCUMULATORS(80), ACCUMULATORS(88),
            ACCUMULATORS(96), ACCUMULATORS(104), ACCUMULATORS(112), ACCUMULATORS(120)
        : "l"(a), "l"(b), "r"(int(accumulate)), "n"(a_along), "n"(b_along));
}
#undef ACCUMULATORS

// Values that a product has made, or will use, are not moved across this.
template <unsigned N>
__device__ __forceinline__ void registers_fence(float (&d)[N][4]) {
#pragma unroll
    for (unsigned i = 0; i < N; i++)
        asm volatile("" : "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])::"memory");
}

#define FOUR(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
// d [64,8N] (=|+=) a · b, as above; fragments of 8 columns.
template <int a_along, int b_along>
__device__ __forceinline__ void warpgroup_multiply(float (&d)[16][4], uint64_t a, uint64_t b, bool accumulate) {
    asm volatile(
        "{\n.reg .pred more;\nsetp.ne.b32 more, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
            "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
            "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
            "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
            "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
            "%64, %65, more, 1, 1, %67, %68;\n}"
        :
            FOUR(0), FOUR(1), FOUR(2), FOUR(3),
            FOUR(4), FOUR(5), FOUR(6), FOUR(7),
            FOUR(8), FOUR(9), FOUR(10), FOUR(11),
            FOUR(12), FOUR(13), FOUR(14), FOUR(15)
        : "l"(a), "l"(b), "r"(int(accumulate)), "n"(a_along), "n"(b_along));
}
template <int a_along, int b_along>
__device__ __forceinline__ void warpgroup_multiply(float (&d)[8][4], uint64_t a, uint64_t b, bool accumulate) {
    asm volatile(
        "{\n.reg .pred more;\nsetp.ne.b32 more, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
            "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
            "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
            "%32, %33, more, 1, 1, %35, %36;\n}"
        :
            FOUR(0), FOUR(1), FOUR(2), FOUR(3),
            FOUR(4), FOUR(5), FOUR(6), FOUR(7)
        : "l"(a), "l"(b), "r"(int(accumulate)), "n"(a_along), "n"(b_along));
}
// d [64,8N] += a · b, a from registers: each warp's 16 rows as mma.sync takes
// them.
template <int b_along>
__device__ __forceinline__ void warpgroup_multiply_registers(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
            "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
            "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
            "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
            "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
            "{%64, %65, %66, %67}, %68, 1, 1, 1, %69;"
        :
            FOUR(0), FOUR(1), FOUR(2), FOUR(3),
            FOUR(4), FOUR(5), FOUR(6), FOUR(7),
            FOUR(8), FOUR(9), FOUR(10), FOUR(11),
            FOUR(12), FOUR(13), FOUR(14), FOUR(15)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(b_along));
}
template <int b_along>
__device__ __forceinline__ void warpgroup_multiply_registers(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
            "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
            "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
            "{%32, %33, %34, %35}, %36, 1, 1, 1, %37;"
        :
            FOUR(0), FOUR(1), FOUR(2), FOUR(3),
            FOUR(4), FOUR(5), FOUR(6), FOUR(7)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(b_along));
}
#undef FOUR
#endif  // sm_90a
#endif  // __CUDACC__

// Which of a block's warpgroups this is. The shuffle tells the compiler that a
// warp's lanes agree: descriptors that depend on it stay in uniform registers.
__device__ __forceinline__ unsigned warpgroup() {
    return unsigned(__shfl_sync(ALL_LANES, int(threadIdx.x / 128), 0));
}

// What a warpgroup product is told of a tile that TMA wrote with the swizzle of
// 128 bytes: where it begins, and the bytes between groups of 64 elements along
// a row (`groups`, only where k is outermost) and of 8 rows (1024 apart). Shared
// memory ends before 2^18, so the sum of addresses fits its 14 bits.
__device__ __forceinline__ uint64_t tile_descriptor(const void* tile, unsigned offset, unsigned groups) {
    uint32_t address = (shared_address(tile) >> 4 & 0x3fff) + (offset >> 4);
    return uint64_t(address | groups >> 4 << 16) | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}
