// Causal attention in f32, forward and backward, with a window and grouped
// key heads: q, out [B,T,H,D]; k, v [B,T,K,D], K divides H; lse [B,H,T]. Rows
// of q, k and v, and with them those of dq, dk and dv, may lie further apart
// than their heads fill; rows of out and dout are dense.
//
// Forward: a block owns 64 queries of one head and walks over the blocks of
// 64 keys that they see, with a running maximum and sum (Milakov and
// Gimelshein 2018; Dao et al. 2022). Backward: one kernel with the forward's
// shape makes dq; another, a block for 64 keys of one key head, walks over the
// query heads and queries that see them and makes dk and dv. Nothing is summed
// by two blocks, so no atomics, and one order.
//
// 256 threads as 16 × 16: a thread owns 4 × 4 scores, and 4 rows × D / 16
// columns of what is accumulated. D is at most 16 · COLUMNS.
#include "cuda.cuh"

constexpr unsigned BLOCK = 64;
constexpr unsigned COLUMNS = 16;
constexpr unsigned MAX_DIM = 16 * COLUMNS;

struct AttentionArguments {
    const float *q, *k, *v;
    float *out, *lse;
    const float *dout;
    // delta [B,H,T]: dout · out of each query.
    float *delta, *dq, *dk, *dv;
    uint64_t batch, time, heads, kv_heads, dim, window;
    // Elements from one position to the next.
    uint64_t q_row, k_row, v_row;
    float scale;
};

// Row-major tiles of 64 × (dim + 1) in dynamic shared memory; the odd row
// length keeps columns free of bank conflicts.
struct Tile {
    float* base;
    unsigned stride;
    __device__ __forceinline__ float& at(unsigned row, unsigned col) const { return base[row * stride + col]; }
};

// Rows first..first+64 of a head, `row_stride` apart; rows after the end are 0.
__device__ __forceinline__ void load(const Tile& tile, const float* head, uint64_t first, uint64_t time,
                                     uint64_t row_stride, unsigned dim) {
    for (unsigned i = threadIdx.x; i < BLOCK * dim; i += THREADS) {
        uint64_t row = first + i / dim;
        tile.at(i / dim, i % dim) = row < time ? head[row * row_stride + i % dim] : 0.0f;
    }
}

// sums[i][j] = x_(4ty+i) · y_(4tx+j).
__device__ __forceinline__ void products(float (&sums)[4][4], const Tile& x, const Tile& y, unsigned dim) {
    unsigned ty = threadIdx.x / 16 * 4, tx = threadIdx.x % 16 * 4;
#pragma unroll
    for (unsigned i = 0; i < 4; i++)
#pragma unroll
        for (unsigned j = 0; j < 4; j++) sums[i][j] = 0;
    for (unsigned d = 0; d < dim; d++)
#pragma unroll
        for (unsigned i = 0; i < 4; i++)
#pragma unroll
            for (unsigned j = 0; j < 4; j++) sums[i][j] = fmaf(x.at(ty + i, d), y.at(tx + j, d), sums[i][j]);
}

// sums[i][c] += Σ_s weights_(4ty+i, s) · values_(s, tx + 16c); `transposed`
// takes weights_(s, 4ty+i).
template <bool transposed>
__device__ __forceinline__ void accumulate(float (&sums)[4][COLUMNS], const Tile& weights, const Tile& values,
                                           unsigned dim) {
    unsigned ty = threadIdx.x / 16 * 4, tx = threadIdx.x % 16;
    for (unsigned s = 0; s < BLOCK; s++) {
        float w[4];
#pragma unroll
        for (unsigned i = 0; i < 4; i++) w[i] = transposed ? weights.at(s, ty + i) : weights.at(ty + i, s);
#pragma unroll
        for (unsigned c = 0; c < COLUMNS; c++)
            if (tx + 16 * c < dim) {
                float v = values.at(s, tx + 16 * c);
#pragma unroll
                for (unsigned i = 0; i < 4; i++) sums[i][c] = fmaf(w[i], v, sums[i][c]);
            }
    }
}

__device__ __forceinline__ bool visible(uint64_t query, uint64_t key, const AttentionArguments& a) {
    return query < a.time && key <= query && query - key < a.window;
}

// First block of keys that a query of the block at `query` sees.
__device__ __forceinline__ uint64_t first_keys(uint64_t query, uint64_t window) {
    uint64_t first = query + 1 > window ? query + 1 - window : 0;
    return first / BLOCK * BLOCK;
}

// Over the 16 threads that share a row of scores.
__device__ __forceinline__ float row_sum(float value) {
    for (int mask = 8; mask > 0; mask >>= 1) value += __shfl_xor_sync(ALL_LANES, value, mask);
    return value;
}
__device__ __forceinline__ float row_maximum(float value) {
    for (int mask = 8; mask > 0; mask >>= 1) value = larger(value, __shfl_xor_sync(ALL_LANES, value, mask));
    return value;
}

// Which head, batch member and block of rows this block of threads has.
struct Place {
    uint64_t member, head, first;
};
__device__ __forceinline__ Place place(uint64_t heads, uint64_t time) {
    uint64_t blocks = (time + BLOCK - 1) / BLOCK;
    // The longest rows first: they have most to do.
    return {blockIdx.x / blocks / heads, blockIdx.x / blocks % heads,
            (blocks - 1 - blockIdx.x % blocks) * BLOCK};
}

struct AttentionShared {
    // q, k, v of 64 × (dim + 1), then scores of 64 × 65.
    float words[1];
};
__device__ __forceinline__ Tile tile(AttentionShared& s, unsigned index, unsigned dim) {
    return {s.words + index * BLOCK * (dim + 1), dim + 1};
}
__device__ __forceinline__ Tile scores_after(AttentionShared& s, unsigned tiles, unsigned dim) {
    return {s.words + tiles * BLOCK * (dim + 1), BLOCK + 1};
}

KERNEL(attention, AttentionArguments, THREADS) {
    SHARED(AttentionShared, s);
    unsigned dim = unsigned(a.dim);
    Tile q = tile(s, 0, dim), k = tile(s, 1, dim), v = tile(s, 2, dim), p = scores_after(s, 3, dim);
    Place at = place(a.heads, a.time);
    uint64_t kv_head = at.head / (a.heads / a.kv_heads);
    const float* q_head = a.q + at.member * a.time * a.q_row + at.head * dim;
    const float* k_head = a.k + at.member * a.time * a.k_row + kv_head * dim;
    const float* v_head = a.v + at.member * a.time * a.v_row + kv_head * dim;
    unsigned ty = threadIdx.x / 16 * 4, tx = threadIdx.x % 16;
    float sums[4][COLUMNS] = {}, most[4], total[4];
    for (unsigned i = 0; i < 4; i++) most[i] = -infinity(), total[i] = 0;
    load(q, q_head, at.first, a.time, a.q_row, dim);
    for (uint64_t key = first_keys(at.first, a.window); key <= at.first; key += BLOCK) {
        __syncthreads();  // The last k, v and p have been read.
        load(k, k_head, key, a.time, a.k_row, dim);
        load(v, v_head, key, a.time, a.v_row, dim);
        __syncthreads();
        float z[4][4];
        products(z, q, k, dim);
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            float highest = -infinity();
#pragma unroll
            for (unsigned j = 0; j < 4; j++) {
                z[i][j] = visible(at.first + ty + i, key + tx * 4 + j, a) ? z[i][j] * a.scale : -infinity();
                highest = larger(highest, z[i][j]);
            }
            highest = larger(most[i], row_maximum(highest));
            float shift = highest == -infinity() ? 0.0f : highest;
            float factor = expf(most[i] - shift), sum = 0;
#pragma unroll
            for (unsigned j = 0; j < 4; j++) {
                float e = expf(z[i][j] - shift);
                p.at(ty + i, tx * 4 + j) = e;
                sum += e;
            }
            total[i] = total[i] * factor + row_sum(sum);
            most[i] = highest;
#pragma unroll
            for (unsigned c = 0; c < COLUMNS; c++) sums[i][c] *= factor;
        }
        __syncthreads();
        accumulate<false>(sums, p, v, dim);
    }
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
        uint64_t t = at.first + ty + i;
        if (t >= a.time) continue;
        float* out = a.out + ((at.member * a.time + t) * a.heads + at.head) * dim;
#pragma unroll
        for (unsigned c = 0; c < COLUMNS; c++)
            if (tx + 16 * c < dim) out[tx + 16 * c] = sums[i][c] / total[i];
        if (tx == 0) a.lse[(at.member * a.heads + at.head) * a.time + t] = most[i] + logf(total[i]);
    }
}

// delta = dout · out: a warp a query and head.
KERNEL(attention_delta, AttentionArguments, THREADS) {
    uint64_t row = uint64_t(blockIdx.x) * WARPS + threadIdx.x / 32;
    if (row >= a.batch * a.time * a.heads) return;
    float sum = 0;
    for (uint64_t d = threadIdx.x % 32; d < a.dim; d += 32) sum += a.dout[row * a.dim + d] * a.out[row * a.dim + d];
    sum = warp_sum(sum);
    uint64_t head = row % a.heads, t = row / a.heads % a.time, member = row / a.heads / a.time;
    if (threadIdx.x % 32 == 0) a.delta[(member * a.heads + head) * a.time + t] = sum;
}

// p and ds of a block of queries and keys, from q, k, dout, v tiles:
// p = exp(scale · q·k − lse), ds = p · (dout·v − delta) · scale.
__device__ __forceinline__ void gradients(const AttentionArguments& a, const Place& query, uint64_t key, const Tile& q,
                                          const Tile& k, const Tile& dout, const Tile& v, float (&p)[4][4],
                                          float (&ds)[4][4]) {
    unsigned ty = threadIdx.x / 16 * 4, tx = threadIdx.x % 16 * 4;
    products(p, q, k, unsigned(a.dim));
    products(ds, dout, v, unsigned(a.dim));
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
        uint64_t t = query.first + ty + i;
        uint64_t at = (query.member * a.heads + query.head) * a.time + (t < a.time ? t : 0);
        float lse = a.lse[at], delta = a.delta[at];
#pragma unroll
        for (unsigned j = 0; j < 4; j++) {
            p[i][j] = visible(t, key + tx + j, a) ? expf(p[i][j] * a.scale - lse) : 0.0f;
            ds[i][j] = visible(t, key + tx + j, a) ? p[i][j] * (ds[i][j] - delta) * a.scale : 0.0f;
        }
    }
}

__device__ __forceinline__ void keep(const Tile& tile, const float (&values)[4][4]) {
    unsigned ty = threadIdx.x / 16 * 4, tx = threadIdx.x % 16 * 4;
#pragma unroll
    for (unsigned i = 0; i < 4; i++)
#pragma unroll
        for (unsigned j = 0; j < 4; j++) tile.at(ty + i, tx + j) = values[i][j];
}

__device__ __forceinline__ void write(float* head, uint64_t first, uint64_t time, uint64_t row_stride, unsigned dim,
                                      const float (&sums)[4][COLUMNS]) {
    unsigned ty = threadIdx.x / 16 * 4, tx = threadIdx.x % 16;
#pragma unroll
    for (unsigned i = 0; i < 4; i++)
#pragma unroll
        for (unsigned c = 0; c < COLUMNS; c++)
            if (first + ty + i < time && tx + 16 * c < dim)
                head[(first + ty + i) * row_stride + tx + 16 * c] = sums[i][c];
}

// dq_t = Σ_s ds_ts k_s.
KERNEL(attention_backward_queries, AttentionArguments, THREADS) {
    SHARED(AttentionShared, s);
    unsigned dim = unsigned(a.dim);
    Tile q = tile(s, 0, dim), dout = tile(s, 1, dim), k = tile(s, 2, dim), v = tile(s, 3, dim);
    Tile ds_tile = scores_after(s, 4, dim);
    Place at = place(a.heads, a.time);
    uint64_t kv_head = at.head / (a.heads / a.kv_heads);
    uint64_t row = a.heads * dim, q_offset = at.member * a.time * a.q_row + at.head * dim;
    const float* k_head = a.k + at.member * a.time * a.k_row + kv_head * dim;
    const float* v_head = a.v + at.member * a.time * a.v_row + kv_head * dim;
    float sums[4][COLUMNS] = {};
    load(q, a.q + q_offset, at.first, a.time, a.q_row, dim);
    load(dout, a.dout + at.member * a.time * row + at.head * dim, at.first, a.time, row, dim);
    for (uint64_t key = first_keys(at.first, a.window); key <= at.first; key += BLOCK) {
        __syncthreads();
        load(k, k_head, key, a.time, a.k_row, dim);
        load(v, v_head, key, a.time, a.v_row, dim);
        __syncthreads();
        float p[4][4], ds[4][4];
        gradients(a, at, key, q, k, dout, v, p, ds);
        keep(ds_tile, ds);
        __syncthreads();
        accumulate<false>(sums, ds_tile, k, dim);
    }
    write(a.dq + q_offset, at.first, a.time, a.q_row, dim, sums);
}

// dv_s = Σ_t p_ts dout_t, dk_s = Σ_t ds_ts q_t, over the query heads that
// share the key head, one after the other.
KERNEL(attention_backward_keys, AttentionArguments, THREADS) {
    SHARED(AttentionShared, s);
    unsigned dim = unsigned(a.dim);
    Tile q = tile(s, 0, dim), dout = tile(s, 1, dim), k = tile(s, 2, dim), v = tile(s, 3, dim);
    Tile p_tile = scores_after(s, 4, dim);
    Tile ds_tile{p_tile.base + BLOCK * (BLOCK + 1), BLOCK + 1};
    Place at = place(a.kv_heads, a.time);
    uint64_t group = a.heads / a.kv_heads;
    uint64_t row = a.heads * dim;
    uint64_t k_offset = at.member * a.time * a.k_row + at.head * dim;
    uint64_t v_offset = at.member * a.time * a.v_row + at.head * dim;
    float sums_k[4][COLUMNS] = {}, sums_v[4][COLUMNS] = {};
    load(k, a.k + k_offset, at.first, a.time, a.k_row, dim);
    load(v, a.v + v_offset, at.first, a.time, a.v_row, dim);
    for (uint64_t head = at.head * group; head < (at.head + 1) * group; head++) {
        const float* q_head = a.q + at.member * a.time * a.q_row + head * dim;
        const float* dout_head = a.dout + at.member * a.time * row + head * dim;
        for (uint64_t query = at.first; query < a.time && query < at.first + BLOCK + a.window; query += BLOCK) {
            __syncthreads();
            load(q, q_head, query, a.time, a.q_row, dim);
            load(dout, dout_head, query, a.time, row, dim);
            __syncthreads();
            float p[4][4], ds[4][4];
            gradients(a, {at.member, head, query}, at.first, q, k, dout, v, p, ds);
            keep(p_tile, p);
            keep(ds_tile, ds);
            __syncthreads();
            accumulate<true>(sums_v, p_tile, dout, dim);
            accumulate<true>(sums_k, ds_tile, q, dim);
        }
    }
    write(a.dk + k_offset, at.first, a.time, a.k_row, dim, sums_k);
    write(a.dv + v_offset, at.first, a.time, a.v_row, dim, sums_v);
}
