// Routing for mixtures of experts: top-k, a sort by key, group bounds.
#include "cuda.cuh"

struct TopKArguments {
    const float* x;
    float* values;
    int* indices;
    uint64_t rows, cols, k;
};

// Larger first, NaN last.
__device__ __forceinline__ bool comes_before(float a, float b) { return a > b || (b != b && a == a); }

// The k largest of each row by insertion, the lower index first among equals:
// a thread a row.
KERNEL(top_k, TopKArguments, THREADS) {
    uint64_t row = uint64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (row >= a.rows) return;
    const float* x = a.x + row * a.cols;
    float* values = a.values + row * a.k;
    int* indices = a.indices + row * a.k;
    uint64_t found = 0;
    for (uint64_t c = 0; c < a.cols; c++) {
        float value = x[c];
        if (found == a.k && !comes_before(value, values[a.k - 1])) continue;
        uint64_t at = found < a.k ? found++ : a.k - 1;
        for (; at > 0 && comes_before(value, values[at - 1]); at--) {
            values[at] = values[at - 1];
            indices[at] = indices[at - 1];
        }
        values[at] = value;
        indices[at] = int(c);
    }
}

struct TopKBackwardArguments {
    const float* dvalues;
    const int* indices;
    float* dx;
    uint64_t rows, cols, k;
    Faults* faults;
    uint32_t step, accumulate;
};
KERNEL(top_k_backward, TopKBackwardArguments, THREADS) {
    uint64_t row = uint64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (row >= a.rows) return;
    float* dx = a.dx + row * a.cols;
    if (!a.accumulate)
        for (uint64_t c = 0; c < a.cols; c++) dx[c] = 0;
    for (uint64_t i = row * a.k; i < (row + 1) * a.k; i++)
        dx[clamp_index(a.indices[i], uint32_t(a.cols), a.faults, a.step)] += a.dvalues[i];
}

struct SortArguments {
    const int* keys;
    int *sources, *places, *starts;
    uint64_t count;
    Faults* faults;
    uint32_t groups, per_source, step;
};
struct SortShared {
    uint32_t counts[WARPS];
};

__device__ __forceinline__ uint32_t nearest(int key, uint32_t groups) {
    return key < 0 ? 0 : uint32_t(key) >= groups ? groups - 1 : uint32_t(key);
}

// How many keys each group has, to starts[g + 1]: a block a group.
KERNEL(sort_counts, SortArguments, THREADS) {
    SHARED(SortShared, s);
    uint32_t mine = 0;
    for (uint64_t n = threadIdx.x; n < a.count; n += THREADS) {
        // Only one block reports a bad key.
        uint32_t key = blockIdx.x == 0 ? clamp_index(a.keys[n], a.groups, a.faults, a.step) : nearest(a.keys[n], a.groups);
        mine += key == blockIdx.x;
    }
    // Not warp_sum: a float would lose the low bits of a large count.
    uint32_t total = 0;
    for (unsigned lane = 0; lane < 32; lane++) total += uint32_t(__shfl_sync(ALL_LANES, int(mine), int(lane)));
    if (threadIdx.x % 32 == 0) s.counts[threadIdx.x / 32] = total;
    __syncthreads();
    if (threadIdx.x != 0) return;
    total = 0;
    for (unsigned w = 0; w < WARPS; w++) total += s.counts[w];
    a.starts[blockIdx.x + 1] = int(total);
}

// Counts to starts: one thread, in order.
KERNEL(sort_starts, SortArguments, THREADS) {
    if (blockIdx.x != 0 || threadIdx.x != 0) return;
    int sum = 0;
    a.starts[0] = 0;
    for (uint32_t g = 1; g <= a.groups; g++) a.starts[g] = sum += a.starts[g];
}

// The places of the keys of a group, in the order of the keys: a block a group.
KERNEL(sort_places, SortArguments, THREADS) {
    SHARED(SortShared, s);
    unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint64_t next = uint64_t(a.starts[blockIdx.x]);
    for (uint64_t base = 0; base < a.count; base += THREADS) {
        uint64_t n = base + threadIdx.x;
        bool mine = n < a.count && nearest(a.keys[n], a.groups) == blockIdx.x;
        unsigned ballot = __ballot_sync(ALL_LANES, mine);
        __syncthreads();  // The last round's counts have been read.
        if (lane == 0) s.counts[warp] = uint32_t(__popc(ballot));
        __syncthreads();
        uint64_t place = next + uint32_t(__popc(ballot & ((1u << lane) - 1)));
        for (unsigned w = 0; w < WARPS; w++) {
            if (w < warp) place += s.counts[w];
            next += s.counts[w];
        }
        if (mine) {
            a.places[n] = int(place);
            a.sources[place] = int(uint32_t(n) / a.per_source);
        }
    }
}

struct BoundsArguments {
    const int* starts;
    uint32_t* bounds;
    Faults* faults;
    uint32_t count, rows, step;
};

// Starts of groups, clamped to 0..=rows and made ascending; what had to be
// changed is reported. One thread.
KERNEL(group_bounds, BoundsArguments, THREADS) {
    if (blockIdx.x != 0 || threadIdx.x != 0) return;
    uint32_t highest = 0;
    for (uint32_t g = 0; g < a.count; g++) {
        uint32_t start = clamp_index(a.starts[g], a.rows + 1, a.faults, a.step);
        if (start < highest) {
            atomicAdd(&a.faults->count, 1u);
            atomicMin(&a.faults->first, a.step);
        }
        a.bounds[g] = highest = start > highest ? start : highest;
    }
}
