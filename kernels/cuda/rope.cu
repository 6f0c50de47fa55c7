// Rotary embedding (Su et al., 2021) of x [B,T,H,D], pairs (i, i + D/2); the
// cosines and sines [2, T, D/2] are made by the host in double precision.
#include "cuda.cuh"

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
