// Rotary embedding (Su et al., 2021) of x [B,T,H,D], pairs (i, i + D/2); the
// cosines and sines [2, T, D/2] are made by the host in double precision.
#include "epilogue.cuh"

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

// Heads of `dim` side by side from column `col` on, in rows of `cols`; out is
// bfloat16 if `half_out`.
struct RopeNormArguments {
    const float* x;
    void* out;
    float* inv_rms;
    const float* angles;
    uint64_t positions, time, heads, dim, cols, col;
    float eps;
    uint32_t half_out;
};

// out [positions,H,D] = rms_norm(rope(x)): one warp a head. A rotation keeps
// lengths, so the norm is that of what is read.
KERNEL(rope_norm, RopeNormArguments, THREADS) {
    uint64_t head = uint64_t(blockIdx.x) * WARPS + threadIdx.x / 32, half = a.dim / 2;
    if (head >= a.positions * a.heads) return;
    uint64_t position = head / a.heads, t = position % a.time;
    const float* x = a.x + position * a.cols + a.col + head % a.heads * a.dim;
    float squares = 0;
    for (uint64_t i = threadIdx.x % 32; i < a.dim; i += 32) squares += x[i] * x[i];
    float inv = 1.0f / sqrtf(warp_sum(squares) / float(a.dim) + a.eps);
    for (uint64_t i = threadIdx.x % 32; i < half; i += 32) {
        float cosine = a.angles[t * half + i], sine = a.angles[(a.time + t) * half + i];
        uint64_t at = head * a.dim + i;
        put_number(a.out, a.half_out, at, inv * (x[i] * cosine - x[half + i] * sine));
        put_number(a.out, a.half_out, at + half, inv * (x[half + i] * cosine + x[i] * sine));
    }
    if (threadIdx.x % 32 == 0) a.inv_rms[head] = inv;
}

// out and dout are bfloat16 if `half_out`.
struct RopeNormBackwardArguments {
    const void* out;
    const float* inv_rms;
    const void* dout;
    float* dx;
    const float* angles;
    uint64_t positions, time, heads, dim, cols, col;
    uint32_t accumulate, half_out;
};

// With y = s·R·x, s = inv_rms: dx = s · Rᵀ(dy − y · mean(dy · y)).
KERNEL(rope_norm_backward, RopeNormBackwardArguments, THREADS) {
    uint64_t head = uint64_t(blockIdx.x) * WARPS + threadIdx.x / 32, half = a.dim / 2;
    if (head >= a.positions * a.heads) return;
    uint64_t position = head / a.heads, t = position % a.time;
    auto y = [&](uint64_t i) { return number_at(a.out, a.half_out, head * a.dim + i); };
    auto dy = [&](uint64_t i) { return number_at(a.dout, a.half_out, head * a.dim + i); };
    float* dx = a.dx + position * a.cols + a.col + head % a.heads * a.dim;
    float products = 0;
    for (uint64_t i = threadIdx.x % 32; i < a.dim; i += 32) products += dy(i) * y(i);
    float along = warp_sum(products) / float(a.dim), inv = a.inv_rms[head];
    for (uint64_t i = threadIdx.x % 32; i < half; i += 32) {
        float cosine = a.angles[t * half + i], sine = a.angles[(a.time + t) * half + i];
        float first = inv * (dy(i) - along * y(i)), second = inv * (dy(half + i) - along * y(half + i));
        float g0 = first * cosine + second * sine, g1 = second * cosine - first * sine;
        dx[i] = a.accumulate ? dx[i] + g0 : g0;
        dx[half + i] = a.accumulate ? dx[half + i] + g1 : g1;
    }
}
