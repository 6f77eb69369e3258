// Where memory comes from.
#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "layers.h"

namespace ninefold {

namespace {

constexpr size_t page = size_t(2) << 20;   // a large one
constexpr size_t chunk = size_t(32) << 20; // of addresses; memory is taken as pages are touched
thread_local bool lasting = false;
std::atomic<int64_t> held_bytes{-1};

// Addresses that begin at a large page, so that the system can put large pages there.
Floats pages(size_t bytes) {
    const size_t size = whole(bytes, page) + page;
    void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    const uintptr_t first = whole(reinterpret_cast<uintptr_t>(p), page);
#ifdef MADV_HUGEPAGE
    madvise(reinterpret_cast<void*>(first), size - page, MADV_HUGEPAGE); // a wish; the system may not care
#endif
    return Floats(reinterpret_cast<float*>(first), [p, size](float*) { munmap(p, size); });
}

} // namespace

Floats allocate(size_t count) {
    void* p = std::aligned_alloc(64, whole(count ? count * sizeof(float) : 1, 64));
    if (!p) throw std::bad_alloc();
    return Floats(static_cast<float*>(p), [](float* q) { std::free(q); });
}

Floats allocate_kept(size_t count) {
    const size_t bytes = count * sizeof(float);
    return bytes >= page / 2 ? pages(bytes) : allocate(count);
}

namespace {

struct Stretch {
    Floats memory;
    size_t size = 0, used = 0; // in floats; what did not fit counts as used too
    size_t wanted = 0;         // the most that was in use at once
};
thread_local Stretch stretch;

} // namespace

Scratch::Scratch(size_t count) : count_(whole(count, 64 / sizeof(float))) {
    if (together && stretch.used == 0 && stretch.size < stretch.wanted) {
        stretch.memory.reset();
        stretch.size = 0;
        stretch.memory = allocate_kept(stretch.wanted);
        stretch.size = stretch.wanted;
    }
    const size_t used = stretch.used + count_;
    if (used > stretch.size) own_ = allocate(count_);
    first_ = own_ ? own_.get() : stretch.memory.get() + stretch.used;
    stretch.used = used;
    stretch.wanted = whole(std::max(stretch.wanted, used), page / sizeof(float));
}

Scratch::~Scratch() {
    stretch.used -= count_;
}

void expect_writes(const float* first, size_t count) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(first);
    const uintptr_t from = whole(at, page), to = (at + count * sizeof(float)) / page * page;
    if (!first || count * sizeof(float) < 2 * page || to <= from) return;
#ifdef MADV_HUGEPAGE
    madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);
#endif
}

void weights_last(bool yes) {
    lasting = yes;
}

Floats allocate_weights(size_t count) {
    if (!lasting) return count * sizeof(float) < page ? allocate(count) : allocate_image(count);
    static std::mutex lock;
    static Floats open;
    static size_t used = 0, size = 0;
    std::lock_guard<std::mutex> guard(lock);
    const size_t bytes = whole(count * sizeof(float), 64);
    if (!open || used + bytes > size) {
        open = pages(bytes > chunk ? bytes : chunk);
        used = 0;
        size = bytes > chunk ? whole(bytes, page) : chunk;
    }
    Floats part(open, open.get() + used / sizeof(float));
    used += bytes;
    return part;
}

bool outgrows_caches(size_t count) {
    const int64_t held = held_bytes;
    return int64_t(count * sizeof(float)) > (held < 0 ? last_level_cache() / 2 : held);
}

void caches_hold(int64_t bytes) {
    held_bytes = bytes;
}

void write_past_caches(const float* from, size_t count, float* to) {
    size_t k = 0;
#if defined(__SSE2__)
    // Whole lines, or each is fetched and merged after all.
    const size_t line = 16, before = (line - reinterpret_cast<uintptr_t>(to) / sizeof(float) % line) % line;
    k = std::min(count, before);
    std::memcpy(to, from, k * sizeof(float));
    for (; k + line <= count; k += line)
        for (size_t part = 0; part < line; part += 4)
            _mm_stream_ps(to + k + part, _mm_loadu_ps(from + k + part));
    _mm_sfence(); // before whoever waits for this thread reads it
#endif
    std::memcpy(to + k, from + k, (count - k) * sizeof(float));
}

} // namespace ninefold
