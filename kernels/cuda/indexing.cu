// Gather, and its transpose with a fixed order.
#include "cuda.cuh"

struct GatherArguments {
    const void* table;
    const int* indices;
    void* out;
    uint64_t count, cols;
    Faults* faults;
    uint32_t entries, step;
};

// out[n,:] = table[indices[n],:]: one warp a row.
template <typename Element>
__device__ __forceinline__ void gathered(const GatherArguments& a) {
    uint64_t n = uint64_t(blockIdx.x) * WARPS + threadIdx.x / 32;
    if (n >= a.count) return;
    uint32_t entry = 0;
    if (threadIdx.x % 32 == 0) entry = clamp_index(a.indices[n], a.entries, a.faults, a.step);
    entry = uint32_t(__shfl_sync(ALL_LANES, int(entry), 0));
    const Element* row = static_cast<const Element*>(a.table) + entry * a.cols;
    for (uint64_t c = threadIdx.x % 32; c < a.cols; c += 32) static_cast<Element*>(a.out)[n * a.cols + c] = row[c];
}
KERNEL(gather, GatherArguments, THREADS) { gathered<uint32_t>(a); }
KERNEL(gather_halves, GatherArguments, THREADS) { gathered<uint16_t>(a); }

struct ScatterAddArguments {
    const float* src;
    const int* indices;
    float* table;
    uint64_t count, cols;
    Faults* faults;
    uint32_t entries, step, accumulate;
};

// table[indices[n],:] += src[n,:] in the order of n. A block owns GROUP
// entries and THREADS columns of them. It reads all indices, 256 at a time,
// keeps those that are its own in the order of n, and adds their rows. So each
// index is read entries / GROUP times (from L2), and no sum has another order.
constexpr unsigned GROUP = 8;
struct ScatterAddShared {
    float sums[GROUP][THREADS];
    uint32_t matches[THREADS];
    uint32_t owners[THREADS];
    uint32_t counts[WARPS];
};
KERNEL(scatter_add, ScatterAddArguments, THREADS) {
    SHARED(ScatterAddShared, s);
    uint64_t across = (a.cols + THREADS - 1) / THREADS;
    uint32_t first = uint32_t(blockIdx.x / across) * GROUP;
    uint64_t col = blockIdx.x % across * THREADS + threadIdx.x;
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (unsigned g = 0; g < GROUP; g++) s.sums[g][threadIdx.x] = 0;
    // The table comes in as the first summand, as on the CPU.
    if (a.accumulate && col < a.cols)
        for (unsigned g = 0; g < GROUP && first + g < a.entries; g++)
            s.sums[g][threadIdx.x] = a.table[uint64_t(first + g) * a.cols + col];
    for (uint64_t base = 0; base < a.count; base += THREADS) {
        uint64_t n = base + threadIdx.x;
        uint32_t owner = GROUP;
        if (n < a.count) {
            int index = a.indices[n];
            // Only one block reports each index.
            bool reports = blockIdx.x == 0 && (index < 0 || uint32_t(index) >= a.entries);
            if (reports) clamp_index(index, a.entries, a.faults, a.step);
            uint32_t entry = index < 0 ? 0 : (uint32_t(index) >= a.entries ? a.entries - 1 : uint32_t(index));
            if (entry >= first && entry < first + GROUP) owner = entry - first;
        }
        unsigned ballot = __ballot_sync(ALL_LANES, owner < GROUP);
        __syncthreads();  // The last round's matches have been read.
        if (lane == 0) s.counts[warp] = uint32_t(__popc(ballot));
        __syncthreads();
        uint32_t place = 0, matches = 0;
        for (unsigned w = 0; w < WARPS; w++) {
            if (w < warp) place += s.counts[w];
            matches += s.counts[w];
        }
        if (owner < GROUP) {
            place += uint32_t(__popc(ballot & ((1u << lane) - 1)));
            s.matches[place] = threadIdx.x;
            s.owners[place] = owner;
        }
        __syncthreads();
        if (col < a.cols)
            for (uint32_t i = 0; i < matches; i++)
                s.sums[s.owners[i]][threadIdx.x] += a.src[(base + s.matches[i]) * a.cols + col];
    }
    if (col < a.cols)
        for (unsigned g = 0; g < GROUP && first + g < a.entries; g++)
            a.table[uint64_t(first + g) * a.cols + col] = s.sums[g][threadIdx.x];
}
