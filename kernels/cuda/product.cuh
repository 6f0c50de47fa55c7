// What both kernels for products of bfloat16 share: how work is divided, and
// how a warp brings its sums to memory.
//
// A product is cut into tiles of out and, where there are too few tiles to
// fill a card, along k into `splits` parts of `depth`; parts write their sums
// to `partial` [splits, batch, m, n] and `matmul_combine` adds them in order.
//
// A warp has its sums as mma.sync and wgmma leave them: of 16 rows × 32 columns
// lane 4g + t has, in rows g and g + 8, the pairs of columns 8j + 2t, j < 4.
// Where rows begin at multiples of 16 bytes (`wide`), it finishes them right
// there. Two words of float32 are 8 bytes a lane, a sector of 32 a row;
// numbers of bfloat16 change places among the four lanes of a row, by shuffles,
// so that each lane moves 16 bytes.
#pragma once
#include "epilogue.cuh"
#include "ptx.cuh"

struct Work {
    // Null where splits = 1.
    float* partial;
    End end;
    uint64_t batch, m, n, k, depth;
    uint32_t splits;
    // Whether n is a multiple of 8, every matrix of the end begins at a multiple
    // of 16 bytes, and the end reads one of them at most.
    uint32_t wide;
};

// A tile of out, and the range of k.
struct Part {
    uint64_t split, member, row, col, first, last;
};

// Tiles are walked in bands of 8 tiles of rows, so that the blocks that run at
// a time share what they read.
template <unsigned ROWS, unsigned COLS>
__device__ __forceinline__ Part part(const Work& w, uint64_t index) {
    constexpr uint64_t BAND = 8;
    uint64_t down = (w.m + ROWS - 1) / ROWS, across = (w.n + COLS - 1) / COLS;
    uint64_t tile = index % (down * across), outer = index / (down * across);
    uint64_t band = tile / (BAND * across), inside = tile % (BAND * across);
    uint64_t height = down - band * BAND < BAND ? down - band * BAND : BAND;
    uint64_t split = outer / w.batch, first = split * w.depth;
    return {split,
            outer % w.batch,
            (band * BAND + inside % height) * ROWS,
            inside / height * COLS,
            first,
            first + w.depth < w.k ? first + w.depth : w.k};
}
template <unsigned ROWS, unsigned COLS>
__device__ __forceinline__ uint64_t parts(const Work& w) {
    return (w.m + ROWS - 1) / ROWS * ((w.n + COLS - 1) / COLS) * w.batch * w.splits;
}

// Sums of 16 rows × 32 columns on their way from a warp's registers to memory;
// 8 words of padding keep the writes free of bank conflicts.
struct Stage {
    float at[16][40];
};

// Brings a warp's 16 × 32 sums there, `d[j]` being the fragment of columns
// 8j...
__device__ __forceinline__ void stage_fragment(Stage& stage, const float (&d)[4][4]) {
    unsigned lane = threadIdx.x % 32, g = lane / 4, t = lane % 4 * 2;
    __syncwarp();  // The last use of the stage is over.
#pragma unroll
    for (unsigned j = 0; j < 4; j++) {
        *reinterpret_cast<float2*>(&stage.at[g][8 * j + t]) = {d[j][0], d[j][1]};
        *reinterpret_cast<float2*>(&stage.at[g + 8][8 * j + t]) = {d[j][2], d[j][3]};
    }
    __syncwarp();
}

// Words of bfloat16 in a row of 32, among the four lanes that have it: from
// word j being columns 8j + 2t, as products leave them, to columns 8t + 2j, 16
// bytes in memory, and back.
__device__ __forceinline__ void turn(uint32_t (&words)[4]) {
    unsigned t = threadIdx.x % 4;
    // A 4 × 4 matrix is transposed by exchanging its off-diagonal quarters, and
    // those of its quarters.
#pragma unroll
    for (unsigned bit = 1; bit < 4; bit *= 2) {
        bool upper = t & bit;
#pragma unroll
        for (unsigned j = 0; j < 4; j++) {
            if (j & bit) continue;
            uint32_t there = __shfl_xor_sync(ALL_LANES, upper ? words[j] : words[j + bit], int(bit));
            if (upper) words[j] = there;
            else words[j + bit] = there;
        }
    }
}

// Eight numbers of a row of 32, those of a lane's sums, on their way from
// memory: four words are turned yet, or eight are float32.
struct Eight {
    uint32_t words[8];
};
// Numbers from element `at` on, of which `left` are there; 0 elsewhere.
__device__ __forceinline__ Eight read_eight(const void* of, bool half, uint64_t at, uint64_t left) {
    unsigned t = threadIdx.x % 4;
    Eight eight{};
    if (half) {
        if (8 * t < left) {
            uint4 all = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(of) + at + 8 * t);
            eight.words[0] = all.x, eight.words[1] = all.y, eight.words[2] = all.z, eight.words[3] = all.w;
        }
    } else {
#pragma unroll
        for (unsigned j = 0; j < 4; j++) {
            if (8 * j >= left) continue;
            uint2 two = *reinterpret_cast<const uint2*>(static_cast<const float*>(of) + at + 8 * j + 2 * t);
            eight.words[2 * j] = two.x, eight.words[2 * j + 1] = two.y;
        }
    }
    return eight;
}
__device__ __forceinline__ void numbers(const Eight& eight, bool half, float (&z)[8]) {
    if (half) {
        uint32_t words[4] = {eight.words[0], eight.words[1], eight.words[2], eight.words[3]};
        turn(words);
#pragma unroll
        for (unsigned j = 0; j < 4; j++) {
            z[2 * j] = of_bfloat16(words[j]);
            z[2 * j + 1] = __uint_as_float(words[j] & 0xffff0000u);
        }
    } else {
#pragma unroll
        for (unsigned i = 0; i < 8; i++) z[i] = __uint_as_float(eight.words[i]);
    }
}
__device__ __forceinline__ void write_eight(void* to, bool half, uint64_t at, uint64_t left, const float (&z)[8]) {
    unsigned t = threadIdx.x % 4;
    if (half) {
        uint32_t words[4];
#pragma unroll
        for (unsigned j = 0; j < 4; j++) words[j] = pack_bfloat16(z[2 * j], z[2 * j + 1]);
        turn(words);
        if (8 * t < left)
            *reinterpret_cast<uint4*>(static_cast<uint16_t*>(to) + at + 8 * t) = {words[0], words[1], words[2], words[3]};
    } else {
#pragma unroll
        for (unsigned j = 0; j < 4; j++)
            if (8 * j < left)
                *reinterpret_cast<float2*>(static_cast<float*>(to) + at + 8 * j + 2 * t) = {z[2 * j], z[2 * j + 1]};
    }
}

// The matrix that an end reads, if any, and whether it is bfloat16.
struct Side {
    const void* of;
    bool half;
};
__device__ __forceinline__ Side side_of(const End& e) {
    if (e.backward) return {e.pre, bool(e.half_pre)};
    if (e.residual) return {e.residual, bool(e.half_residual)};
    return {e.accumulate ? e.out : nullptr, bool(e.half)};
}

// A product's end does with a warp's 16 × 32 sums from (row, col) on what it
// has to; `before` is what it reads for that, asked for while the sums before
// are finished; `announce` brings it to L2 while a tile's sums are made.
//
// This one finishes and stores the sums, or stores them as a part.
struct StoreEnd {
    struct Before {
        Eight eight[2];
    };

    // For `threads` threads of a tile, of which this is number `thread`.
    template <unsigned ROWS, unsigned COLS>
    __device__ __forceinline__ void announce(const Work& w, const Part& p, unsigned thread, unsigned threads) const {
        constexpr unsigned LINE = 128;
        Side side = side_of(w.end);
        if (!side.of || w.partial) return;
        unsigned size = side.half ? 2 : 4, lines = COLS * size / LINE;
        for (unsigned i = thread; i < ROWS * lines; i += threads) {
            uint64_t row = p.row + i / lines, col = p.col + i % lines * LINE / size;
            if (row < w.m && col < w.n)
                prefetch_line(static_cast<const char*>(side.of) + ((p.member * w.m + row) * w.n + col) * size);
        }
    }

    __device__ __forceinline__ Before before(const Work& w, const Part& p, uint64_t row, uint64_t col) const {
        Before before{};
        Side side = side_of(w.end);
        if (!w.wide || !side.of || w.partial || col >= w.n) return before;
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            uint64_t r = row + threadIdx.x % 32 / 4 + 8 * i;
            if (r < w.m) before.eight[i] = read_eight(side.of, side.half, (p.member * w.m + r) * w.n + col, w.n - col);
        }
        return before;
    }

    __device__ __forceinline__ void operator()(Stage& stage, const Work& w, const Part& p, uint64_t row, uint64_t col,
                                               const float (&d)[4][4], const Before& before) const {
        if (row >= w.m || col >= w.n) return;
        if (w.wide) by_eight(w, p, row, col, d, before);
        else by_element(stage, w, p, row, col, d);
    }

  private:
    static __device__ __forceinline__ void by_eight(const Work& w, const Part& p, uint64_t row, uint64_t col,
                                                    const float (&d)[4][4], const Before& before) {
        const End& e = w.end;
        Side side = side_of(e);
        // Rolled, for the sake of the instruction cache.
#pragma unroll 1
        for (unsigned i = 0; i < 2; i++) {
            float z[8];
#pragma unroll
            for (unsigned n = 0; n < 8; n++) z[n] = i ? d[n / 2][2 + n % 2] : d[n / 2][n % 2];
            uint64_t r = row + threadIdx.x % 32 / 4 + 8 * i, at = (p.member * w.m + r) * w.n + col;
            uint64_t left = r < w.m ? w.n - col : 0;
            if (w.partial) {
                write_eight(w.partial + p.split * w.batch * w.m * w.n, false, at, left, z);
                continue;
            }
            float beside[8] = {};
            if (side.of) {
                Eight eight;
#pragma unroll
                for (unsigned n = 0; n < 8; n++)
                    eight.words[n] = i ? before.eight[1].words[n] : before.eight[0].words[n];
                numbers(eight, side.half, beside);
            }
#pragma unroll
            for (unsigned n = 0; n < 8; n++) z[n] *= e.alpha;
            if (e.backward) {
                times_slope(e.activation, z, beside);
            } else {
                if (e.bias) {
                    float bias[8];
                    numbers(read_eight(e.bias, false, col, left), false, bias);
#pragma unroll
                    for (unsigned n = 0; n < 8; n++) z[n] += bias[n];
                }
                if (e.pre) write_eight(e.pre, e.half_pre, at, left, z);
                activate(e.activation, z);
                if (side.of) {
#pragma unroll
                    for (unsigned n = 0; n < 8; n++) z[n] += beside[n];
                }
            }
            write_eight(e.out, e.half, at, left, z);
        }
    }

    static __device__ __forceinline__ void by_element(Stage& stage, const Work& w, const Part& p, uint64_t row,
                                                      uint64_t col, const float (&d)[4][4]) {
        stage_fragment(stage, d);
        unsigned lane = threadIdx.x % 32;
        uint64_t c = col + lane;
        if (c >= w.n) return;
        unsigned rows = w.m - row < 16 ? unsigned(w.m - row) : 16;
        uint64_t i = (p.member * w.m + row) * w.n + c;
        float* partial = w.partial ? w.partial + p.split * w.batch * w.m * w.n : nullptr;
#pragma unroll 1
        for (unsigned r = 0; r < rows; r++, i += w.n) {
            if (partial) partial[i] = stage.at[r][lane];
            else finish(w.end, i, c, stage.at[r][lane]);
        }
    }
};
