// Which instruction set runs: what was compiled, what the processor has, what was asked for.
#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "kernels.h"

namespace ninefold {

namespace {

bool processor_has(const std::string& name) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (name == "avx512")
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx2") &&
               __builtin_cpu_supports("fma");
    if (name == "avx2")
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
               __builtin_cpu_supports("f16c");
    return name == "sse41" && __builtin_cpu_supports("sse4.1");
#elif defined(__aarch64__)
    return name == "neon";
#else
    return false;
#endif
}

std::atomic<const Kernels*> chosen{nullptr};

const Kernels* named(const std::string& what, const std::string& name) {
    std::string names;
    for (const Kernels* row : available()) {
        if (row->name == name) return row;
        names += (names.empty() ? "" : ", ") + row->name;
    }
    throw std::invalid_argument(what + " must be one of " + names + ", got " + name);
}

} // namespace

std::vector<const Kernels*> available() {
    std::vector<const Kernels*> rows;
    for (const Kernels& row : compiled())
        if (processor_has(row.name)) rows.push_back(&row);
    return rows;
}

const Kernels& current() {
    if (const Kernels* row = chosen.load()) return *row;
    const auto rows = available();
    if (rows.empty())
        throw std::runtime_error("this processor has none of the instruction sets that were compiled");
    const char* forced = std::getenv("NINEFOLD_ISA");
    chosen = forced && *forced ? named("`NINEFOLD_ISA`", forced) : rows.front();
    return *chosen.load();
}

const Kernels& current_for(int64_t channels) {
    const Kernels& wanted = current();
    bool reached = false;
    for (const Kernels* row : available()) {
        reached = reached || row == &wanted;
        if (reached && row->lanes <= channels) return *row;
    }
    return wanted;
}

void use(const std::string& name) {
    chosen = named("the instruction set", name);
}

} // namespace ninefold
