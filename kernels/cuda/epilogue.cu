// The end of a fused matrix product, in place, one element a thread:
// z = out + bias, out = act(z) + residual, z to `pre`; or out ·= act'(pre).
#include "epilogue.cuh"

struct EpilogueArguments {
    float* out;
    // Null where absent. `pre` is written, or read by the gradient.
    const float *bias, *residual;
    float* pre;
    uint64_t count, cols;
    uint32_t activation, backward;
};

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
