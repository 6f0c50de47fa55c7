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

// z = cap(logit) and cap′(logit).
struct Capped {
    float z, slope;
};
// tanh(y) = 1 − 2 / (1 + e^{2y}), whose absolute error of 2⁻²² is small beside
// that of a sum of products of bfloat16.
__device__ __forceinline__ Capped cap_fast(float softcap, float logit) {
    if (softcap == 0.0f) return {logit, 1.0f};
    float r = reciprocal_fast(1.0f + exp2_fast(2.0f * LOG2_E / softcap * logit));
    return {fmaf(-2.0f * softcap, r, softcap), 4.0f * r * (1.0f - r)};
}
// e^(z − shift)
__device__ __forceinline__ float exp_from(float z, float shift) {
    return exp2_fast(fmaf(z, LOG2_E, -shift * LOG2_E));
}

struct LossForward {
    const Loss& l;

    struct Before {
        uint64_t target[2];
    };

    template <unsigned ROWS, unsigned COLS>
    __device__ __forceinline__ void announce(const Work&, const Part&, unsigned, unsigned) const {}

    // `vocabulary` where there is none.
    __device__ __forceinline__ Before before(const Work& w, const Part&, uint64_t row, uint64_t) const {
        Before before;
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            uint64_t r = row + threadIdx.x % 32 / 4 + 8 * i;
            before.target[i] = r < w.m ? nearest_target(l.targets[r], w.n) : w.n;
        }
        return before;
    }

    __device__ __forceinline__ void operator()(Stage&, const Work& w, const Part&, uint64_t row, uint64_t col,
                                               const float (&d)[4][4], const Before& before) const {
        if (row >= w.m || col >= w.n) return;
        unsigned lane = threadIdx.x % 32, c = lane % 4 * 2;
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            uint64_t r = row + lane / 4 + 8 * i;
            float z[8], most = -infinity();
#pragma unroll
            for (unsigned e = 0; e < 8; e++) {
                uint64_t at = col + 8 * (e / 2) + c + e % 2;
                z[e] = cap_fast(l.softcap, d[e / 2][2 * i + e % 2]).z;
                if (at >= w.n) z[e] = -infinity();
                else if (at == before.target[i]) l.picked[r] = z[e];
                most = larger(most, z[e]);
            }
            most = larger(most, __shfl_xor_sync(ALL_LANES, most, 1));
            most = larger(most, __shfl_xor_sync(ALL_LANES, most, 2));
            // Of −∞ only, nothing may become NaN by −∞ − −∞.
            float shift = most == -infinity() ? 0.0f : most, sum = 0;
#pragma unroll
            for (unsigned e = 0; e < 8; e++) sum += exp_from(z[e], shift);
            sum += __shfl_xor_sync(ALL_LANES, sum, 1);
            sum += __shfl_xor_sync(ALL_LANES, sum, 2);
            if (lane % 4 == 0 && r < w.m)
                *reinterpret_cast<float2*>(l.partial + (r * ((w.n + 31) / 32) + col / 32) * 2) = {most, sum};
        }
    }
};

struct LossBackward {
    const Loss& l;

    struct Before {
        int index[2];
        float lse[2];
    };

    template <unsigned ROWS, unsigned COLS>
    __device__ __forceinline__ void announce(const Work&, const Part&, unsigned, unsigned) const {}

    __device__ __forceinline__ Before before(const Work& w, const Part&, uint64_t row, uint64_t) const {
        Before before{};
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            uint64_t r = row + threadIdx.x % 32 / 4 + 8 * i;
            if (r < w.m) before.index[i] = l.targets[r], before.lse[i] = l.lse[r];
        }
        return before;
    }

    __device__ __forceinline__ void operator()(Stage&, const Work& w, const Part&, uint64_t row, uint64_t col,
                                               const float (&d)[4][4], const Before& before) const {
        if (row >= w.m || col >= w.n) return;
        unsigned lane = threadIdx.x % 32, c = lane % 4 * 2;
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            uint64_t r = row + lane / 4 + 8 * i, left = r < w.m ? w.n - col : 0;
            int index = before.index[i];
            // The lane of the first column reports.
            if (left && index >= 0 && col + c == 0) clamp_index(index, uint32_t(w.n), l.faults, l.step);
            uint64_t target = nearest_target(index, w.n);
            float value[8];
#pragma unroll
            for (unsigned e = 0; e < 8; e++) {
                Capped it = cap_fast(l.softcap, d[e / 2][2 * i + e % 2]);
                float onehot = col + 8 * (e / 2) + c + e % 2 == target ? 1.0f : 0.0f;
                float gradient = l.grad_scale * (exp_from(it.z, before.lse[i]) - onehot) * it.slope;
                value[e] = index >= 0 ? gradient : 0.0f;
            }
            if (w.wide) {
                write_eight(l.gradient, true, r * w.n + col, left, value);
                continue;
            }
#pragma unroll
            for (unsigned e = 0; e < 8; e++) {
                unsigned at = 8 * (e / 2) + c + e % 2;
                if (at < left) l.gradient[r * w.n + col + at] = uint16_t(to_bfloat16(value[e]));
            }
        }
    }
};
