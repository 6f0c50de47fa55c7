// Kernels in PTX text, interpreted: the part of the language that the backend
// emits (src/cuda/ptx). A warp runs in step; a branch that its lanes do not
// take together ends the launch, as does an access outside of device memory.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace sim {

struct Text;

// A module's one kernel; null, with the reason in `why`, where a line is not
// understood.
std::shared_ptr<Text> parse(const char* text, std::string& why);
const std::string& name(const Text& text);
size_t argument_bytes(const Text& text);
// Runs all blocks. `inside` says whether bytes at an address may be used.
// Returns an empty string, or what went wrong.
std::string run(const Text& text, unsigned blocks, unsigned threads, const void* arguments,
                const std::function<bool(uintptr_t, size_t)>& inside);

}  // namespace sim
