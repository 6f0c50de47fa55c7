#include "sim.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <vector>

namespace sim {

dim3 grid, block, block_index, thread_index;

namespace {

constexpr size_t STACK_BYTES = 128 << 10;
constexpr unsigned MAX_THREADS = 1024;
constexpr size_t MAX_EXCHANGE_BYTES = 256;
constexpr uint32_t POISON = 0xffffffffu;

uint64_t random_state;

uint64_t next_random() {  // SplitMix64.
    uint64_t z = (random_state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

template <typename T>
void shuffle(std::vector<T>& items) {
    for (size_t i = items.size(); i > 1; i--) std::swap(items[i - 1], items[next_random() % i]);
}

// The threads of a warp meeting. Two generations of values, because a lane
// may give its next one before another has read the last.
struct Meeting {
    unsigned arrived = 0;
    unsigned generation = 0;
    const char* kind = nullptr;
    alignas(16) unsigned char values[2][32 * MAX_EXCHANGE_BYTES];
};

// A place to go on from. A fiber is entered the first time by swapcontext,
// later by _longjmp, which makes no system call; under AddressSanitizer, which
// objects to that, always by swapcontext.
struct Switch {
    ucontext_t context;
    jmp_buf jump;
    bool started = false;
};

void go(Switch& from, Switch& to) {
#ifdef __SANITIZE_ADDRESS__
    swapcontext(&from.context, &to.context);
#else
    from.started = true;
    if (_setjmp(from.jump)) return;
    if (to.started) _longjmp(to.jump, 1);
    setcontext(&to.context);
#endif
}

struct Fiber {
    Switch at;
    unsigned char* stack = nullptr;
    bool done = false;
    const char* waiting_for = nullptr;
};

// Work that is done when `rounds` are over.
struct Later {
    unsigned rounds;
    std::function<void()> work;
};

struct Machine {
    std::vector<Fiber> fibers;
    std::vector<Later> under_way;
    uint64_t blocks_run = 0;
    Switch scheduler;
    unsigned current = 0;
    bool progressed = false;
    unsigned barrier_arrived = 0;
    unsigned barrier_generation = 0;
    std::vector<std::unique_ptr<Meeting>> warps;
    std::vector<uint32_t> shared;
    size_t shared_bytes = 0;
    const Kernel* kernel = nullptr;
    const void* arguments = nullptr;
    std::string fault;
};

Machine machine;
const Kernel* first_kernel = nullptr;

std::string place() {
    return "block (" + std::to_string(block_index.x) + "," + std::to_string(block_index.y) + "," +
           std::to_string(block_index.z) + ") thread " + std::to_string(machine.current);
}

void set_thread_index(unsigned thread) {
    machine.current = thread;
    thread_index = {thread % block.x, thread / block.x % block.y, thread / (block.x * block.y)};
}

void leave(Fiber& fiber) {
    go(fiber.at, machine.scheduler);
}

void fiber_main() {
    Fiber& fiber = machine.fibers[machine.current];
    machine.kernel->run(machine.arguments);
    fiber.done = true;
    machine.progressed = true;
    leave(fiber);
}

void start(Fiber& fiber) {
    if (!fiber.stack) {
        void* stack = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stack == MAP_FAILED) {
            machine.fault = "no memory for the stacks of the simulated threads";
            return;
        }
        // A page that faults below the stack.
        mprotect(stack, 4096, PROT_NONE);
        fiber.stack = static_cast<unsigned char*>(stack);
    }
    fiber.done = false;
    fiber.waiting_for = nullptr;
    fiber.at.started = false;
    ucontext_t& context = fiber.at.context;
    getcontext(&context);
    context.uc_stack.ss_sp = fiber.stack;
    context.uc_stack.ss_size = STACK_BYTES;
    context.uc_link = nullptr;
    makecontext(&context, fiber_main, 0);
}

void do_what_is_due() {
    for (size_t i = 0; i < machine.under_way.size();) {
        if (machine.under_way[i].rounds-- > 0) {
            i++;
            continue;
        }
        std::function<void()> work = std::move(machine.under_way[i].work);
        machine.under_way.erase(machine.under_way.begin() + ptrdiff_t(i));
        work();
    }
}

void run_block(unsigned threads) {
    std::fill(machine.shared.begin(), machine.shared.end(), POISON);
    machine.barrier_arrived = machine.barrier_generation = 0;
    machine.under_way.clear();
    machine.blocks_run++;
    for (auto& warp : machine.warps) {
        warp->arrived = warp->generation = 0;
        warp->kind = nullptr;
    }
    std::vector<unsigned> live(threads);
    for (unsigned i = 0; i < threads; i++) {
        live[i] = i;
        start(machine.fibers[i]);
    }
    while (!live.empty() && machine.fault.empty()) {
        shuffle(live);
        machine.progressed = !machine.under_way.empty();
        do_what_is_due();
        for (unsigned thread : live) {
            set_thread_index(thread);
            go(machine.scheduler, machine.fibers[thread].at);
            if (!machine.fault.empty()) return;
        }
        std::erase_if(live, [](unsigned thread) { return machine.fibers[thread].done; });
        if (!machine.progressed) {
            set_thread_index(live[0]);
            const char* what = machine.fibers[live[0]].waiting_for;
            machine.fault = place() + ": deadlock in " + machine.kernel->name + ": " + std::to_string(live.size()) +
                            " threads wait, this one in " + (what ? what : "nothing known");
        }
    }    if (machine.fault.empty() && !machine.under_way.empty())
        machine.fault = place() + ": " + machine.kernel->name + " ended while copies were under way";
}

}  // namespace

[[noreturn]] void fail(const std::string& what) {
    machine.fault = place() + ": " + what;
    leave(machine.fibers[machine.current]);
    __builtin_unreachable();
}

void yield(const char* waiting_for) {
    unsigned me = machine.current;
    Fiber& fiber = machine.fibers[me];
    fiber.waiting_for = waiting_for;
    leave(fiber);
}

void progress() { machine.progressed = true; }

unsigned char* shared(size_t bytes) {
    if (bytes > machine.shared_bytes)
        fail(std::string(machine.kernel->name) + " uses " + std::to_string(bytes) + " bytes of shared memory, " +
             std::to_string(machine.shared_bytes) + " were asked for at launch");
    return reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(machine.shared.data()) + 1023) & ~uintptr_t(1023));
}

size_t shared_bytes() { return machine.shared_bytes; }

void land_later(std::function<void()> work) {
    // Most is done soon; what is late may come after whatever was begun later.
    unsigned rounds = unsigned(next_random() % (next_random() % 8 == 0 ? 256 : 6));
    machine.under_way.push_back({rounds, std::move(work)});
}

uint64_t random() { return next_random(); }
uint64_t blocks_run() { return machine.blocks_run; }

unsigned thread() { return machine.current; }
unsigned lane() { return machine.current % 32; }

const unsigned char* exchange(const char* kind, const void* mine, size_t bytes) {
    if (bytes > MAX_EXCHANGE_BYTES) fail("a warp exchange of too many bytes");
    unsigned first = machine.current / 32 * 32;
    if (first + 32 > block.x * block.y * block.z) fail(std::string(kind) + " in a warp that is not full");
    Meeting& meeting = *machine.warps[machine.current / 32];
    unsigned generation = meeting.generation;
    if (meeting.arrived == 0) {
        meeting.kind = kind;
    } else if (std::strcmp(meeting.kind, kind) != 0) {
        fail(std::string("lanes of one warp meet in ") + meeting.kind + " and in " + kind);
    }
    unsigned char* values = meeting.values[generation & 1];
    std::memcpy(values + lane() * bytes, mine, bytes);
    progress();
    if (++meeting.arrived == 32) {
        meeting.arrived = 0;
        meeting.generation++;
    }
    while (meeting.generation == generation) yield(kind);
    return values;
}

Kernel::Kernel(const char* name, size_t argument_bytes, void (*run)(const void*))
    : name(name), argument_bytes(argument_bytes), run(run), next(first_kernel) {
    first_kernel = this;
}

const Kernel* find(const char* name) {
    for (const Kernel* kernel = first_kernel; kernel; kernel = kernel->next)
        if (std::strcmp(kernel->name, name) == 0) return kernel;
    return nullptr;
}

std::string launch(const Kernel& kernel, const Launch& how, const void* arguments) {
    uint64_t threads = uint64_t(how.block.x) * how.block.y * how.block.z;
    if (threads == 0 || threads > MAX_THREADS) return "a block of " + std::to_string(threads) + " threads";
    uint64_t blocks = uint64_t(how.grid.x) * how.grid.y * how.grid.z;
    if (blocks == 0 || how.grid.y > 65535 || how.grid.z > 65535) return "a grid that no device accepts";
    if (how.shared_bytes > (227u << 10)) return "more shared memory than a block can have";
    grid = how.grid;
    block = how.block;
    random_state = how.seed;
    machine.kernel = &kernel;
    machine.arguments = arguments;
    machine.fault.clear();
    machine.shared_bytes = how.shared_bytes;
    machine.shared.resize((how.shared_bytes + 1024 + 3) / 4);
    if (machine.fibers.size() < threads) machine.fibers.resize(threads);
    while (machine.warps.size() < (threads + 31) / 32) machine.warps.push_back(std::make_unique<Meeting>());
    std::vector<uint64_t> order(blocks);
    for (uint64_t i = 0; i < blocks; i++) order[i] = i;
    shuffle(order);
    for (uint64_t index : order) {
        block_index = {unsigned(index % how.grid.x), unsigned(index / how.grid.x % how.grid.y),
                       unsigned(index / how.grid.x / how.grid.y)};
        run_block(unsigned(threads));
        if (!machine.fault.empty()) return machine.fault;
    }
    return {};
}

}  // namespace sim

void __syncthreads() {
    using namespace sim;
    unsigned generation = machine.barrier_generation;
    progress();
    if (++machine.barrier_arrived == block.x * block.y * block.z) {
        machine.barrier_arrived = 0;
        machine.barrier_generation++;
    }
    while (machine.barrier_generation == generation) yield("__syncthreads");
}

void __syncwarp(unsigned) {
    char nothing = 0;
    sim::exchange("__syncwarp", &nothing, 1);
}
