// The end of a fused matrix product, in place, one element a thread:
// z = out + bias, out = act(z) + residual, z to `pre`; or out ·= act'(pre).
#include "epilogue.cuh"

struct EpilogueArguments {
    float* out;
    // Null where absent. `residual` is bfloat16 if `half_residual`; `pre`, if
    // `half_pre`, is written, or read by the gradient.
    const float* bias;
    const void* residual;
    void* pre;
    uint64_t count, cols;
    uint32_t half_residual, half_pre, activation, backward;
};

KERNEL(epilogue, EpilogueArguments, THREADS) {
    uint64_t i = uint64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= a.count) return;
    if (a.backward) {
        a.out[i] *= slope_of(a.activation, number_at(a.pre, a.half_pre, i));
        return;
    }
    float z = a.out[i] + (a.bias ? a.bias[i % a.cols] : 0.0f);
    if (a.pre) put_number(a.pre, a.half_pre, i, z);
    a.out[i] = activated(a.activation, z) + (a.residual ? number_at(a.residual, a.half_residual, i) : 0.0f);
}
