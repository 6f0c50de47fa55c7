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
// Of a cluster; what every card can have.
constexpr unsigned MAX_BLOCKS = 8;
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

// Threads that have come to a barrier, and how often all have.
struct Crowd {
    unsigned arrived = 0, generation = 0;
};

struct Block {
    dim3 index;
    Crowd barrier;
    // Threads that have not ended.
    unsigned live = 0;
    std::vector<std::unique_ptr<Meeting>> warps;
    std::vector<uint32_t> shared;
};

struct Machine {
    // The threads of the first block, of the second, ...
    std::vector<Fiber> fibers;
    std::vector<Block> blocks;
    unsigned threads = 0;
    Crowd cluster_barrier;
    std::vector<Later> under_way;
    uint64_t clusters_run = 0;
    Switch scheduler;
    unsigned current = 0;
    bool progressed = false;
    size_t shared_bytes = 0;
    const Kernel* kernel = nullptr;
    const void* arguments = nullptr;
    std::string fault;
};

Machine machine;
const Kernel* first_kernel = nullptr;

std::string place() {
    return "block (" + std::to_string(block_index.x) + "," + std::to_string(block_index.y) + "," +
           std::to_string(block_index.z) + ") thread " + std::to_string(thread());
}

Block& own_block() { return machine.blocks[rank()]; }

unsigned char* start_of(Block& it) {
    return reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(it.shared.data()) + 1023) & ~uintptr_t(1023));
}

void set_current(unsigned fiber) {
    machine.current = fiber;
    unsigned at = thread();
    thread_index = {at % block.x, at / block.x % block.y, at / (block.x * block.y)};
    block_index = own_block().index;
}

// Comes to a barrier of `all` threads, and waits for the others.
void meet(Crowd& crowd, unsigned all, const char* what) {
    unsigned generation = crowd.generation;
    progress();
    if (++crowd.arrived == all) {
        crowd.arrived = 0;
        crowd.generation++;
    }
    while (crowd.generation == generation) yield(what);
}

void leave(Fiber& fiber) {
    go(fiber.at, machine.scheduler);
}

void fiber_main() {
    Fiber& fiber = machine.fibers[machine.current];
    machine.kernel->run(machine.arguments);
    fiber.done = true;
    own_block().live--;
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

// A block of a cluster that stands still while the others run on, for some
// rounds: from the beginning, and now and then.
struct Held {
    unsigned block = 0, rounds = 0;

    explicit Held(unsigned blocks) {
        if (blocks > 1) draw(blocks);
    }
    void draw(unsigned blocks) {
        block = unsigned(next_random() % blocks);
        rounds = unsigned(next_random() % 64);
    }
    void next(unsigned blocks) {
        if (rounds > 0) rounds--;
        else if (blocks > 1 && next_random() % 64 == 0) draw(blocks);
    }
    bool holds(unsigned fiber) const { return rounds > 0 && fiber / machine.threads == block; }
};

// The cluster whose first block has that number.
void run_cluster(uint64_t first, unsigned blocks) {
    machine.cluster_barrier = {};
    machine.under_way.clear();
    machine.clusters_run++;
    machine.blocks.resize(blocks);
    for (unsigned i = 0; i < blocks; i++) {
        Block& it = machine.blocks[i];
        uint64_t number = first + i;
        it.index = {unsigned(number % grid.x), unsigned(number / grid.x % grid.y), unsigned(number / grid.x / grid.y)};
        it.barrier = {};
        it.live = machine.threads;
        it.shared.assign((machine.shared_bytes + 1024 + 3) / 4, POISON);
        while (it.warps.size() < (machine.threads + 31) / 32) it.warps.push_back(std::make_unique<Meeting>());
        for (auto& warp : it.warps) {
            warp->arrived = warp->generation = 0;
            warp->kind = nullptr;
        }
    }
    std::vector<unsigned> live(blocks * machine.threads);
    if (machine.fibers.size() < live.size()) machine.fibers.resize(live.size());
    for (unsigned i = 0; i < live.size(); i++) {
        live[i] = i;
        start(machine.fibers[i]);
    }
    for (Held held(blocks); !live.empty() && machine.fault.empty(); held.next(blocks)) {
        shuffle(live);
        machine.progressed = !machine.under_way.empty();
        do_what_is_due();
        if (!machine.fault.empty()) return;
        for (unsigned fiber : live) {
            if (held.holds(fiber)) continue;
            set_current(fiber);
            go(machine.scheduler, machine.fibers[fiber].at);
            if (!machine.fault.empty()) return;
        }
        std::erase_if(live, [](unsigned fiber) { return machine.fibers[fiber].done; });
        if (!machine.progressed && held.rounds > 0) {
            // Perhaps the others wait for it.
            held.rounds = 0;
        } else if (!machine.progressed) {
            set_current(live[0]);
            const char* what = machine.fibers[live[0]].waiting_for;
            machine.fault = place() + ": deadlock in " + machine.kernel->name + ": " + std::to_string(live.size()) +
                            " threads wait, this one in " + (what ? what : "nothing known");
        }
    }
    if (machine.fault.empty() && !machine.under_way.empty())
        machine.fault = place() + ": " + machine.kernel->name + " ended while copies were under way";
}

}  // namespace

[[noreturn]] void fail(const std::string& what) {
    machine.fault = place() + ": " + what;
    leave(machine.fibers[machine.current]);
    __builtin_unreachable();
}

void report(const std::string& what) {
    if (machine.fault.empty()) machine.fault = std::string(machine.kernel->name) + ": " + what;
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
    return start_of(own_block());
}

unsigned char* shared_of(unsigned rank) {
    if (rank >= machine.blocks.size() || machine.blocks[rank].live == 0) return nullptr;
    return start_of(machine.blocks[rank]);
}

size_t shared_bytes() { return machine.shared_bytes; }

void land_later(std::function<void()> work) {
    // Most is done soon; what is late may come after whatever was begun later.
    unsigned rounds = unsigned(next_random() % (next_random() % 8 == 0 ? 256 : 6));
    machine.under_way.push_back({rounds, std::move(work)});
    progress();
}

uint64_t random() { return next_random(); }
uint64_t clusters_run() { return machine.clusters_run; }

unsigned fiber() { return machine.current; }
unsigned thread() { return machine.current % machine.threads; }
unsigned lane() { return thread() % 32; }
unsigned rank() { return machine.current / machine.threads; }
unsigned blocks_of_cluster() { return unsigned(machine.blocks.size()); }

void cluster_sync() {
    meet(machine.cluster_barrier, machine.threads * blocks_of_cluster(), "cluster_sync");
}

const unsigned char* exchange(const char* kind, const void* mine, size_t bytes) {
    if (bytes > MAX_EXCHANGE_BYTES) fail("a warp exchange of too many bytes");
    unsigned first = thread() / 32 * 32;
    if (first + 32 > machine.threads) fail(std::string(kind) + " in a warp that is not full");
    Meeting& meeting = *own_block().warps[thread() / 32];
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

Kernel::Kernel(const char* name, size_t argument_bytes, unsigned blocks, void (*run)(const void*))
    : name(name), argument_bytes(argument_bytes), blocks(blocks), run(run), next(first_kernel) {
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
    if (kernel.blocks > MAX_BLOCKS || how.grid.x % kernel.blocks)
        return "a grid that is not made of whole clusters of " + std::to_string(kernel.blocks);
    grid = how.grid;
    block = how.block;
    random_state = how.seed;
    machine.kernel = &kernel;
    machine.arguments = arguments;
    machine.fault.clear();
    machine.shared_bytes = how.shared_bytes;
    machine.threads = unsigned(threads);
    std::vector<uint64_t> order(blocks / kernel.blocks);
    for (uint64_t i = 0; i < order.size(); i++) order[i] = i * kernel.blocks;
    shuffle(order);
    for (uint64_t first : order) {
        run_cluster(first, kernel.blocks);
        if (!machine.fault.empty()) return machine.fault;
    }
    return {};
}

}  // namespace sim

void __syncthreads() {
    using namespace sim;
    meet(own_block().barrier, machine.threads, "__syncthreads");
}

void __syncwarp(unsigned) {
    char nothing = 0;
    sim::exchange("__syncwarp", &nothing, 1);
}
