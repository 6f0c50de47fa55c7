// RMS norm without weights: one warp a row, read once where a row fits the
// warp's registers, from cache the second time where it does not. Bound by
// memory: 8 bytes an element forward, 12 or 16 backward.
#include "cuda.cuh"

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
    float squares = 0;
    for (uint64_t c = threadIdx.x % 32; c < a.cols; c += 32) squares += x[c] * x[c];
    float inv = 1.0f / sqrtf(warp_sum(squares) / float(a.cols) + a.eps);
    for (uint64_t c = threadIdx.x % 32; c < a.cols; c += 32) a.out[row * a.cols + c] = x[c] * inv;
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
    float products = 0;
    for (uint64_t c = threadIdx.x % 32; c < a.cols; c += 32) products += dout[c] * x[c];
    float inv = a.inv_rms[row];
    float mean = warp_sum(products) / float(a.cols);
    float factor = inv * inv * mean;
    for (uint64_t c = threadIdx.x % 32; c < a.cols; c += 32) {
        float value = inv * (dout[c] - x[c] * factor);
        dx[c] = a.accumulate ? dx[c] + value : value;
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
    float sum = 0, squares = 0;
    for (uint64_t c = threadIdx.x % 32; c < a.cols; c += 32) sum += x[c];
    float mean = warp_sum(sum) / float(a.cols);
    for (uint64_t c = threadIdx.x % 32; c < a.cols; c += 32) squares += (x[c] - mean) * (x[c] - mean);
    float inv = 1.0f / sqrtf(warp_sum(squares) / float(a.cols) + a.eps);
    for (uint64_t c = threadIdx.x % 32; c < a.cols; c += 32) a.out[row * a.cols + c] = (x[c] - mean) * inv;
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
    for (uint64_t c = threadIdx.x % 32; c < a.cols; c += 32) {
        sum += dout[c];
        products += dout[c] * (x[c] - mean);
    }
    float level = warp_sum(sum) / float(a.cols);
    float along = inv * warp_sum(products) / float(a.cols);
    for (uint64_t c = threadIdx.x % 32; c < a.cols; c += 32) {
        float value = inv * (dout[c] - level - (x[c] - mean) * inv * along);
        dx[c] = a.accumulate ? dx[c] + value : value;
    }
}
