#include "ptx.h"

#include <deque>
#include <vector>

namespace {

struct Copy {
    void* dst;
    const void* src;
    unsigned bytes;
};
struct Product {
    float* d;
    unsigned cols;
    uint64_t a, b;
    bool accumulate, a_along, b_along;
    // Where the left operand is in registers: they, what was in them, and the
    // two rows of it that this thread's results need.
    const uint32_t* registers = nullptr;
    uint32_t were[4] = {};
    float rows[2][16] = {};
};

// What one thread has under way, in groups; the last one is not committed.
struct UnderWay {
    uint64_t cluster = 0;
    std::deque<std::vector<Copy>> copies;
    std::deque<std::vector<Product>> products;
    bool fenced = false;
};

UnderWay& mine() {
    static std::vector<UnderWay> all;
    if (all.size() <= sim::fiber()) all.resize(sim::fiber() + 1);
    UnderWay& it = all[sim::fiber()];
    if (it.cluster != sim::clusters_run()) it = UnderWay{sim::clusters_run(), {{}}, {{}}, false};
    return it;
}

void land(const Copy& copy) {
    std::memset(copy.dst, 0, 16);
    std::memcpy(copy.dst, copy.src, copy.bytes);
}

float widened(uint16_t bits) { return __uint_as_float(uint32_t(bits) << 16); }

// The swizzle of 128 bytes: pieces of 16 change places by the number of the
// row of 128, both read from the address.
uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

unsigned char* at_shared(uint32_t address, unsigned bytes) {
    if (address + bytes > sim::shared_bytes()) sim::fail("an address after the end of shared memory");
    return sim::shared(0) + address;
}

// Element (along, k) of an operand that a descriptor names.
float element(uint64_t descriptor, unsigned along, unsigned k, bool along_fastest) {
    uint32_t start = uint32_t(descriptor & 0x3fff) << 4, groups = uint32_t(descriptor >> 16 & 0x3fff) << 4,
             rows = uint32_t(descriptor >> 32 & 0x3fff) << 4;
    uint32_t address = along_fastest
                           ? start + along / 64 * groups + k / 8 * rows + k % 8 * 128 + along % 64 * 2
                           : start + along / 8 * rows + along % 8 * 128 + k * 2;
    uint16_t bits;
    std::memcpy(&bits, at_shared(swizzled(address), 2), 2);
    return widened(bits);
}

void land(const Product& p) {
    unsigned g = sim::thread() % 128 / 32 * 16 + sim::lane() / 4, t = sim::lane() % 4 * 2;
    float x[2][16];
    if (p.registers) {
        if (std::memcmp(p.registers, p.were, sizeof p.were) != 0)
            sim::fail("registers were changed while a warpgroup product read them");
        std::memcpy(x, p.rows, sizeof x);
    } else {
        for (unsigned k = 0; k < 16; k++)
            for (unsigned i = 0; i < 2; i++) x[i][k] = element(p.a, g + 8 * i, k, p.a_along);
    }
    for (unsigned i = 0; i < p.cols / 2; i++) {
        if (!p.accumulate) p.d[i] = 0;
    }
    for (unsigned j = 0; j < p.cols / 4; j++) {
        float y[16];
        unsigned col = j / 2 * 8 + t + j % 2;
        for (unsigned k = 0; k < 16; k++) y[k] = element(p.b, col, k, p.b_along);
        for (unsigned i = 0; i < 2; i++)
            for (unsigned k = 0; k < 16; k++) p.d[j / 2 * 4 + i * 2 + j % 2] += x[i][k] * y[k];
    }
}

template <typename T>
void land_until(std::deque<std::vector<T>>& groups, unsigned left) {
    // The last one is not committed and stays.
    while (groups.size() > left + 1) {
        for (const T& one : groups.front()) land(one);
        groups.pop_front();
    }
}

// An mbarrier's 64 bits.
struct Barrier {
    uint8_t magic, phase, expected, pending;
    int32_t bytes;
};
static_assert(sizeof(Barrier) == 8);
constexpr uint8_t BARRIER_MAGIC = 0xb5;

Barrier& known(uint64_t* barrier) {
    Barrier& it = *reinterpret_cast<Barrier*>(barrier);
    if (it.magic != BARRIER_MAGIC) sim::fail("a barrier that was not initialised");
    return it;
}
void advance(Barrier& b) {
    if (b.pending || b.bytes) return;
    b.phase ^= 1;
    b.pending = b.expected;
    sim::progress();
}

}  // namespace

uint32_t shared_address(const void* at) {
    return uint32_t(static_cast<const unsigned char*>(at) - sim::shared(0));
}

void multiply_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    struct Operands {
        uint32_t a[4], b[2];
    } own{{a[0], a[1], a[2], a[3]}, {b0, b1}};
    const Operands* all = sim::gather_lanes("mma.sync", own);
    unsigned g = sim::lane() / 4, t = sim::lane() % 4 * 2;
    auto half = [](uint32_t word, unsigned k) { return widened(uint16_t(word >> k % 2 * 16)); };
    for (unsigned k = 0; k < 16; k++) {
        unsigned from = k % 8 / 2, high = k / 8;
        float upper = half(all[g * 4 + from].a[high * 2], k), lower = half(all[g * 4 + from].a[high * 2 + 1], k);
        for (unsigned j = 0; j < 2; j++) {
            float y = half(all[(t + j) * 4 + from].b[high], k);
            d[j] += upper * y;
            d[2 + j] += lower * y;
        }
    }
}

uint32_t pack_bfloat16(float low, float high) {
    auto rounded = [](float x) {
        uint32_t bits = __float_as_uint(x);
        return x != x ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    };
    return rounded(low) | rounded(high) << 16;
}

void barrier_init(uint64_t* barrier, unsigned arrivals) {
    if (arrivals == 0 || arrivals > 255) sim::fail("a barrier for " + std::to_string(arrivals) + " arrivals");
    *reinterpret_cast<Barrier*>(barrier) = {BARRIER_MAGIC, 0, uint8_t(arrivals), uint8_t(arrivals), 0};
}
void barrier_arrive(uint64_t* barrier) {
    Barrier& b = known(barrier);
    if (b.pending == 0) sim::fail("more arrivals at a barrier than it was made for");
    b.pending--;
    advance(b);
}
void barrier_arrive_at(uint64_t* barrier, unsigned rank) {
    unsigned char* first = sim::shared_of(rank);
    if (!first) sim::fail("a barrier of a block that has ended");
    barrier_arrive(reinterpret_cast<uint64_t*>(first + shared_address(barrier)));
}
void barrier_arrive_expecting(uint64_t* barrier, unsigned bytes) {
    known(barrier).bytes += int32_t(bytes);
    barrier_arrive(barrier);
}
void barrier_wait(uint64_t* barrier, unsigned parity) {
    while (known(barrier).phase == parity) sim::yield("barrier_wait");
}
void warpgroup_fence() { mine().fenced = true; }

namespace sim {

void start_copy_16(void* dst, const void* src, unsigned bytes) {
    if (reinterpret_cast<uintptr_t>(dst) % 16 || reinterpret_cast<uintptr_t>(src) % 16 || bytes > 16)
        fail("an asynchronous copy that is not aligned to 16 bytes");
    at_shared(shared_address(dst), 16);
    Copy copy{dst, src, bytes};
    if (random() & 1) land(copy);
    else mine().copies.back().push_back(copy);
}
void commit_copies() { mine().copies.emplace_back(); }
void wait_copies(unsigned groups) { land_until(mine().copies, groups); }

void matrices(uint32_t (&r)[4], const void* row, bool transposed) {
    if (reinterpret_cast<uintptr_t>(row) % 16) fail("a row of ldmatrix that is not aligned to 16 bytes");
    struct Row {
        uint16_t at[8];
    } own;
    std::memcpy(&own, at_shared(shared_address(row), 16), 16);
    const Row* all = gather_lanes(transposed ? "ldmatrix.trans" : "ldmatrix", own);
    for (unsigned i = 0; i < 4; i++) {
        const Row* matrix = all + 8 * i;
        unsigned g = lane() / 4, t = lane() % 4 * 2;
        uint16_t low = transposed ? matrix[t].at[g] : matrix[g].at[t];
        uint16_t high = transposed ? matrix[t + 1].at[g] : matrix[g].at[t + 1];
        r[i] = low | uint32_t(high) << 16;
    }
}

void start_box(void* dst, const TensorMap& tensor_map, unsigned x, unsigned y, unsigned z, uint64_t* barrier,
               unsigned mask) {
    Map map;
    std::memcpy(&map, &tensor_map, sizeof(Map));
    if (map.magic != MAP_MAGIC) fail("a tensor map that was not encoded");
    uint32_t bytes = map.box[0] * map.box[1] * map.box[2] * 2, start = shared_address(dst);
    if (start % 128) fail("a box whose place in shared memory is not aligned to 128 bytes");
    at_shared(start, bytes);
    known(barrier);
    uint32_t barrier_at = shared_address(barrier);
    for (unsigned rank = 0; mask >> rank; rank++) {
        if (!(mask >> rank & 1)) continue;
        land_later([=] {
            unsigned char* first = shared_of(rank);
            if (!first) return report("a copy into the shared memory of a block that has ended");
            for (uint32_t i = 0; i < bytes / 2; i++) {
                uint64_t at[3] = {x + i % map.box[0], y + i / map.box[0] % map.box[1], z + i / map.box[0] / map.box[1]};
                bool inside = at[0] < map.sizes[0] && at[1] < map.sizes[1] && at[2] < map.sizes[2];
                uint16_t value = 0;
                if (inside)
                    std::memcpy(&value,
                                reinterpret_cast<const char*>(map.base) + at[0] * 2 + at[1] * map.strides[0] +
                                    at[2] * map.strides[1],
                                2);
                std::memcpy(first + swizzled(start + i * 2), &value, 2);
            }
            Barrier& b = *reinterpret_cast<Barrier*>(first + barrier_at);
            if (b.magic != BARRIER_MAGIC) return report("a copy told a barrier that was not initialised");
            b.bytes -= int32_t(bytes);
            advance(b);
        });
    }
}

namespace {
void start(const Product& product) {
    UnderWay& it = mine();
    if (!it.fenced) fail("a warpgroup product without a fence before it");
    // In order: at once only where nothing waits.
    if (it.products.size() == 1 && it.products[0].empty() && random() & 1) land(product);
    else it.products.back().push_back(product);
}
}  // namespace

void start_product(float* d, unsigned cols, uint64_t a, uint64_t b, bool accumulate, bool a_along, bool b_along) {
    if (a >> 62 != 1 || b >> 62 != 1) fail("a descriptor without the swizzle of 128 bytes");
    start(Product{d, cols, a, b, accumulate, a_along, b_along});
}
void start_product(float* d, unsigned cols, const uint32_t (&a)[4], uint64_t b, bool b_along) {
    if (b >> 62 != 1) fail("a descriptor without the swizzle of 128 bytes");
    struct Fragment {
        uint32_t at[4];
    } own{{a[0], a[1], a[2], a[3]}};
    const Fragment* all = gather_lanes("wgmma with registers", own);
    Product product{d, cols, 0, b, true, false, b_along};
    product.registers = a;
    for (unsigned k = 0; k < 16; k++)
        for (unsigned i = 0; i < 2; i++) {
            uint32_t word = all[lane() / 4 * 4 + k % 8 / 2].at[k / 8 * 2 + i];
            product.rows[i][k] = widened(uint16_t(word >> k % 2 * 16));
        }
    std::memcpy(product.were, own.at, sizeof product.were);
    start(product);
}
void commit_products() {
    exchange("wgmma.commit_group", "", 1);
    mine().fenced = false;
    mine().products.emplace_back();
}
void wait_products(unsigned groups) {
    land_until(mine().products, groups);
    // No lane goes on before its warp has read its operands.
    exchange("wgmma.wait_group", "", 1);
}

}  // namespace sim
