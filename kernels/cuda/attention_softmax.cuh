// The running softmax of attention, forward, over fragments of scores: z [16, 8N]
// of a warp, `z[j]` being the fragment of columns 8j...
#pragma once
#include "attention_tiles.cuh"

// What a row of scores has come to, twice: rows r and r + 8 of a fragment.
struct RunningSoftmax {
    // The largest score (in powers of two), and this lane's part of the sum.
    float most[2], total[2];
};

// Scores to exp(score − the largest so far); `factor` is what has been summed
// before must be multiplied by.
template <unsigned N>
__device__ __forceinline__ void exponentials(float (&z)[N][4], RunningSoftmax& so_far, float (&factor)[2]) {
#pragma unroll
    for (unsigned i = 0; i < 2; i++) {
        float most = so_far.most[i];
#pragma unroll
        for (unsigned j = 0; j < N; j++) most = fmaxf(most, fmaxf(z[j][2 * i], z[j][2 * i + 1]));
        most = quad_maximum(most);
        // Of a row of −∞ only, nothing may become NaN by −∞ − −∞.
        float shift = most == -infinity() ? 0.0f : most, sum = 0;
        factor[i] = exp2_fast(so_far.most[i] - shift);
#pragma unroll
        for (unsigned j = 0; j < N; j++) {
            z[j][2 * i] = exp2_fast(z[j][2 * i] - shift);
            z[j][2 * i + 1] = exp2_fast(z[j][2 * i + 1] - shift);
            sum += z[j][2 * i] + z[j][2 * i + 1];
        }
        so_far.total[i] = so_far.total[i] * factor[i] + sum;
        so_far.most[i] = most;
    }
}

// Scores times `scale`, −∞ outside of the window; the warp's first query lies
// `ahead` after the first key.
template <unsigned N>
__device__ __forceinline__ void mask(float (&z)[N][4], int ahead, unsigned window, float scale) {
    unsigned lane = threadIdx.x % 32;
    bool all = ahead >= int(8 * N - 1) && ahead + int(WARP_ROWS) <= int(window);
#pragma unroll
    for (unsigned j = 0; j < N; j++)
#pragma unroll
        for (unsigned e = 0; e < 4; e++) {
            int distance = ahead + int(lane / 4 + e / 2 * 8) - int(8 * j + lane % 4 * 2 + e % 2);
            z[j][e] = all || unsigned(distance) < window ? z[j][e] * scale : -infinity();
        }
}

template <unsigned D>
__device__ __forceinline__ void rescale(float (&sums)[D / 8][4], const float (&factor)[2]) {
#pragma unroll
    for (unsigned n = 0; n < D / 8; n++) {
        sums[n][0] *= factor[0], sums[n][1] *= factor[0];
        sums[n][2] *= factor[1], sums[n][3] *= factor[1];
    }
}

// Divides a warp's sums by their totals, and writes them and the log-sum-exps;
// they pass through rows row.. of `tile`.
template <unsigned D>
__device__ __forceinline__ void finish_rows(uint16_t* tile, unsigned row, const float (&sums)[D / 8][4],
                                            const RunningSoftmax& so_far, const OwnRows& own,
                                            const AttentionBf16Arguments& a) {
    unsigned lane = threadIdx.x % 32;
    float inverse[2];
#pragma unroll
    for (unsigned i = 0; i < 2; i++) {
        float total = quad_sum(so_far.total[i]);
        inverse[i] = 1.0f / total;
        uint64_t t = own.first + row + lane / 4 + 8 * i;
        if (lane % 4 == 0 && t < a.time)
            a.lse[(own.member * a.heads + own.head) * a.time + t] = so_far.most[i] * LN_2 + logf(total);
    }
    uint64_t stride = a.heads * a.dim;
    uint16_t* head = a.out + own.member * a.time * stride + own.head * a.dim;
    store_rows<D>(tile, row, sums, inverse, head, own.first, stride, a);
}
