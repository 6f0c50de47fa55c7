// The part of linear + cross-entropy that follows the product: a chunk of
// logits [rows, vocabulary] lies in scratch memory, one block a row.
//
// z = cap(logit), cap(z) = softcap · tanh(z / softcap) (softcap 0: none);
// loss = lse(z) − z_target; a negative target is ignored.
#include "four.cuh"

struct CrossEntropyArguments {
    float* logits;
    const int* targets;
    float* losses;
    float* lse;
    uint64_t vocabulary;
    Faults* faults;
    uint32_t step;
    float softcap, grad_scale;
};
struct CrossEntropyShared {
    float parts[WARPS];
};

__device__ __forceinline__ float capped(float logit, float softcap) {
    return softcap == 0.0f ? logit : softcap * tanhf(logit / softcap);
}

KERNEL(cross_entropy, CrossEntropyArguments, THREADS) {
    SHARED(CrossEntropyShared, s);
    const float* z = a.logits + uint64_t(blockIdx.x) * a.vocabulary;
    float most = -infinity();
    bool wide = sixteen_bytes(a.vocabulary, a.logits);
    for (uint64_t c = threadIdx.x * 4; c < a.vocabulary; c += THREADS * 4) {
        Four logits = load_four(z, c, a.vocabulary, wide);
#pragma unroll
        for (unsigned i = 0; i < 4; i++)
            if (c + i < a.vocabulary) most = larger(most, capped(logits.at[i], a.softcap));
    }
    most = block_maximum(most, s.parts);
    float sum = 0;
    // Of a row of −∞ only, nothing may become NaN by −∞ − −∞.
    float shift = most == -infinity() ? 0.0f : most;
    for (uint64_t c = threadIdx.x * 4; c < a.vocabulary; c += THREADS * 4) {
        Four logits = load_four(z, c, a.vocabulary, wide);
#pragma unroll
        for (unsigned i = 0; i < 4; i++)
            if (c + i < a.vocabulary) sum += expf(capped(logits.at[i], a.softcap) - shift);
    }
    sum = block_sum(sum, s.parts);
    if (threadIdx.x == 0) {
        float lse = shift + logf(sum);
        int target = a.targets[blockIdx.x];
        a.lse[blockIdx.x] = lse;
        a.losses[blockIdx.x] =
            target < 0 ? 0.0f
                       : lse - capped(z[clamp_index(target, uint32_t(a.vocabulary), a.faults, a.step)], a.softcap);
    }
}

// In place: dlogit = grad_scale · (softmax(z) − onehot) · cap′(logit).
KERNEL(cross_entropy_backward, CrossEntropyArguments, THREADS) {
    SHARED(CrossEntropyShared, s);
    (void)s;
    float* z = a.logits + uint64_t(blockIdx.x) * a.vocabulary;
    int index = a.targets[blockIdx.x];
    float lse = a.lse[blockIdx.x];
    // Each thread clamps for itself; the first reports.
    uint64_t target = a.vocabulary;
    if (index >= 0) {
        target = uint64_t(index) < a.vocabulary ? uint64_t(index) : a.vocabulary - 1;
        if (threadIdx.x == 0) clamp_index(index, uint32_t(a.vocabulary), a.faults, a.step);
    }
    bool wide = sixteen_bytes(a.vocabulary, a.logits);
    for (uint64_t c = threadIdx.x * 4; c < a.vocabulary; c += THREADS * 4) {
        Four gradient{};
        if (index >= 0) {
            Four logits = load_four(z, c, a.vocabulary, wide);
#pragma unroll
            for (unsigned i = 0; i < 4; i++) {
                float onehot = c + i == target ? 1.0f : 0.0f;
                float t = a.softcap == 0.0f ? 0.0f : tanhf(logits.at[i] / a.softcap);
                float value = a.softcap == 0.0f ? logits.at[i] : a.softcap * t;
                gradient.at[i] = a.grad_scale * (expf(value - lse) - onehot) * (1.0f - t * t);
            }
        }
        store_four(z, c, a.vocabulary, wide, gradient);
    }
}
