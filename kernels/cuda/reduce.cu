// Sums over rows, columns or everything. The order of every sum follows from
// the shape alone.
#include "cuda.cuh"

struct ReduceArguments {
    const float* src;
    float* dst;
    float* partial;
    uint64_t rows, cols;
    float scale;
    uint32_t accumulate;
};

__device__ __forceinline__ void put(float* dst, float value, const ReduceArguments& a) {
    *dst = (a.accumulate ? *dst : 0.0f) + a.scale * value;
}

// One value per row: a block for each.
struct ReduceShared {
    float parts[WARPS];
};
KERNEL(reduce_cols, ReduceArguments, THREADS) {
    SHARED(ReduceShared, s);
    const float* row = a.src + uint64_t(blockIdx.x) * a.cols;
    float sum = 0;
    for (uint64_t c = threadIdx.x; c < a.cols; c += THREADS) sum += row[c];
    sum = block_sum(sum, s.parts);
    if (threadIdx.x == 0) put(a.dst + blockIdx.x, sum, a);
}

// One value per column, first half: a block sums 64 rows of 256 columns into
// `partial` [blocks of rows, cols].
constexpr unsigned BAND = 64;
KERNEL(reduce_rows_bands, ReduceArguments, THREADS) {
    uint64_t across = (a.cols + THREADS - 1) / THREADS;
    uint64_t band = blockIdx.x / across, col = blockIdx.x % across * THREADS + threadIdx.x;
    if (col >= a.cols) return;
    uint64_t first = band * BAND, end = first + BAND < a.rows ? first + BAND : a.rows;
    float sum = 0;
    for (uint64_t row = first; row < end; row++) sum += a.src[row * a.cols + col];
    a.partial[band * a.cols + col] = sum;
}

// Second half: the bands, in order. `rows` is the number of bands.
KERNEL(reduce_rows_total, ReduceArguments, THREADS) {
    uint64_t col = uint64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (col >= a.cols) return;
    float sum = 0;
    for (uint64_t band = 0; band < a.rows; band++) sum += a.partial[band * a.cols + col];
    put(a.dst + col, sum, a);
}

// Everything, first half: 16,384 elements a block.
constexpr uint64_t STRIP = 16384;
KERNEL(reduce_all_strips, ReduceArguments, THREADS) {
    SHARED(ReduceShared, s);
    uint64_t count = a.rows * a.cols, first = blockIdx.x * STRIP;
    uint64_t end = first + STRIP < count ? first + STRIP : count;
    float sum = 0;
    for (uint64_t i = first + threadIdx.x; i < end; i += THREADS) sum += a.src[i];
    sum = block_sum(sum, s.parts);
    if (threadIdx.x == 0) a.partial[blockIdx.x] = sum;
}

// Second half: one block. `rows` is the number of strips.
KERNEL(reduce_all_total, ReduceArguments, THREADS) {
    SHARED(ReduceShared, s);
    float sum = 0;
    for (uint64_t i = threadIdx.x; i < a.rows; i += THREADS) sum += a.partial[i];
    sum = block_sum(sum, s.parts);
    if (threadIdx.x == 0) put(a.dst, sum, a);
}
