// See text.h. An instruction's name and operands are looked up once, when the
// text is parsed; a register is 64 bits for each of 32 lanes.
#include "text.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <vector>

namespace sim {

namespace {

constexpr unsigned LANES = 32;

struct Fault {
    std::string what;
};

// A register, a number, or a special value.
struct Operand {
    enum { REGISTER, NUMBER, THREAD, BLOCK, BLOCKS } kind = NUMBER;
    size_t at = 0;
    uint64_t number = 0;
};

using Function = uint64_t (*)(uint64_t, uint64_t, uint64_t);

struct Line {
    std::string name, text;
    enum { COMPUTE, ARGUMENT, LOAD, STORE, SHUFFLE, BRANCH, RETURN } kind = COMPUTE;
    // Of a load or store.
    size_t bytes = 4;
    Function function = nullptr;
    int guard = -1;
    std::vector<Operand> operands;
    // Of a branch: the line to go to.
    size_t target = 0;
};

float as_float(uint64_t bits) {
    uint32_t low = uint32_t(bits);
    float value;
    std::memcpy(&value, &low, 4);
    return value;
}
uint64_t as_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

// The nearest bfloat16, ties to even; every NaN becomes the same.
uint64_t as_bfloat16(uint64_t bits) {
    uint32_t x = uint32_t(bits);
    return std::isnan(as_float(x)) ? 0x7fff : (x + 0x7fff + (x >> 16 & 1)) >> 16;
}

#define OF(expression) [](uint64_t a, uint64_t b, uint64_t c) -> uint64_t { (void)a, (void)b, (void)c; return expression; }
#define FLOATS(expression)                                              \
    [](uint64_t a_, uint64_t b_, uint64_t c_) -> uint64_t {             \
        float a = as_float(a_), b = as_float(b_), c = as_float(c_);     \
        (void)a, (void)b, (void)c;                                      \
        return as_bits(expression);                                     \
    }
#define TESTS(expression)                                    \
    [](uint64_t a_, uint64_t b_, uint64_t) -> uint64_t {     \
        float a = as_float(a_), b = as_float(b_);            \
        return (expression) ? 1 : 0;                         \
    }

// What is computed of each lane's operands alone.
const std::map<std::string, Function>& functions() {
    static const std::map<std::string, Function> all = {
        {"mov.u32", OF(uint32_t(a))},
        {"mov.b32", OF(uint32_t(a))},
        {"mov.f32", OF(uint32_t(a))},
        {"mov.u64", OF(a)},
        {"cvta.to.global.u64", OF(a)},
        {"cvt.u64.u32", OF(uint32_t(a))},
        {"cvt.rn.bf16x2.f32", OF(as_bfloat16(a) << 16 | as_bfloat16(b))},
        {"cvt.rn.f32.u64", OF(as_bits(float(a)))},
        {"cvt.rn.f32.s32", OF(as_bits(float(int32_t(uint32_t(a)))))},
        {"and.b32", OF(uint32_t(a) & uint32_t(b))},
        {"or.b32", OF(uint32_t(a) | uint32_t(b))},
        {"or.pred", OF(a | b)},
        {"shl.b32", OF(b < 32 ? uint32_t(uint32_t(a) << b) : 0)},
        {"shr.u32", OF(b < 32 ? uint32_t(a) >> b : 0)},
        {"shr.s32", OF(uint32_t(int32_t(uint32_t(a)) >> (b < 31 ? b : 31)))},
        {"add.u32", OF(uint32_t(a + b))},
        {"add.s32", OF(uint32_t(a + b))},
        {"sub.s32", OF(uint32_t(a - b))},
        {"shl.b64", OF(b < 64 ? a << b : 0)},
        {"add.u64", OF(a + b)},
        {"mul.lo.u64", OF(a * b)},
        {"div.u64", OF(b ? a / b : ~uint64_t(0))},
        {"rem.u64", OF(b ? a % b : a)},
        {"min.u64", OF(a < b ? a : b)},
        {"setp.ge.u64", OF(a >= b)},
        {"setp.lt.u64", OF(a < b)},
        {"setp.eq.u64", OF(a == b)},
        {"setp.lt.f32", TESTS(a < b)},
        {"setp.le.f32", TESTS(a <= b)},
        {"setp.gt.f32", TESTS(a > b)},
        {"setp.ge.f32", TESTS(a >= b)},
        {"setp.eq.f32", TESTS(a == b)},
        {"setp.nan.f32", TESTS(std::isnan(a) || std::isnan(b))},
        {"selp.f32", OF(c ? a : b)},
        {"neg.f32", FLOATS(-a)},
        {"abs.f32", FLOATS(std::fabs(a))},
        {"add.rn.f32", FLOATS(a + b)},
        {"sub.rn.f32", FLOATS(a - b)},
        {"mul.rn.f32", FLOATS(a * b)},
        {"div.rn.f32", FLOATS(a / b)},
        {"fma.rn.f32", FLOATS(std::fmaf(a, b, c))},
        {"rcp.rn.f32", FLOATS(1.0f / a)},
        {"sqrt.rn.f32", FLOATS(std::sqrt(a))},
        {"cvt.rmi.f32.f32", FLOATS(std::floor(a))},
    };
    return all;
}

}  // namespace

struct Text {
    std::string name;
    std::vector<Line> lines;
    size_t registers = 0, argument_bytes = 0;
};

const std::string& name(const Text& text) { return text.name; }
size_t argument_bytes(const Text& text) { return text.argument_bytes; }

namespace {

struct Parser {
    Text& to;
    std::map<std::string, size_t> registers, labels;
    // How many registers of each kind were declared.
    std::map<std::string, size_t> declared;
    std::vector<std::pair<size_t, std::string>> branches;

    [[noreturn]] void fail(const std::string& line, const std::string& why) { throw Fault{why + ": " + line}; }

    size_t number_of(const std::string& word, const std::string& line) {
        size_t digits = word.find_first_of("0123456789");
        auto kind = declared.find(word.substr(0, digits));
        if (digits == std::string::npos || kind == declared.end() || std::stoul(word.substr(digits)) >= kind->second)
            fail(line, word + " was not declared");
        return registers.emplace(word, registers.size()).first->second;
    }

    Operand operand(std::string word, const std::string& line) {
        Operand found;
        if (word == "%tid.x") found.kind = Operand::THREAD;
        else if (word == "%ctaid.x") found.kind = Operand::BLOCK;
        else if (word == "%nctaid.x") found.kind = Operand::BLOCKS;
        else if (word[0] == '%') {
            found.kind = Operand::REGISTER;
            found.at = number_of(word, line);
        } else if (word.substr(0, 2) == "0f" && word.size() == 10) found.number = std::stoull(word.substr(2), nullptr, 16);
        else {
            size_t used = 0;
            found.number = std::stoull(word, &used, 0);
            if (used != word.size()) fail(line, "what is " + word);
        }
        return found;
    }

    void instruction(std::string line) {
        Line made;
        made.text = line;
        if (line[0] == '@') {
            size_t space = line.find(' ');
            made.guard = int(number_of(line.substr(1, space - 1), line));
            line = line.substr(space + 1);
        }
        if (line.back() != ';') fail(line, "no semicolon");
        line.pop_back();
        size_t space = line.find(' ');
        made.name = line.substr(0, space);
        std::vector<std::string> words;
        while (space != std::string::npos) {
            size_t start = line.find_first_not_of(' ', space + 1), comma = line.find(',', space + 1);
            words.push_back(line.substr(start, comma == std::string::npos ? comma : comma - start));
            space = comma;
        }
        size_t wanted = 0;
        if (made.name == "bra") {
            if (words.size() != 1) fail(line, "a branch to where");
            made.kind = Line::BRANCH;
            branches.push_back({to.lines.size(), words[0]});
            words.clear();
        } else if (made.name == "ld.param.u64") {
            wanted = 2;
            made.kind = Line::ARGUMENT;
            if (words.size() != 2 || words[1].substr(0, 3) != "[a+") fail(line, "which argument");
            words[1] = words[1].substr(3, words[1].size() - 4);
            if (std::stoul(words[1]) + 8 > to.argument_bytes) fail(line, "beyond the arguments");
        } else if (made.name == "ld.global.f32" || made.name == "st.global.f32" || made.name == "ld.global.u16" ||
                   made.name == "st.global.b16") {
            wanted = 2;
            made.bytes = made.name.substr(11) == "16" ? 2 : 4;
            made.kind = made.name[0] == 'l' ? Line::LOAD : Line::STORE;
            if (words.size() != 2) fail(line, "operands");
            std::string& address = words[made.kind == Line::LOAD ? 1 : 0];
            address = address.substr(1, address.size() - 2);
        } else if (made.name == "shfl.sync.bfly.b32") {
            wanted = 5;
            made.kind = Line::SHUFFLE;
        } else if (made.name == "ret") {
            made.kind = Line::RETURN;
        } else {
            auto function = functions().find(made.name);
            if (function == functions().end()) fail(line, "unknown instruction");
            made.function = function->second;
            bool three = made.name.substr(0, 3) == "fma" || made.name.substr(0, 4) == "selp";
            const char* one[] = {"mov", "cvt", "neg", "abs", "rcp", "sqr"};
            wanted = three ? 4 : 3;
            for (const char* start : one)
                if (made.name.substr(0, 3) == start && made.name.find("x2") == std::string::npos) wanted = 2;
        }
        if (words.size() != wanted) fail(line, "operands");
        for (const std::string& word : words) made.operands.push_back(operand(word, line));
        to.lines.push_back(made);
    }

    void parse(const std::string& text) {
        bool inside = false;
        size_t at = 0;
        while (at < text.size()) {
            size_t end = text.find('\n', at);
            if (end == std::string::npos) end = text.size();
            std::string line = text.substr(at, end - at);
            at = end + 1;
            size_t start = line.find_first_not_of(' ');
            if (start == std::string::npos) continue;
            line = line.substr(start);
            if (line.substr(0, 15) == ".visible .entry") {
                size_t open = line.find('('), size = line.find("a[");
                to.name = line.substr(16, open - 16);
                to.argument_bytes = std::stoul(line.substr(size + 2));
            } else if (line == "{") inside = true;
            else if (line == "}") inside = false;
            else if (line.substr(0, 4) == ".reg") {
                size_t mark = line.find('%'), open = line.find('<');
                declared[line.substr(mark, open - mark)] = std::stoul(line.substr(open + 1));
            } else if (line[0] == '.') {
                if (inside) fail(line, "a directive in a body");
            } else if (line.back() == ':') labels[line.substr(0, line.size() - 1)] = to.lines.size();
            else if (inside) instruction(line);
            else fail(line, "outside of a body");
        }
        for (auto& [line, label] : branches) {
            auto found = labels.find(label);
            if (found == labels.end()) fail(label, "no such label");
            to.lines[line].target = found->second;
        }
        to.registers = registers.size();
    }
};

// One warp, to its end.
struct Warp {
    const Text& text;
    unsigned block, blocks, first_thread;
    const unsigned char* arguments;
    const std::function<bool(uintptr_t, size_t)>& inside;
    std::vector<uint64_t> registers;

    uint64_t value(const Operand& operand, unsigned lane) const {
        switch (operand.kind) {
            case Operand::REGISTER: return registers[operand.at * LANES + lane];
            case Operand::THREAD: return first_thread + lane;
            case Operand::BLOCK: return block;
            case Operand::BLOCKS: return blocks;
            default: return operand.number;
        }
    }

    [[noreturn]] void fail(const Line& line, const std::string& why) const {
        throw Fault{"block " + std::to_string(block) + ", warp " + std::to_string(first_thread / LANES) + ": " + why + " at " + line.text};
    }

    void run() {
        size_t at = 0, steps = 0;
        while (at < text.lines.size()) {
            const Line& line = text.lines[at++];
            if (++steps > (size_t(1) << 32)) fail(line, "it does not end");
            bool on[LANES];
            unsigned count = 0;
            for (unsigned lane = 0; lane < LANES; lane++) {
                on[lane] = line.guard < 0 || registers[size_t(line.guard) * LANES + lane];
                count += on[lane];
            }
            if (line.kind == Line::RETURN || line.kind == Line::BRANCH) {
                if (count != 0 && count != LANES) fail(line, "the lanes part");
                if (count == 0) continue;
                if (line.kind == Line::RETURN) return;
                at = line.target;
            } else if (line.kind == Line::SHUFFLE) {
                if (count != LANES) fail(line, "not all lanes");
                uint64_t all[LANES];
                for (unsigned lane = 0; lane < LANES; lane++)
                    all[lane] = value(line.operands[1], lane ^ unsigned(line.operands[2].number));
                for (unsigned lane = 0; lane < LANES; lane++) registers[line.operands[0].at * LANES + lane] = all[lane];
            } else {
                one(line, on);
            }
        }
        throw Fault{"a warp runs over the end of the text"};
    }

    void one(const Line& line, const bool* on) {
        bool load = line.kind == Line::LOAD;
        for (unsigned lane = 0; lane < LANES; lane++) {
            if (!on[lane]) continue;
            if (load || line.kind == Line::STORE) {
                uint64_t address = value(line.operands[load ? 1 : 0], lane);
                if (address % line.bytes || !inside(address, line.bytes))
                    fail(line, "lane " + std::to_string(lane) + " leaves device memory");
                void* place = reinterpret_cast<void*>(address);
                // Little-endian: the lower bytes are those that are moved.
                uint64_t bits = load ? 0 : value(line.operands[1], lane);
                std::memcpy(load ? &bits : place, load ? place : &bits, line.bytes);
                if (load) registers[line.operands[0].at * LANES + lane] = bits;
                continue;
            }
            uint64_t result;
            if (line.kind == Line::ARGUMENT) std::memcpy(&result, arguments + line.operands[1].number, 8);
            else {
                uint64_t operands[3] = {};
                for (size_t i = 1; i < line.operands.size(); i++) operands[i - 1] = value(line.operands[i], lane);
                result = line.function(operands[0], operands[1], operands[2]);
            }
            registers[line.operands[0].at * LANES + lane] = result;
        }
    }
};

}  // namespace

std::shared_ptr<Text> parse(const char* text, std::string& why) {
    auto made = std::make_shared<Text>();
    Parser parser{*made, {}, {}, {}, {}};
    try {
        parser.parse(text);
    } catch (const Fault& fault) {
        why = fault.what;
        return nullptr;
    } catch (const std::exception& error) {
        why = error.what();
        return nullptr;
    }
    return made;
}

std::string run(const Text& text, unsigned blocks, unsigned threads, const void* arguments,
                const std::function<bool(uintptr_t, size_t)>& inside) {
    if (threads % LANES) return "threads are no whole warps";
    try {
        // Backwards: nothing may depend on the order.
        for (unsigned block = blocks; block-- > 0;) {
            for (unsigned first = threads; first > 0; first -= LANES) {
                // What was never written is a NaN, and a huge number.
                std::vector<uint64_t> poisoned(text.registers * LANES, ~uint64_t(0));
                Warp{text, block, blocks, first - LANES, static_cast<const unsigned char*>(arguments), inside, poisoned}.run();
            }
        }
    } catch (const Fault& fault) {
        return fault.what;
    }
    return "";
}

}  // namespace sim
