// Rotary embedding (Su et al., 2021) of x [B,T,H,D], pairs (i, i + D/2); the
// cosines and sines [2, T, D/2] are made by the host in double precision.
#include "four.cuh"

struct RopeArguments {
    const float* x;
    float* out;
    const float* angles;
    uint64_t positions, time, heads, dim;
    uint32_t inverse;
};
KERNEL(rope, RopeArguments, THREADS) {
    uint64_t half = a.dim / 2;
    uint64_t i = uint64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= a.positions * a.heads * half) return;
    uint64_t pair = i % half, row = i / half, t = row / a.heads % a.time;
    float cosine = a.angles[t * half + pair];
    float sine = a.angles[(a.time + t) * half + pair];
    if (a.inverse) sine = -sine;
    float first = a.x[row * a.dim + pair], second = a.x[row * a.dim + half + pair];
    a.out[row * a.dim + pair] = first * cosine - second * sine;
    a.out[row * a.dim + half + pair] = second * cosine + first * sine;
}

// Half a warp takes a head: a lane four elements of its first half and the four
// that turn with them, and then the next ones.
constexpr unsigned HEAD_LANES = 16;
constexpr unsigned HEADS = THREADS / HEAD_LANES;
constexpr unsigned HEAD_STEP = HEAD_LANES * 4;

struct Pairs {
    Four first, second;
};

// Elements c..c+4 of both halves, of `half` elements each, of a head that
// begins at element `start` of `of`; bfloat16 if `narrow`.
__device__ __forceinline__ Pairs load_pairs(const void* of, bool narrow, uint64_t start, uint64_t half, uint64_t c,
                                            bool wide) {
    return {load_four_of(of, narrow, start, c, half, wide), load_four_of(of, narrow, start + half, c, half, wide)};
}
__device__ __forceinline__ void store_pairs(void* of, bool narrow, uint64_t start, uint64_t half, uint64_t c,
                                            bool wide, const Pairs& pairs) {
    store_four_of(of, narrow, start, c, half, wide, pairs.first);
    store_four_of(of, narrow, start + half, c, half, wide, pairs.second);
}

// `sum` + the products of all elements.
__device__ __forceinline__ float dot(const Pairs& a, const Pairs& b, float sum) {
#pragma unroll
    for (unsigned i = 0; i < 4; i++) sum = fmaf(a.first.at[i], b.first.at[i], sum);
#pragma unroll
    for (unsigned i = 0; i < 4; i++) sum = fmaf(a.second.at[i], b.second.at[i], sum);
    return sum;
}

// Over the lanes of a head, in a fixed order. All lanes of a warp must call it.
__device__ __forceinline__ float head_sum(float value) {
    for (int mask = HEAD_LANES / 2; mask > 0; mask >>= 1) value += __shfl_xor_sync(ALL_LANES, value, mask);
    return value;
}

// Heads of `dim` side by side from column `col` on, in rows of `cols`; x is
// bfloat16 if `half_x`, out if `half_out`.
struct RopeNormArguments {
    const void* x;
    void* out;
    float* inv_rms;
    const float* angles;
    uint64_t positions, time, heads, dim, cols, col;
    float eps;
    uint32_t half_x, half_out;
};

// out [positions,H,D] = rms_norm(rope(x)). A rotation keeps lengths, so the norm
// is that of what is read. What a lane reads first it keeps: all of a head of
// up to 128.
template <bool WIDE>
__device__ __forceinline__ void rope_norm_heads(const RopeNormArguments& a) {
    uint64_t head = uint64_t(blockIdx.x) * HEADS + threadIdx.x / HEAD_LANES, half = a.dim / 2;
    // One that there is not has no elements: the other half of its warp may
    // have some.
    uint64_t end = head < a.positions * a.heads ? half : 0, begin = threadIdx.x % HEAD_LANES * 4;
    uint64_t position = head / a.heads, start = position * a.cols + a.col + head % a.heads * a.dim;
    auto load = [&](uint64_t c) { return load_pairs(a.x, a.half_x, start, half, c, WIDE); };
    Pairs kept{};
    if (begin < end) kept = load(begin);
    float squares = dot(kept, kept, 0.0f);
    for (uint64_t c = begin + HEAD_STEP; c < end; c += HEAD_STEP) {
        Pairs x = load(c);
        squares = dot(x, x, squares);
    }
    float inv = 1.0f / sqrtf(head_sum(squares) / float(a.dim) + a.eps);
    const float *cosines = a.angles + position % a.time * half, *sines = cosines + a.time * half;
    for (uint64_t c = begin; c < end; c += HEAD_STEP) {
        Pairs x = c == begin ? kept : load(c), y;
        Four cosine = load_four(cosines, c, half, WIDE), sine = load_four(sines, c, half, WIDE);
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            y.first.at[i] = inv * (x.first.at[i] * cosine.at[i] - x.second.at[i] * sine.at[i]);
            y.second.at[i] = inv * (x.second.at[i] * cosine.at[i] + x.first.at[i] * sine.at[i]);
        }
        store_pairs(a.out, a.half_out, head * a.dim, half, c, WIDE, y);
    }
    if (end > 0 && begin == 0) a.inv_rms[head] = inv;
}
KERNEL(rope_norm, RopeNormArguments, THREADS, 4) {
    // Two bodies, lest the compiler join the stores of both.
    if (sixteen_bytes(a.dim / 2 | a.cols | a.col, a.x, a.out)) rope_norm_heads<true>(a);
    else rope_norm_heads<false>(a);
}

// out and dout are bfloat16 if `half_out`, dx if `half_dx`.
struct RopeNormBackwardArguments {
    const void* out;
    const float* inv_rms;
    const void* dout;
    void* dx;
    const float* angles;
    uint64_t positions, time, heads, dim, cols, col;
    uint32_t accumulate, half_out, half_dx;
};

// With y = s·R·x, s = inv_rms: dx = s · Rᵀ(dy − y · mean(dy · y)). The second
// time y and dy come from cache.
template <bool WIDE>
__device__ __forceinline__ void rope_norm_backward_heads(const RopeNormBackwardArguments& a) {
    uint64_t head = uint64_t(blockIdx.x) * HEADS + threadIdx.x / HEAD_LANES, half = a.dim / 2;
    uint64_t end = head < a.positions * a.heads ? half : 0, begin = threadIdx.x % HEAD_LANES * 4;
    uint64_t position = head / a.heads, start = position * a.cols + a.col + head % a.heads * a.dim;
    auto load = [&](const void* of, uint64_t c) {
        return load_pairs(of, a.half_out, head * a.dim, half, c, WIDE);
    };
    float products = 0;
    for (uint64_t c = begin; c < end; c += HEAD_STEP) products = dot(load(a.dout, c), load(a.out, c), products);
    float along = head_sum(products) / float(a.dim), inv = end > 0 ? a.inv_rms[head] : 0.0f;
    const float *cosines = a.angles + position % a.time * half, *sines = cosines + a.time * half;
    for (uint64_t c = begin; c < end; c += HEAD_STEP) {
        Pairs y = load(a.out, c), dy = load(a.dout, c), dx{};
        if (a.accumulate) dx = load_pairs(a.dx, a.half_dx, start, half, c, WIDE);
        Four cosine = load_four(cosines, c, half, WIDE), sine = load_four(sines, c, half, WIDE);
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            float first = inv * (dy.first.at[i] - along * y.first.at[i]);
            float second = inv * (dy.second.at[i] - along * y.second.at[i]);
            dx.first.at[i] += first * cosine.at[i] + second * sine.at[i];
            dx.second.at[i] += second * cosine.at[i] - first * sine.at[i];
        }
        store_pairs(a.dx, a.half_dx, start, half, c, WIDE, dx);
    }
}
KERNEL(rope_norm_backward, RopeNormBackwardArguments, THREADS, 3) {
    if (sixteen_bytes(a.dim / 2 | a.cols | a.col, a.out, a.dout, a.dx)) rope_norm_backward_heads<true>(a);
    else rope_norm_backward_heads<false>(a);
}
