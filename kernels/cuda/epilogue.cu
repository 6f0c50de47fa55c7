// The end of a fused matrix product, in place, one element a thread:
// z = out + bias, out = act(z) + residual, z to `pre`; or out ·= act'(pre).
#include "cuda.cuh"

struct EpilogueArguments {
    float* out;
    // Null where absent. `pre` is written, or read by the gradient.
    const float *bias, *residual;
    float* pre;
    uint64_t count, cols;
    uint32_t activation, backward;
};
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

KERNEL(epilogue, EpilogueArguments, THREADS) {
    uint64_t i = uint64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= a.count) return;
    if (a.backward) {
        a.out[i] *= slope_of(a.activation, a.pre[i]);
        return;
    }
    float z = a.out[i] + (a.bias ? a.bias[i % a.cols] : 0.0f);
    if (a.pre) a.pre[i] = z;
    a.out[i] = activated(a.activation, z) + (a.residual ? a.residual[i] : 0.0f);
}
