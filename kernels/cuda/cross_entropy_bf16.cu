// The end of a linear cross-entropy over bfloat16: from what the product's tiles
// left of each row (loss.cuh) to its log-sum-exp and loss.
#include "loss.cuh"

struct LossTotalArguments {
    Loss loss;
    float *losses, *lse;
    uint64_t rows, vocabulary;
};

// A warp a row, in a fixed order.
KERNEL(linear_cross_entropy_total, LossTotalArguments, THREADS) {
    uint64_t row = uint64_t(blockIdx.x) * WARPS + threadIdx.x / 32, tiles = (a.vocabulary + 31) / 32;
    if (row >= a.rows) return;
    unsigned lane = threadIdx.x % 32;
    const float2* parts = reinterpret_cast<const float2*>(a.loss.partial) + row * tiles;
    float most = -infinity(), sum = 0;
    for (uint64_t tile = lane; tile < tiles; tile += 32) most = larger(most, parts[tile].x);
    most = warp_maximum(most);
    float shift = most == -infinity() ? 0.0f : most;
    for (uint64_t tile = lane; tile < tiles; tile += 32) sum += parts[tile].y * expf(parts[tile].x - shift);
    sum = warp_sum(sum);
    if (lane != 0) return;
    float lse = shift + logf(sum);
    int target = a.loss.targets[row];
    a.lse[row] = lse;
    if (target >= 0) clamp_index(target, uint32_t(a.vocabulary), a.loss.faults, a.loss.step);
    a.losses[row] = target < 0 ? 0.0f : lse - a.loss.picked[row];
}
