// Memory that starts at a cache line, and scratch that a thread keeps between calls.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

namespace ninefold {

struct Free {
    void operator()(float* p) const { std::free(p); }
};
using Floats = std::unique_ptr<float[], Free>;

inline Floats allocate(size_t count) {
    const size_t bytes = (count * sizeof(float) + 63) / 64 * 64;
    void* p = std::aligned_alloc(64, bytes ? bytes : 64);
    if (!p) throw std::bad_alloc();
    return Floats(static_cast<float*>(p));
}

// At least `count` floats, this thread's own, until it asks for scratch of the same `Tag` again.
template <class Tag>
float* scratch(size_t count) {
    static thread_local Floats held;
    static thread_local size_t size = 0;
    if (size < count) {
        held.reset();
        size = 0;
        held = allocate(count);
        size = count;
    }
    return held.get();
}

} // namespace ninefold
