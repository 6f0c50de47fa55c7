// Decoupled AdamW (Loshchilov and Hutter, 2019): four elements a thread,
// 28 bytes an element, 30 with its rounded copy. `hyper` lies on the device, so that a captured step can
// change it: lr, beta1, beta2, eps, weight decay, 1 − beta1ᵗ, 1 − beta2ᵗ.
#include "four.cuh"

struct AdamWArguments {
    float* param;
    const float* grad;
    float *m, *v;
    const float* hyper;
    // bfloat16; null where no one asked.
    uint16_t* rounded;
    uint64_t count;
};
KERNEL(adamw, AdamWArguments, THREADS) {
    uint64_t first = (uint64_t(blockIdx.x) * THREADS + threadIdx.x) * 4;
    if (first >= a.count) return;
    float lr = a.hyper[0], beta1 = a.hyper[1], beta2 = a.hyper[2], eps = a.hyper[3], decay = a.hyper[4];
    // The last four may be fewer.
    bool wide = sixteen_bytes(a.count - first < 4 ? 1 : 4, a.param, a.grad, a.m, a.v) && reinterpret_cast<uint64_t>(a.rounded) % 8 == 0;
    Four param = load_four(a.param, first, a.count, wide), grad = load_four(a.grad, first, a.count, wide);
    Four m = load_four(a.m, first, a.count, wide), v = load_four(a.v, first, a.count, wide);
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
        float g = grad.at[i];
        m.at[i] = fmaf(beta1, m.at[i], (1.0f - beta1) * g);
        v.at[i] = fmaf(beta2, v.at[i], (1.0f - beta2) * g * g);
        float direction = (m.at[i] / a.hyper[5]) / (sqrtf(v.at[i] / a.hyper[6]) + eps);
        param.at[i] -= lr * fmaf(decay, param.at[i], direction);
    }
    store_four(a.m, first, a.count, wide, m);
    store_four(a.v, first, a.count, wide, v);
    store_four(a.param, first, a.count, wide, param);
    if (a.rounded) store_four_of(a.rounded, true, 0, first, a.count, wide, param);
}
