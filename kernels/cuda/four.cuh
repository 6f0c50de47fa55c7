// Four elements at a time: loads and stores of 16 bytes where the address and
// the length allow it, by element where not. Which thread has which elements,
// and so every sum, is the same either way.
#pragma once
#include "ptx.cuh"

struct Four {
    float at[4];
};

// Whether rows of `length` elements that begin at these addresses can be read
// 16 bytes at a time.
__device__ __forceinline__ bool sixteen_bytes(uint64_t length, const void* a, const void* b = nullptr,
                                              const void* c = nullptr, const void* d = nullptr) {
    uint64_t bits = reinterpret_cast<uint64_t>(a) | reinterpret_cast<uint64_t>(b) | reinterpret_cast<uint64_t>(c) |
                    reinterpret_cast<uint64_t>(d);
    return length % 4 == 0 && bits % 16 == 0;
}

// Elements c..c+4 of a row of `length`; those after its end are 0.
__device__ __forceinline__ Four load_four(const float* row, uint64_t c, uint64_t length, bool wide) {
    Four four{};
    if (wide) {
        float4 all = *reinterpret_cast<const float4*>(row + c);
        four.at[0] = all.x, four.at[1] = all.y, four.at[2] = all.z, four.at[3] = all.w;
    } else {
#pragma unroll
        for (unsigned i = 0; i < 4; i++) four.at[i] = c + i < length ? row[c + i] : 0.0f;
    }
    return four;
}
__device__ __forceinline__ void store_four(float* row, uint64_t c, uint64_t length, bool wide, const Four& four) {
    if (wide) {
        store_16(row + c, four.at[0], four.at[1], four.at[2], four.at[3]);
    } else {
#pragma unroll
        for (unsigned i = 0; i < 4; i++)
            if (c + i < length) row[c + i] = four.at[i];
    }
}

// As these, of elements start + c.. of `of`, which are bfloat16 if `half`: then
// 8 bytes at a time.
__device__ __forceinline__ Four load_four_of(const void* of, bool half, uint64_t start, uint64_t c, uint64_t length,
                                             bool wide) {
    if (!half) return load_four(static_cast<const float*>(of) + start, c, length, wide);
    const uint16_t* row = static_cast<const uint16_t*>(of) + start;
    Four four{};
    if (wide) {
        uint2 all = *reinterpret_cast<const uint2*>(row + c);
        four.at[0] = of_bfloat16(all.x & 0xffff), four.at[1] = of_bfloat16(all.x >> 16);
        four.at[2] = of_bfloat16(all.y & 0xffff), four.at[3] = of_bfloat16(all.y >> 16);
    } else {
#pragma unroll
        for (unsigned i = 0; i < 4; i++) four.at[i] = c + i < length ? of_bfloat16(row[c + i]) : 0.0f;
    }
    return four;
}
__device__ __forceinline__ void store_four_of(void* of, bool half, uint64_t start, uint64_t c, uint64_t length,
                                              bool wide, const Four& four) {
    if (!half) return store_four(static_cast<float*>(of) + start, c, length, wide, four);
    uint16_t* row = static_cast<uint16_t*>(of) + start;
    if (wide) {
        store_8(row + c, to_bfloat16(four.at[0]) | to_bfloat16(four.at[1]) << 16,
                to_bfloat16(four.at[2]) | to_bfloat16(four.at[3]) << 16);
    } else {
#pragma unroll
        for (unsigned i = 0; i < 4; i++)
            if (c + i < length) row[c + i] = uint16_t(to_bfloat16(four.at[i]));
    }
}
