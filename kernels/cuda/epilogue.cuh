// The end of a fused matrix product: activations, and how one element is
// finished and stored, by whichever kernel made it.
#pragma once
#include "cuda.cuh"

enum Activation : uint32_t { IDENTITY, RELU_OF, RELU_SQUARED, GELU, SILU };

constexpr float GELU_SCALE = 0.7978846f;  // √(2/π)
constexpr float GELU_CUBIC = 0.044715f;

__device__ __forceinline__ float activated(uint32_t activation, float z) {
    float positive = z <= 0.0f ? 0.0f : z;  // NaN stays NaN.
    switch (activation) {
        case RELU_OF: return positive;
        case RELU_SQUARED: return positive * positive;
        case GELU: return 0.5f * z * (1.0f + tanhf(GELU_SCALE * fmaf(GELU_CUBIC * z * z, z, z)));
        case SILU: return z / (1.0f + expf(-z));
        default: return z;
    }
}
__device__ __forceinline__ float slope_of(uint32_t activation, float z) {
    switch (activation) {
        case RELU_OF: return z > 0.0f ? 1.0f : 0.0f;
        case RELU_SQUARED: return z <= 0.0f ? 0.0f : 2.0f * z;
        case GELU: {
            float t = tanhf(GELU_SCALE * fmaf(GELU_CUBIC * z * z, z, z));
            float inner = GELU_SCALE * fmaf(3.0f * GELU_CUBIC, z * z, 1.0f);
            return fmaf(0.5f * z * (1.0f - t * t), inner, 0.5f * (1.0f + t));
        }
        case SILU: {
            float s = 1.0f / (1.0f + expf(-z));
            return s * fmaf(z, 1.0f - s, 1.0f);
        }
        default: return 1.0f;
    }
}

// activated and slope_of of several numbers: the choice is made once.
template <unsigned N>
__device__ __forceinline__ void activate(uint32_t activation, float (&z)[N]) {
#define EACH(of)                                            \
    _Pragma("unroll") for (unsigned i = 0; i < N; i++) z[i] = activated(of, z[i]); \
    break
    switch (activation) {
        case RELU_OF: EACH(RELU_OF);
        case RELU_SQUARED: EACH(RELU_SQUARED);
        case GELU: EACH(GELU);
        case SILU: EACH(SILU);
        default: break;
    }
#undef EACH
}
// z *= the slope at `pre`.
template <unsigned N>
__device__ __forceinline__ void times_slope(uint32_t activation, float (&z)[N], const float (&pre)[N]) {
#define EACH(of)                                            \
    _Pragma("unroll") for (unsigned i = 0; i < N; i++) z[i] *= slope_of(of, pre[i]); \
    break
    switch (activation) {
        case RELU_OF: EACH(RELU_OF);
        case RELU_SQUARED: EACH(RELU_SQUARED);
        case GELU: EACH(GELU);
        case SILU: EACH(SILU);
        default: break;
    }
#undef EACH
}

// Element `i` of numbers that are bfloat16 if `half`.
__device__ __forceinline__ float number_at(const void* of, bool half, uint64_t i) {
    return half ? of_bfloat16(static_cast<const uint16_t*>(of)[i]) : static_cast<const float*>(of)[i];
}
__device__ __forceinline__ void put_number(void* to, bool half, uint64_t i, float value) {
    if (half) static_cast<uint16_t*>(to)[i] = uint16_t(to_bfloat16(value));
    else static_cast<float*>(to)[i] = value;
}

// What becomes of the sums of a product of bfloat16: with z = alpha · sum +
// bias, out (=|+=) act(z) + residual and z to `pre`, or, backward,
// out = alpha · sum · act'(pre). Null where absent; out is bfloat16 if `half`,
// residual if `half_residual`, pre if `half_pre`.
struct End {
    void* out;
    const float* bias;
    const void* residual;
    void* pre;
    uint64_t n;
    float alpha;
    uint32_t accumulate, half, half_residual, half_pre, activation, backward;
};

// Finishes element `i` of out, which is in column `col`.
__device__ __forceinline__ void finish(const End& e, uint64_t i, uint64_t col, float sum) {
    float z = e.alpha * sum;
    if (e.backward) {
        z *= slope_of(e.activation, number_at(e.pre, e.half_pre, i));
    } else {
        if (e.bias) z += e.bias[col];
        if (e.pre) put_number(e.pre, e.half_pre, i, z);
        z = activated(e.activation, z);
        if (e.residual) z += number_at(e.residual, e.half_residual, i);
    }
    if (e.accumulate) z += number_at(e.out, e.half, i);
    put_number(e.out, e.half, i, z);
}
