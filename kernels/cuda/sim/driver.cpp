// A CUDA driver library without a GPU: the part of the driver's interface that
// the backend uses, whose kernels run in the simulator. It is loaded in place
// of libcuda.so.1 by tests.
//
// Device memory is host memory with a poisoned start, so that reading what was
// never written is seen. Everything happens at once, in the order of the
// calls; TERRARIUM_SIM_SEED shuffles the simulated threads differently, and
// TERRARIUM_SIM_FAIL=NAME[:N] makes the Nth call of an entry point fail as a
// lost device does.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "ptx.h"
#include "text.h"

using Result = int;
constexpr Result OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201, INVALID_IMAGE = 200,
                 NOT_FOUND = 500, LAUNCH_FAILED = 719, NOT_SUPPORTED = 801, CAPTURE_UNSUPPORTED = 900,
                 CAPTURE_INVALIDATED = 901;
constexpr size_t CARD_BYTES = size_t(2) << 30;

namespace {

std::recursive_mutex lock;
std::map<uintptr_t, size_t> allocations;
size_t used = 0;
std::map<std::string, int> calls;
// Kernels that came as PTX, by the handle of their module and function.
std::map<void*, std::shared_ptr<sim::Text>> texts;
// What a stream that is captured was asked for, to be done at each replay; the
// bytes of arguments are the call's own.
struct Node {
    void* function;
    unsigned grid[3], block[3], shared;
    std::vector<unsigned char> arguments;
    // Of a fill: where, what, how much.
    uintptr_t dst = 0;
    unsigned char value = 0;
    size_t bytes = 0;
};
using Nodes = std::vector<Node>;
Nodes* captured = nullptr;
bool capture_is_broken = false;
// A failed launch poisons the context, as on a card.
Result sticky = OK;

Result enter(const char* name) {
    if (sticky != OK) return sticky;
    const char* plan = std::getenv("TERRARIUM_SIM_FAIL");
    if (plan) {
        std::string text = plan;
        size_t colon = text.find(':');
        int at = colon == std::string::npos ? 1 : std::atoi(text.c_str() + colon + 1);
        if (text.substr(0, colon) == name && ++calls[name] == at) return sticky = LAUNCH_FAILED;
    }
    return OK;
}

#define ENTER(name)                                  \
    std::lock_guard<std::recursive_mutex> guard(lock); \
    if (Result failed = enter(name)) return failed

// What must not happen to a stream that is captured ends the capture.
#define NOT_CAPTURED                      \
    if (captured) {                       \
        capture_is_broken = true;         \
        return CAPTURE_UNSUPPORTED;       \
    }

// TERRARIUM_SIM_CAPABILITY=80 makes the card an older one.
int capability() {
    const char* text = std::getenv("TERRARIUM_SIM_CAPABILITY");
    return text ? std::atoi(text) : 90;
}

uint64_t seed() {
    static uint64_t launches = 0;
    const char* text = std::getenv("TERRARIUM_SIM_SEED");
    return (text ? std::strtoull(text, nullptr, 10) : 1) * 0x9e3779b97f4a7c15ull + launches++;
}

}  // namespace

#define API extern "C" __attribute__((visibility("default")))

API Result cuInit(unsigned) { ENTER("cuInit"); return OK; }
API Result cuDriverGetVersion(int* version) { *version = 13000; return OK; }
API Result cuDeviceGetCount(int* count) { *count = 1; return OK; }
API Result cuDeviceGet(int* device, int ordinal) {
    if (ordinal != 0) return 101;
    *device = 0;
    return OK;
}
API Result cuDeviceGetName(char* name, int length, int) {
    std::snprintf(name, size_t(length), "Terrarium simulator");
    return OK;
}
API Result cuDeviceTotalMem_v2(size_t* bytes, int) { *bytes = CARD_BYTES; return OK; }
API Result cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
        case 16: *value = 4; break;            // Multiprocessors.
        case 75: *value = capability() / 10; break;  // Compute capability, major.
        case 76: *value = capability() % 10; break;  // … minor.
        case 97: *value = 227 << 10; break;    // Shared memory of a block, opt-in.
        default: *value = 0;
    }
    return OK;
}
API Result cuDevicePrimaryCtxRetain(void** context, int) { ENTER("cuDevicePrimaryCtxRetain"); *context = &allocations; return OK; }
API Result cuDevicePrimaryCtxRelease_v2(int) { return OK; }
API Result cuCtxSetCurrent(void*) { return OK; }
API Result cuCtxSynchronize() { ENTER("cuCtxSynchronize"); return OK; }
API Result cuStreamCreate(void** stream, unsigned) { ENTER("cuStreamCreate"); *stream = &used; return OK; }
API Result cuStreamDestroy_v2(void*) { return OK; }
API Result cuStreamSynchronize(void*) {
    ENTER("cuStreamSynchronize");
    NOT_CAPTURED
    return OK;
}

API Result cuMemAlloc_v2(uintptr_t* address, size_t bytes) {
    ENTER("cuMemAlloc");
    if (bytes == 0) return INVALID_VALUE;
    if (bytes > CARD_BYTES - used) return OUT_OF_MEMORY;
    void* memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (!memory) return OUT_OF_MEMORY;
    std::memset(memory, 0xff, bytes);
    used += bytes;
    *address = reinterpret_cast<uintptr_t>(memory);
    allocations[*address] = bytes;
    return OK;
}
API Result cuMemFree_v2(uintptr_t address) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    auto found = allocations.find(address);
    if (found == allocations.end()) return INVALID_VALUE;
    used -= found->second;
    allocations.erase(found);
    std::free(reinterpret_cast<void*>(address));
    return OK;
}

namespace {
bool inside(uintptr_t address, size_t bytes) {
    auto after = allocations.upper_bound(address);
    if (after == allocations.begin()) return false;
    auto home = std::prev(after);
    return address - home->first <= home->second && bytes <= home->second - (address - home->first);
}
}  // namespace

API Result cuMemcpyHtoDAsync_v2(uintptr_t dst, const void* src, size_t bytes, void*) {
    ENTER("cuMemcpyHtoDAsync");
    NOT_CAPTURED
    if (!inside(dst, bytes)) return INVALID_VALUE;
    std::memcpy(reinterpret_cast<void*>(dst), src, bytes);
    return OK;
}
API Result cuMemcpyDtoHAsync_v2(void* dst, uintptr_t src, size_t bytes, void*) {
    ENTER("cuMemcpyDtoHAsync");
    NOT_CAPTURED
    if (!inside(src, bytes)) return INVALID_VALUE;
    std::memcpy(dst, reinterpret_cast<void*>(src), bytes);
    return OK;
}
API Result cuMemsetD8Async(uintptr_t dst, unsigned char value, size_t bytes, void*) {
    ENTER("cuMemsetD8Async");
    if (!inside(dst, bytes)) return INVALID_VALUE;
    if (captured) {
        captured->push_back({nullptr, {}, {}, 0, {}, dst, value, bytes});
        return OK;
    }
    std::memset(reinterpret_cast<void*>(dst), value, bytes);
    return OK;
}

API Result cuModuleLoadData(void** module, const void* image) {
    ENTER("cuModuleLoadData");
    if (!image) return INVALID_IMAGE;
    if (std::strncmp(static_cast<const char*>(image), ".version", 8) == 0) {
        std::string why;
        std::shared_ptr<sim::Text> text = sim::parse(static_cast<const char*>(image), why);
        if (!text) {
            std::fprintf(stderr, "simulator: PTX: %s\n", why.c_str());
            // Not "invalid PTX", with which the backend would do without.
            return sticky = LAUNCH_FAILED;
        }
        *module = text.get();
        texts[text.get()] = text;
        return OK;
    }
    *module = &sticky;
    return OK;
}
API Result cuModuleUnload(void* module) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    texts.erase(module);
    return OK;
}
API Result cuModuleGetFunction(void** function, void* module, const char* name) {
    ENTER("cuModuleGetFunction");
    auto text = texts.find(module);
    if (text != texts.end()) {
        if (sim::name(*text->second) != name) return NOT_FOUND;
        *function = module;
        return OK;
    }
    const sim::Kernel* kernel = sim::find(name);
    if (!kernel) return NOT_FOUND;
    *function = const_cast<sim::Kernel*>(kernel);
    return OK;
}
// Only what the backend asks for: 16-bit elements, rank 3, swizzle of 128 bytes.
API Result cuTensorMapEncodeTiled(TensorMap* to, int type, unsigned rank, void* base, const uint64_t* sizes,
                                  const uint64_t* strides, const uint32_t* box, const uint32_t* steps, int interleave,
                                  int swizzle, int, int) {
    ENTER("cuTensorMapEncodeTiled");
    constexpr int BFLOAT16 = 9, SWIZZLE_128B = 3;
    if (type != BFLOAT16 || rank != 3 || interleave != 0 || swizzle != SWIZZLE_128B) return INVALID_VALUE;
    sim::Map map{};
    map.base = reinterpret_cast<uintptr_t>(base);
    map.magic = sim::MAP_MAGIC;
    if (map.base % 16 || box[0] * 2 > 128) return INVALID_VALUE;
    for (unsigned i = 0; i < 3; i++) {
        if (sizes[i] == 0 || sizes[i] > (uint64_t(1) << 32) || box[i] == 0 || box[i] > 256 || steps[i] != 1)
            return INVALID_VALUE;
        map.sizes[i] = sizes[i];
        map.box[i] = box[i];
    }
    for (unsigned i = 0; i < 2; i++) {
        if (strides[i] % 16) return INVALID_VALUE;
        map.strides[i] = strides[i];
    }
    uint64_t last = (sizes[2] - 1) * strides[1] + (sizes[1] - 1) * strides[0] + sizes[0] * 2;
    if (!inside(map.base, last)) return INVALID_VALUE;
    std::memcpy(to, &map, sizeof map);
    return OK;
}
API Result cuFuncSetAttribute(void*, int, int) { return OK; }
API Result cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                          unsigned shared, void*, void** parameters, void**) {
    ENTER("cuLaunchKernel");
    auto text = texts.find(function);
    if (captured) {
        size_t bytes = text != texts.end() ? sim::argument_bytes(*text->second)
                                           : static_cast<const sim::Kernel*>(function)->argument_bytes;
        const unsigned char* first = static_cast<const unsigned char*>(parameters[0]);
        captured->push_back({function, {gx, gy, gz}, {bx, by, bz}, shared, {first, first + bytes}, 0, 0, 0});
        return OK;
    }
    if (text != texts.end()) {
        std::string what = sim::run(*text->second, gx, bx, parameters[0], inside);
        if (what.empty()) return OK;
        std::fprintf(stderr, "simulator: a row kernel: %s\n", what.c_str());
        return sticky = LAUNCH_FAILED;
    }
    const sim::Kernel* kernel = static_cast<const sim::Kernel*>(function);
    std::string what = sim::launch(*kernel, {{gx, gy, gz}, {bx, by, bz}, shared, seed()}, parameters[0]);
    if (what.empty()) return OK;
    std::fprintf(stderr, "simulator: %s: %s\n", kernel->name, what.c_str());
    return sticky = LAUNCH_FAILED;
}
// Captured streams, and graphs made of them: the driver has one stream.
API Result cuStreamBeginCapture_v2(void*, int) {
    ENTER("cuStreamBeginCapture");
    if (captured) return INVALID_VALUE;
    captured = new Nodes;
    capture_is_broken = false;
    return OK;
}
API Result cuStreamEndCapture(void*, void** graph) {
    ENTER("cuStreamEndCapture");
    if (!captured) return INVALID_VALUE;
    Nodes* nodes = captured;
    captured = nullptr;
    *graph = nullptr;
    if (capture_is_broken) {
        delete nodes;
        return CAPTURE_INVALIDATED;
    }
    *graph = nodes;
    return OK;
}
API Result cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
    ENTER("cuGraphInstantiate");
    *executable = new Nodes(*static_cast<Nodes*>(graph));
    return OK;
}
API Result cuGraphDestroy(void* graph) { delete static_cast<Nodes*>(graph); return OK; }
API Result cuGraphExecDestroy(void* executable) { delete static_cast<Nodes*>(executable); return OK; }
API Result cuGraphLaunch(void* executable, void* stream) {
    ENTER("cuGraphLaunch");
    NOT_CAPTURED
    for (Node& node : *static_cast<Nodes*>(executable)) {
        Result result;
        if (!node.function) result = cuMemsetD8Async(node.dst, node.value, node.bytes, stream);
        else {
            void* parameters[] = {node.arguments.data()};
            result = cuLaunchKernel(node.function, node.grid[0], node.grid[1], node.grid[2], node.block[0], node.block[1],
                                    node.block[2], node.shared, stream, parameters, nullptr);
        }
        if (result != OK) return result;
    }
    return OK;
}
API Result cuGetErrorName(Result error, const char** text) {
    *text = error == OK ? "CUDA_SUCCESS" : error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_SIMULATED";
    return OK;
}
API Result cuGetErrorString(Result error, const char** text) {
    *text = error == LAUNCH_FAILED ? "unspecified launch failure" : "an error of the simulated driver";
    return OK;
}
