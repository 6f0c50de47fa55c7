// The ends of the product x · weightᵀ in a linear cross-entropy over bfloat16:
// what becomes of a warp's 16 × 32 logits while they are in its registers, so
// that logits are never in memory.
//
// z = cap(logit), cap(z) = softcap · tanh(z / softcap) (softcap 0: none);
// loss = lse(z) − z_target; a negative target is ignored. Forward: the largest
// z and Σ exp(z − it) of each row go to `partial`, the target's z to `picked`;
// cross_entropy_bf16.cu makes the loss of them. Backward:
// dlogit = grad_scale · (exp(z − lse) − onehot) · cap′(logit) goes to
// `gradient`, rounded to bfloat16, for the two products that follow.
#pragma once
#include "product.cuh"

struct Loss {
    const int* targets;
    const float* lse;
    // [rows, ⌈vocabulary / 32⌉, 2].
    float* partial;
    float* picked;
    // [rows, vocabulary], bfloat16.
    uint16_t* gradient;
    Faults* faults;
    uint32_t step;
    float softcap, grad_scale;
};

// The nearest that is an entry of the vocabulary; `vocabulary` if negative.
__device__ __forceinline__ uint64_t nearest_target(int target, uint64_t vocabulary) {
    if (target < 0) return vocabulary;
    return uint64_t(target) < vocabulary ? uint64_t(target) : vocabulary - 1;
}

struct LossForward {
    const Loss& l;

    __device__ __forceinline__ void operator()(Stage&, const Work& w, const Part&, uint64_t row, uint64_t col,
                                               const float (&d)[4][4]) const {
        if (row >= w.m || col >= w.n) return;
        unsigned lane = threadIdx.x % 32, c = lane % 4 * 2;
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            uint64_t r = row + lane / 4 + 8 * i;
            uint64_t target = r < w.m ? nearest_target(l.targets[r], w.n) : w.n;
            float z[8], most = -infinity();
#pragma unroll
            for (unsigned e = 0; e < 8; e++) {
                uint64_t at = col + 8 * (e / 2) + c + e % 2;
                float logit = d[e / 2][2 * i + e % 2];
                z[e] = l.softcap == 0.0f ? logit : l.softcap * tanhf(logit / l.softcap);
                if (at == target && at < w.n) l.picked[r] = z[e];
                if (at >= w.n) z[e] = -infinity();
                most = larger(most, z[e]);
            }
            most = larger(most, __shfl_xor_sync(ALL_LANES, most, 1));
            most = larger(most, __shfl_xor_sync(ALL_LANES, most, 2));
            // Of −∞ only, nothing may become NaN by −∞ − −∞.
            float shift = most == -infinity() ? 0.0f : most, sum = 0;
#pragma unroll
            for (unsigned e = 0; e < 8; e++) sum += expf(z[e] - shift);
            sum += __shfl_xor_sync(ALL_LANES, sum, 1);
            sum += __shfl_xor_sync(ALL_LANES, sum, 2);
            if (lane % 4 == 0 && r < w.m)
                *reinterpret_cast<float2*>(l.partial + (r * ((w.n + 31) / 32) + col / 32) * 2) = {most, sum};
        }
    }
};

struct LossBackward {
    const Loss& l;

    __device__ __forceinline__ void operator()(Stage& stage, const Work& w, const Part&, uint64_t row, uint64_t col,
                                               const float (&d)[4][4]) const {
        stage_fragment(stage, d);
        uint64_t c = col + threadIdx.x % 32;
        if (c >= w.n || row >= w.m) return;
        unsigned rows = w.m - row < 16 ? unsigned(w.m - row) : 16;
#pragma unroll 2
        for (unsigned r = 0; r < rows; r++) {
            int index = l.targets[row + r];
            float value = 0;
            if (index >= 0) {
                // The first column's lane reports.
                if (c == 0) clamp_index(index, uint32_t(w.n), l.faults, l.step);
                float logit = stage.at[r][threadIdx.x % 32];
                float t = l.softcap == 0.0f ? 0.0f : tanhf(logit / l.softcap);
                float z = l.softcap == 0.0f ? logit : l.softcap * t;
                float onehot = c == nearest_target(index, w.n) ? 1.0f : 0.0f;
                value = l.grad_scale * (expf(z - l.lse[row + r]) - onehot) * (1.0f - t * t);
            }
            l.gradient[(row + r) * w.n + c] = uint16_t(to_bfloat16(value));
        }
    }
};
