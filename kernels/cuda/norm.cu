// RMS and layer norm: one warp a row, four elements a lane at a time, the second
// time from cache. Bound by memory: 8 bytes an element forward, 12 or 16
// backward; 2 less each way where out and dout are bfloat16 (`half`).
#include "epilogue.cuh"
#include "four.cuh"

// First element of a lane in a row, and from there to its next ones.
constexpr unsigned ROW_STEP = 32 * 4;
__device__ __forceinline__ uint64_t first_four() { return threadIdx.x % 32 * 4; }

struct RmsNormArguments {
    const void* x;
    void* out;
    float* inv_rms;
    uint64_t rows, cols;
    float eps;
    uint32_t half_x, half_out;
};

// out = x · inv, inv = 1/√(mean x² + eps).
KERNEL(rms_norm, RmsNormArguments, THREADS) {
    uint64_t row = uint64_t(blockIdx.x) * WARPS + threadIdx.x / 32;
    if (row >= a.rows) return;  // Whole warps leave.
    bool wide = sixteen_bytes(a.cols, a.x, a.out);
    auto load = [&](uint64_t c) { return load_four_of(a.x, a.half_x, row * a.cols, c, a.cols, wide); };
    float squares = 0;
    for (uint64_t c = first_four(); c < a.cols; c += ROW_STEP) {
        Four value = load(c);
#pragma unroll
        for (unsigned i = 0; i < 4; i++) squares = fmaf(value.at[i], value.at[i], squares);
    }
    float inv = 1.0f / sqrtf(warp_sum(squares) / float(a.cols) + a.eps);
    for (uint64_t c = first_four(); c < a.cols; c += ROW_STEP) {
        Four value = load(c);
#pragma unroll
        for (unsigned i = 0; i < 4; i++) value.at[i] *= inv;
        store_four_of(a.out, a.half_out, row * a.cols, c, a.cols, wide, value);
    }
    if (threadIdx.x % 32 == 0) a.inv_rms[row] = inv;
}

struct RmsNormBackwardArguments {
    const void* x;
    const float* inv_rms;
    const void* dout;
    void* dx;
    uint64_t rows, cols;
    uint32_t accumulate, half_x, half_dout, half_dx;
};

// dx = inv · (dout − x · inv² · mean(dout · x)).
KERNEL(rms_norm_backward, RmsNormBackwardArguments, THREADS) {
    uint64_t row = uint64_t(blockIdx.x) * WARPS + threadIdx.x / 32;
    if (row >= a.rows) return;
    bool wide = sixteen_bytes(a.cols, a.x, a.dout, a.dx);
    auto load = [&](const void* of, bool half, uint64_t c) {
        return load_four_of(of, half, row * a.cols, c, a.cols, wide);
    };
    float products = 0;
    for (uint64_t c = first_four(); c < a.cols; c += ROW_STEP) {
        Four value = load(a.x, a.half_x, c), slope = load(a.dout, a.half_dout, c);
#pragma unroll
        for (unsigned i = 0; i < 4; i++) products = fmaf(slope.at[i], value.at[i], products);
    }
    float inv = a.inv_rms[row];
    float mean = warp_sum(products) / float(a.cols);
    float factor = inv * inv * mean;
    for (uint64_t c = first_four(); c < a.cols; c += ROW_STEP) {
        Four value = load(a.x, a.half_x, c), slope = load(a.dout, a.half_dout, c), result{};
        if (a.accumulate) result = load(a.dx, a.half_dx, c);
#pragma unroll
        for (unsigned i = 0; i < 4; i++) result.at[i] += inv * (slope.at[i] - value.at[i] * factor);
        store_four_of(a.dx, a.half_dx, row * a.cols, c, a.cols, wide, result);
    }
}

struct LayerNormArguments {
    // gain and bias have one value a column, or are null: 1 and 0.
    const float *x, *gain, *bias;
    void* out;
    float *mean, *inv_std;
    uint64_t rows, cols;
    float eps;
    uint32_t half;
};

// out = (x − mean) · inv · gain + bias, inv = 1/√(variance + eps), in two
// passes: the variance is of what is left when the mean is taken away.
KERNEL(layer_norm, LayerNormArguments, THREADS) {
    uint64_t row = uint64_t(blockIdx.x) * WARPS + threadIdx.x / 32;
    if (row >= a.rows) return;
    const float* x = a.x + row * a.cols;
    bool wide = sixteen_bytes(a.cols, a.x, a.out, a.gain, a.bias);
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
        if (a.gain) {
            Four gain = load_four(a.gain, c, a.cols, wide);
#pragma unroll
            for (unsigned i = 0; i < 4; i++) value.at[i] *= gain.at[i];
        }
        if (a.bias) {
            Four bias = load_four(a.bias, c, a.cols, wide);
#pragma unroll
            for (unsigned i = 0; i < 4; i++) value.at[i] += bias.at[i];
        }
        store_four_of(a.out, a.half, row * a.cols, c, a.cols, wide, value);
    }
    if (threadIdx.x % 32 == 0) {
        a.mean[row] = mean;
        a.inv_std[row] = inv;
    }
}

struct LayerNormBackwardArguments {
    const float *x, *gain, *mean, *inv_std;
    const void* dout;
    float* dx;
    uint64_t rows, cols;
    uint32_t accumulate, half;
};

// With d = dout · gain, dx = inv · (d − mean(d) − x̂ · mean(d · x̂)), where x̂ =
// (x − mean) · inv.
KERNEL(layer_norm_backward, LayerNormBackwardArguments, THREADS) {
    uint64_t row = uint64_t(blockIdx.x) * WARPS + threadIdx.x / 32;
    if (row >= a.rows) return;
    const float* x = a.x + row * a.cols;
    float* dx = a.dx + row * a.cols;
    float mean = a.mean[row], inv = a.inv_std[row], sum = 0, products = 0;
    bool wide = sixteen_bytes(a.cols, a.x, a.dout, a.dx, a.gain);
    auto slopes = [&](uint64_t c) {
        Four slope = load_four_of(a.dout, a.half, row * a.cols, c, a.cols, wide);
        if (a.gain) {
            Four gain = load_four(a.gain, c, a.cols, wide);
#pragma unroll
            for (unsigned i = 0; i < 4; i++) slope.at[i] *= gain.at[i];
        }
        return slope;
    };
    for (uint64_t c = first_four(); c < a.cols; c += ROW_STEP) {
        // After the end of the row dout is 0, and adds nothing.
        Four value = load_four(x, c, a.cols, wide), slope = slopes(c);
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            sum += slope.at[i];
            products = fmaf(slope.at[i], value.at[i] - mean, products);
        }
    }
    float level = warp_sum(sum) / float(a.cols);
    float along = inv * warp_sum(products) / float(a.cols);
    for (uint64_t c = first_four(); c < a.cols; c += ROW_STEP) {
        Four value = load_four(x, c, a.cols, wide), slope = slopes(c), result{};
        if (a.accumulate) result = load_four(dx, c, a.cols, wide);
#pragma unroll
        for (unsigned i = 0; i < 4; i++)
            result.at[i] += inv * (slope.at[i] - level - (value.at[i] - mean) * inv * along);
        store_four(dx, c, a.cols, wide, result);
    }
}

struct LayerNormWeightsArguments {
    const float *x, *mean, *inv_std;
    const void* dout;
    float* partial;
    uint64_t rows, cols, band;
    uint32_t half;
};

// dgain = Σ dout · x̂ and dbias = Σ dout over the rows, first half: a block sums
// `band` rows of 256 columns into `partial` [2, bands of rows, cols], whose
// halves reduce_rows_total adds up.
KERNEL(norm_weights, LayerNormWeightsArguments, THREADS) {
    uint64_t across = (a.cols + THREADS - 1) / THREADS, bands = (a.rows + a.band - 1) / a.band;
    uint64_t band = blockIdx.x / across, col = blockIdx.x % across * THREADS + threadIdx.x;
    if (col >= a.cols) return;
    uint64_t first = band * a.band, end = first + a.band < a.rows ? first + a.band : a.rows;
    float gain = 0, bias = 0;
    for (uint64_t row = first; row < end; row++) {
        uint64_t at = row * a.cols + col;
        float slope = number_at(a.dout, a.half, at);
        gain = fmaf(slope, (a.x[at] - a.mean[row]) * a.inv_std[row], gain);
        bias += slope;
    }
    a.partial[band * a.cols + col] = gain;
    a.partial[(bands + band) * a.cols + col] = bias;
}
