// Decoupled AdamW (Loshchilov and Hutter, 2019): one element a thread, 28
// bytes an element. `hyper` lies on the device, so that a captured step can
// change it: lr, beta1, beta2, eps, weight decay, 1 − beta1ᵗ, 1 − beta2ᵗ.
#include "cuda.cuh"

struct AdamWArguments {
    float* param;
    const float* grad;
    float *m, *v;
    const float* hyper;
    uint64_t count;
};
KERNEL(adamw, AdamWArguments, THREADS) {
    uint64_t i = uint64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= a.count) return;
    float lr = a.hyper[0], beta1 = a.hyper[1], beta2 = a.hyper[2], eps = a.hyper[3], decay = a.hyper[4];
    float g = a.grad[i];
    float m = fmaf(beta1, a.m[i], (1.0f - beta1) * g);
    float v = fmaf(beta2, a.v[i], (1.0f - beta2) * g * g);
    float direction = (m / a.hyper[5]) / (sqrtf(v / a.hyper[6]) + eps);
    a.m[i] = m;
    a.v[i] = v;
    a.param[i] -= lr * fmaf(decay, a.param[i], direction);
}
