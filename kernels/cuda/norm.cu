// RMS and layer norm without weights: one warp a row, four elements a lane at a
// time, the second time from cache. Bound by memory: 8 bytes an element
// forward, 12 or 16 backward.
#include "four.cuh"

// First element of a lane in a row, and from there to its next ones.
constexpr unsigned ROW_STEP = 32 * 4;
__device__ __forceinline__ uint64_t first_four() { return threadIdx.x % 32 * 4; }

struct RmsNormArguments {
    const float* x;
    float* out;
    float* inv_rms;
    uint64_t rows, cols;
    float eps;
};

// out = x · inv, inv = 1/√(mean x² + eps).
KERNEL(rms_norm, RmsNormArguments, THREADS) {
    uint64_t row = uint64_t(blockIdx.x) * WARPS + threadIdx.x / 32;
    if (row >= a.rows) return;  // Whole warps leave.
    const float* x = a.x + row * a.cols;
    float* out = a.out + row * a.cols;
    bool wide = sixteen_bytes(a.cols, a.x, a.out);
    float squares = 0;
    for (uint64_t c = first_four(); c < a.cols; c += ROW_STEP) {
        Four value = load_four(x, c, a.cols, wide);
#pragma unroll
        for (unsigned i = 0; i < 4; i++) squares = fmaf(value.at[i], value.at[i], squares);
    }
    float inv = 1.0f / sqrtf(warp_sum(squares) / float(a.cols) + a.eps);
    for (uint64_t c = first_four(); c < a.cols; c += ROW_STEP) {
        Four value = load_four(x, c, a.cols, wide);
#pragma unroll
        for (unsigned i = 0; i < 4; i++) value.at[i] *= inv;
        store_four(out, c, a.cols, wide, value);
    }
    if (threadIdx.x % 32 == 0) a.inv_rms[row] = inv;
}

struct RmsNormBackwardArguments {
    const float *x, *inv_rms, *dout;
    float* dx;
    uint64_t rows, cols;
    uint32_t accumulate;
};

// dx = inv · (dout − x · inv² · mean(dout · x)).
KERNEL(rms_norm_backward, RmsNormBackwardArguments, THREADS) {
    uint64_t row = uint64_t(blockIdx.x) * WARPS + threadIdx.x / 32;
    if (row >= a.rows) return;
    const float *x = a.x + row * a.cols, *dout = a.dout + row * a.cols;
    float* dx = a.dx + row * a.cols;
    bool wide = sixteen_bytes(a.cols, a.x, a.dout, a.dx);
    float products = 0;
    for (uint64_t c = first_four(); c < a.cols; c += ROW_STEP) {
        Four value = load_four(x, c, a.cols, wide), slope = load_four(dout, c, a.cols, wide);
#pragma unroll
        for (unsigned i = 0; i < 4; i++) products = fmaf(slope.at[i], value.at[i], products);
    }
    float inv = a.inv_rms[row];
    float mean = warp_sum(products) / float(a.cols);
    float factor = inv * inv * mean;
    for (uint64_t c = first_four(); c < a.cols; c += ROW_STEP) {
        Four value = load_four(x, c, a.cols, wide), slope = load_four(dout, c, a.cols, wide), result{};
        if (a.accumulate) result = load_four(dx, c, a.cols, wide);
#pragma unroll
        for (unsigned i = 0; i < 4; i++) result.at[i] += inv * (slope.at[i] - value.at[i] * factor);
        store_four(dx, c, a.cols, wide, result);
    }
}

struct LayerNormArguments {
    const float* x;
    float *out, *mean, *inv_std;
    uint64_t rows, cols;
    float eps;
};

// out = (x − mean) · inv, inv = 1/√(variance + eps), in two passes: the
// variance is of what is left when the mean is taken away.
KERNEL(layer_norm, LayerNormArguments, THREADS) {
    uint64_t row = uint64_t(blockIdx.x) * WARPS + threadIdx.x / 32;
    if (row >= a.rows) return;
    const float* x = a.x + row * a.cols;
    float* out = a.out + row * a.cols;
    bool wide = sixteen_bytes(a.cols, a.x, a.out);
    float sum = 0, squares = 0;
    for (uint64_t c = first_four(); c < a.cols; c += ROW_STEP) {
        Four value = load_four(x, c, a.cols, wide);
#pragma unroll
        for (unsigned i = 0; i < 4; i++) sum += value.at[i];
    }
    float mean = warp_sum(sum) / float(a.cols);
    for (uint64_t c = first_four(); c < a.cols; c += ROW_STEP) {
        Four value = load_four(x, c, a.cols, wide);
#pragma unroll
        for (unsigned i = 0; i < 4; i++)
            if (c + i < a.cols) squares = fmaf(value.at[i] - mean, value.at[i] - mean, squares);
    }
    float inv = 1.0f / sqrtf(warp_sum(squares) / float(a.cols) + a.eps);
    for (uint64_t c = first_four(); c < a.cols; c += ROW_STEP) {
        Four value = load_four(x, c, a.cols, wide);
#pragma unroll
        for (unsigned i = 0; i < 4; i++) value.at[i] = (value.at[i] - mean) * inv;
        store_four(out, c, a.cols, wide, value);
    }
    if (threadIdx.x % 32 == 0) {
        a.mean[row] = mean;
        a.inv_std[row] = inv;
    }
}

struct LayerNormBackwardArguments {
    const float *x, *mean, *inv_std, *dout;
    float* dx;
    uint64_t rows, cols;
    uint32_t accumulate;
};

// dx = inv · (dout − mean(dout) − x̂ · mean(dout · x̂)), x̂ = (x − mean) · inv.
KERNEL(layer_norm_backward, LayerNormBackwardArguments, THREADS) {
    uint64_t row = uint64_t(blockIdx.x) * WARPS + threadIdx.x / 32;
    if (row >= a.rows) return;
    const float *x = a.x + row * a.cols, *dout = a.dout + row * a.cols;
    float* dx = a.dx + row * a.cols;
    float mean = a.mean[row], inv = a.inv_std[row], sum = 0, products = 0;
    bool wide = sixteen_bytes(a.cols, a.x, a.dout, a.dx);
    for (uint64_t c = first_four(); c < a.cols; c += ROW_STEP) {
        // After the end of the row dout is 0, and adds nothing.
        Four value = load_four(x, c, a.cols, wide), slope = load_four(dout, c, a.cols, wide);
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            sum += slope.at[i];
            products = fmaf(slope.at[i], value.at[i] - mean, products);
        }
    }
    float level = warp_sum(sum) / float(a.cols);
    float along = inv * warp_sum(products) / float(a.cols);
    for (uint64_t c = first_four(); c < a.cols; c += ROW_STEP) {
        Four value = load_four(x, c, a.cols, wide), slope = load_four(dout, c, a.cols, wide), result{};
        if (a.accumulate) result = load_four(dx, c, a.cols, wide);
#pragma unroll
        for (unsigned i = 0; i < 4; i++)
            result.at[i] += inv * (slope.at[i] - level - (value.at[i] - mean) * inv * along);
        store_four(dx, c, a.cols, wide, result);
    }
}
