// Fill, random numbers, casts, column windows, transposes: one element a
// thread, or four random ones. Bound by memory.
#include "cuda.cuh"

struct FillArguments {
    uint32_t* dst;
    uint64_t count;
    uint32_t bits;
};
KERNEL(fill, FillArguments, THREADS) {
    uint64_t i = uint64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (i < a.count) a.dst[i] = a.bits;
}
// The same, of 2-byte elements.
KERNEL(fill_halves, FillArguments, THREADS) {
    uint64_t i = uint64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (i < a.count) reinterpret_cast<uint16_t*>(a.dst)[i] = uint16_t(a.bits);
}

// Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC'11, table 2): element i is
// made of word i mod 4 of counter (i / 4, stream).
struct RandomArguments {
    float* dst;
    // Null, or what is added to `stream`.
    const int* counter;
    uint64_t count, seed, stream;
    uint32_t normal;
    float scale;
};

__device__ __forceinline__ float uniform_of(uint32_t word) {
    return (float(word >> 9) + 0.5f) * (1.0f / 4194304.0f) - 1.0f;
}

// Box and Muller (1958), in double precision as on the CPU.
__device__ __forceinline__ void normals_of(uint32_t first, uint32_t second, float* out) {
    double u = (double(first) + 0.5) / 4294967296.0;
    double angle = 6.283185307179586 * (double(second) / 4294967296.0);
    double radius = sqrt(-2.0 * log(u));
    out[0] = float(radius * cos(angle));
    out[1] = float(radius * sin(angle));
}

KERNEL(random_numbers, RandomArguments, THREADS) {
    uint64_t quad = uint64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (quad * 4 >= a.count) return;
    uint64_t stream = a.stream + (a.counter ? uint64_t(int64_t(*a.counter)) : 0);
    uint32_t c0 = uint32_t(quad), c1 = uint32_t(quad >> 32), c2 = uint32_t(stream), c3 = uint32_t(stream >> 32);
    uint32_t k0 = uint32_t(a.seed), k1 = uint32_t(a.seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint32_t high0 = __umulhi(0xd2511f53u, c0), low0 = 0xd2511f53u * c0;
        uint32_t high1 = __umulhi(0xcd9e8d57u, c2), low1 = 0xcd9e8d57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    float values[4];
    if (a.normal) {
        normals_of(c0, c1, values);
        normals_of(c2, c3, values + 2);
    } else {
        values[0] = uniform_of(c0), values[1] = uniform_of(c1), values[2] = uniform_of(c2), values[3] = uniform_of(c3);
    }
    for (unsigned i = 0; i < 4 && quad * 4 + i < a.count; i++) a.dst[quad * 4 + i] = values[i] * a.scale;
}

// Element types are 0: float, 1: integer, 2: bfloat16. To an integer: towards
// zero, saturating, NaN to 0; to a number: the nearest, ties to even.
struct CopyArguments {
    const void* src;
    void* dst;
    uint64_t count;
    uint32_t from, to;
};

__device__ __forceinline__ int32_t to_integer(float x) {
    if (x != x) return 0;
    if (x >= 2147483648.0f) return 2147483647;
    if (x < -2147483648.0f) return -2147483647 - 1;
    return int32_t(x);
}

KERNEL(copy_cast, CopyArguments, THREADS) {
    uint64_t i = uint64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= a.count) return;
    uint32_t bits = a.from == 2 ? static_cast<const uint16_t*>(a.src)[i] : static_cast<const uint32_t*>(a.src)[i];
    if (a.from != a.to) {
        float value = a.from == 0 ? __uint_as_float(bits) : a.from == 1 ? float(int32_t(bits)) : of_bfloat16(bits);
        bits = a.to == 0 ? __float_as_uint(value) : a.to == 1 ? uint32_t(to_integer(value)) : to_bfloat16(value);
    }
    if (a.to == 2) static_cast<uint16_t*>(a.dst)[i] = uint16_t(bits);
    else static_cast<uint32_t*>(a.dst)[i] = bits;
}

// accumulate 0: overwrite; 1: add floats; 2: add integers, wrapping.
struct ColumnsArguments {
    const uint32_t* src;
    uint32_t* dst;
    uint64_t rows, src_cols, dst_cols, src_col, dst_col, width;
    uint32_t accumulate;
};
KERNEL(columns, ColumnsArguments, THREADS) {
    uint64_t i = uint64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= a.rows * a.width) return;
    uint64_t row = i / a.width, col = i % a.width;
    uint32_t bits = a.src[row * a.src_cols + a.src_col + col];
    uint32_t* dst = a.dst + row * a.dst_cols + a.dst_col + col;
    if (a.accumulate == 1) bits = __float_as_uint(__uint_as_float(*dst) + __uint_as_float(bits));
    if (a.accumulate == 2) bits += *dst;
    *dst = bits;
}

// The same, of bfloat16; accumulate 0: overwrite, else add and round.
KERNEL(columns_halves, ColumnsArguments, THREADS) {
    uint64_t i = uint64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= a.rows * a.width) return;
    uint64_t row = i / a.width, col = i % a.width;
    uint32_t bits = reinterpret_cast<const uint16_t*>(a.src)[row * a.src_cols + a.src_col + col];
    uint16_t* dst = reinterpret_cast<uint16_t*>(a.dst) + row * a.dst_cols + a.dst_col + col;
    *dst = uint16_t(a.accumulate ? to_bfloat16(of_bfloat16(*dst) + of_bfloat16(bits)) : bits);
}

// Tiles of 32 × 32 through shared memory, one word of padding in a row, so
// that both sides are read and written in whole lines.
struct TransposeArguments {
    const void* src;
    void* dst;
    uint64_t batch, rows, cols;
};
struct TransposeShared {
    uint32_t tile[32][33];
};
template <typename Element>
__device__ __forceinline__ void transposed(const TransposeArguments& a, TransposeShared& s) {
    uint64_t across = (a.cols + 31) / 32, down = (a.rows + 31) / 32;
    uint64_t member = blockIdx.x / (across * down), rest = blockIdx.x % (across * down);
    uint64_t row = rest / across * 32, col = rest % across * 32;
    const Element* src = static_cast<const Element*>(a.src) + member * a.rows * a.cols;
    Element* dst = static_cast<Element*>(a.dst) + member * a.rows * a.cols;
    unsigned x = threadIdx.x % 32;
    for (unsigned y = threadIdx.x / 32; y < 32; y += WARPS)
        if (row + y < a.rows && col + x < a.cols) s.tile[y][x] = src[(row + y) * a.cols + col + x];
    __syncthreads();
    for (unsigned y = threadIdx.x / 32; y < 32; y += WARPS)
        if (col + y < a.cols && row + x < a.rows) dst[(col + y) * a.rows + row + x] = Element(s.tile[x][y]);
}
KERNEL(transpose, TransposeArguments, THREADS) {
    SHARED(TransposeShared, s);
    transposed<uint32_t>(a, s);
}
KERNEL(transpose_halves, TransposeArguments, THREADS) {
    SHARED(TransposeShared, s);
    transposed<uint16_t>(a, s);
}
