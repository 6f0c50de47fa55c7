// Row kernels: the tile interpreter of the CPU device, for a GPU. A block runs
// the prologue once and then the body for each of its tiles. Element registers
// [slot][element of the tile] and row registers [slot][row of the tile] lie in
// shared memory, or, where a program needs more, in scratch memory of the
// block.
//
// Element e of a tile always belongs to thread e mod THREADS, so only values
// per row need barriers: before one is written, since another thread may still
// read what the register held, and after.
#include "cuda.cuh"

// What an instruction does; the numbers are shared with the Rust side.
enum Code : uint32_t {
    LOAD, CONSTANT, SCALAR, SPREAD, COL_INDEX, BROADCAST, SELECT, REDUCE_SUM, REDUCE_MAXIMUM,
    NEGATE, ABSOLUTE, RECIPROCAL, SQUARE, SQUARE_ROOT, RECIPROCAL_SQUARE_ROOT, EXPONENTIAL, LOGARITHM,
    TANH, SIGMOID, RELU, STEP, SINE, COSINE, FLOOR,
    ADD, SUBTRACT, MULTIPLY, DIVIDE, MINIMUM, MAXIMUM, LESS_THAN, POWER,
    // a·b ± c·d, a·b ± c, c ± a·b, the sign of a, Σ a·b of a row.
    PRODUCTS_SUM, PRODUCTS_DIFFERENCE, PRODUCT_PLUS, PRODUCT_MINUS, PLUS_PRODUCT, MINUS_PRODUCT, SIGN, DOT,
    // An element of an input of bfloat16.
    WIDEN,
};
enum SourceKind : uint32_t { NOTHING, ELEMENT_REGISTER, ROW_REGISTER, ELEMENT_INPUT, ROW_INPUT, COL_INPUT, UNIFORM, SCALAR_INPUT };

struct Instruction {
    uint32_t code;
    // 1: the result has a value per row.
    uint32_t dst_is_row;
    uint32_t dst;
    uint32_t source_kind[4];
    // The number of the register or input, or the bits of a uniform value.
    uint32_t source[4];
    // The constant's bits, or the number of the input.
    uint32_t operand;
};
// Elements, values per row, elements rounded to bfloat16.
enum StoreKind : uint32_t { ELEMENTS, ROWS, HALVES };
struct RowStore {
    void* dst;
    uint32_t kind;
    uint32_t slot;
};
struct RowMapArguments {
    const Instruction* instructions;
    const float* const* inputs;
    const RowStore* stores;
    // Element registers of all blocks; null: in shared memory.
    float* scratch;
    uint64_t rows, cols, tile_rows, tile_cols;
    uint32_t prologue, body, store_count, element_registers, row_registers;
};
struct RowMapShared {
    // Row registers, then element registers.
    float words[1];
};

struct RowTile {
    uint64_t row, rows, col, cols, start;
};

struct Registers {
    float* elements;
    float* rows;
    uint64_t tile_elements, tile_rows;
};

// What an operand of element e is: its own, that of its row, or the same
// everywhere.
struct Values {
    const float* base;
    bool by_row, uniform;
    __device__ __forceinline__ float at(uint64_t e, uint64_t cols) const {
        return base[uniform ? 0 : by_row ? e / cols : e];
    }
};

__device__ __forceinline__ Values source(const Instruction& instruction, unsigned i, const RowMapArguments& a,
                                               const Registers& r, const RowTile& tile) {
    uint32_t at = instruction.source[i];
    switch (instruction.source_kind[i]) {
        case ELEMENT_REGISTER: return {r.elements + at * r.tile_elements, false, false};
        case ROW_REGISTER: return {r.rows + at * r.tile_rows, !instruction.dst_is_row, false};
        case ELEMENT_INPUT: return {a.inputs[at] + tile.start, false, false};
        case ROW_INPUT: return {a.inputs[at] + tile.row, !instruction.dst_is_row, false};
        case COL_INPUT: return {a.inputs[at] + tile.col, false, false};
        case UNIFORM: return {reinterpret_cast<const float*>(&instruction.source[i]), false, true};
        case SCALAR_INPUT: return {a.inputs[at], false, true};
        default: return {nullptr, false, false};
    }
}

__device__ __forceinline__ float unary(uint32_t code, float x) {
    switch (code) {
        case NEGATE: return -x;
        case ABSOLUTE: return fabsf(x);
        case RECIPROCAL: return 1.0f / x;
        case SQUARE: return x * x;
        case SQUARE_ROOT: return sqrtf(x);
        case RECIPROCAL_SQUARE_ROOT: return 1.0f / sqrtf(x);
        case EXPONENTIAL: return expf(x);
        case LOGARITHM: return logf(x);
        case TANH: return tanhf(x);
        case SIGMOID: return 1.0f / (1.0f + expf(-x));
        case RELU: return x <= 0.0f ? 0.0f : x;
        case STEP: return x > 0.0f ? 1.0f : 0.0f;
        case SINE: return sinf(x);
        case COSINE: return cosf(x);
        case FLOOR: return floorf(x);
        default: return x;
    }
}
__device__ __forceinline__ float binary(uint32_t code, float x, float y) {
    switch (code) {
        case ADD: return x + y;
        case SUBTRACT: return x - y;
        case MULTIPLY: return x * y;
        case DIVIDE: return x / y;
        case MINIMUM: return smaller(x, y);
        case MAXIMUM: return larger(x, y);
        case LESS_THAN: return x < y ? 1.0f : 0.0f;
        default: return powf(x, y);
    }
}
__device__ __forceinline__ float fused(uint32_t code, float a, float b, float c, float d) {
    switch (code) {
        case PRODUCTS_SUM: return a * b + c * d;
        case PRODUCTS_DIFFERENCE: return a * b - c * d;
        case PRODUCT_PLUS: return a * b + c;
        case PRODUCT_MINUS: return a * b - c;
        case PLUS_PRODUCT: return c + a * b;
        default: return c - a * b;
    }
}

__device__ __forceinline__ void reduce_tile(uint32_t code, float* dst, const float* x, const float* y,
                                            const RowTile& tile) {
    for (uint64_t row = threadIdx.x / 32; row < tile.rows; row += WARPS) {
        const float *line = x + row * tile.cols, *other = y + row * tile.cols;
        float value = code == REDUCE_MAXIMUM ? -infinity() : 0.0f;
        for (uint64_t c = threadIdx.x % 32; c < tile.cols; c += 32)
            value = code == REDUCE_MAXIMUM ? larger(value, line[c])
                    : code == REDUCE_SUM   ? value + line[c]
                                           : fmaf(line[c], other[c], value);
        value = code == REDUCE_MAXIMUM ? warp_maximum(value) : warp_sum(value);
        if (threadIdx.x % 32 == 0) dst[row] = value;
    }
}

__device__ __forceinline__ void execute(const Instruction* list, uint32_t count, const RowMapArguments& a,
                                        const Registers& r, const RowTile& tile) {
    for (uint32_t i = 0; i < count; i++) {
        const Instruction& it = list[i];
        Values x = source(it, 0, a, r, tile), y = source(it, 1, a, r, tile);
        Values z = source(it, 2, a, r, tile), w = source(it, 3, a, r, tile);
        float* dst = it.dst_is_row ? r.rows + it.dst * r.tile_rows : r.elements + it.dst * r.tile_elements;
        uint64_t length = it.dst_is_row ? tile.rows : tile.rows * tile.cols;
        if (it.code == REDUCE_SUM || it.code == REDUCE_MAXIMUM || it.code == DOT) {
            __syncthreads();  // Elements of other threads.
            reduce_tile(it.code, dst, x.base, it.code == DOT ? y.base : x.base, tile);
            __syncthreads();
            continue;
        }
        if (it.dst_is_row) __syncthreads();
        for (uint64_t e = threadIdx.x; e < length; e += THREADS) {
            float value;
            switch (it.code) {
                case LOAD:
                case BROADCAST: value = x.at(e, tile.cols); break;
                case WIDEN:
                    value = of_bfloat16(reinterpret_cast<const uint16_t*>(a.inputs[it.operand])[tile.start + e]);
                    break;
                case CONSTANT: value = __uint_as_float(it.operand); break;
                case SCALAR: value = a.inputs[it.operand][0]; break;
                case SPREAD: value = a.inputs[it.operand][e % tile.cols]; break;
                case COL_INDEX: value = float(tile.col + e % tile.cols); break;
                case SELECT: value = x.at(e, tile.cols) > 0.0f ? y.at(e, tile.cols) : z.at(e, tile.cols); break;
                case SIGN: value = float(x.at(e, tile.cols) > 0.0f) - float(x.at(e, tile.cols) < 0.0f); break;
                default: {
                    float first = x.at(e, tile.cols);
                    if (it.code < ADD) {
                        value = unary(it.code, first);
                        break;
                    }
                    float second = y.at(e, tile.cols);
                    if (it.code <= POWER) {
                        value = binary(it.code, first, second);
                        break;
                    }
                    float fourth = it.code <= PRODUCTS_DIFFERENCE ? w.at(e, tile.cols) : 0.0f;
                    value = fused(it.code, first, second, z.at(e, tile.cols), fourth);
                }
            }
            dst[e] = value;
        }
        if (it.dst_is_row) __syncthreads();
    }
}

KERNEL(row_map, RowMapArguments, THREADS) {
    SHARED(RowMapShared, s);
    uint64_t tile_elements = a.tile_rows * a.tile_cols;
    float* elements = a.scratch ? a.scratch + blockIdx.x * a.element_registers * tile_elements
                                : s.words + a.row_registers * a.tile_rows;
    Registers r{elements, s.words, tile_elements, a.tile_rows};
    execute(a.instructions, a.prologue, a, r, {0, a.tile_rows, 0, a.tile_cols, 0});
    uint64_t across = (a.cols + a.tile_cols - 1) / a.tile_cols;
    uint64_t down = (a.rows + a.tile_rows - 1) / a.tile_rows;
    for (uint64_t index = blockIdx.x; index < across * down; index += gridDim.x) {
        uint64_t row = index / across * a.tile_rows, col = index % across * a.tile_cols;
        RowTile tile{row, a.rows - row < a.tile_rows ? a.rows - row : a.tile_rows, col,
                     a.cols - col < a.tile_cols ? a.cols - col : a.tile_cols, row * a.cols + col};
        __syncthreads();  // The last tile's row registers have been read.
        execute(a.instructions + a.prologue, a.body, a, r, tile);
        __syncthreads();  // All reads of a tile come before its stores.
        for (uint32_t i = 0; i < a.store_count; i++) {
            const RowStore& store = a.stores[i];
            if (store.kind != ROWS) {
                const float* from = r.elements + store.slot * r.tile_elements;
                float* dst = static_cast<float*>(store.dst) + tile.start;
                uint16_t* halves = static_cast<uint16_t*>(store.dst) + tile.start;
                for (uint64_t e = threadIdx.x; e < tile.rows * tile.cols; e += THREADS) {
                    if (store.kind == HALVES) halves[e] = uint16_t(to_bfloat16(from[e]));
                    else dst[e] = from[e];
                }
            } else if (tile.col == 0) {
                const float* from = r.rows + store.slot * r.tile_rows;
                float* dst = static_cast<float*>(store.dst) + tile.row;
                for (uint64_t e = threadIdx.x; e < tile.rows; e += THREADS) dst[e] = from[e];
            }
        }
    }
}
