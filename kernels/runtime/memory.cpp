// Where memory comes from.
#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <vector>

namespace ninefold {

namespace {

constexpr size_t page = size_t(2) << 20;   // a large one
constexpr size_t chunk = size_t(32) << 20; // of addresses; memory is taken as pages are touched
thread_local bool lasting = false;

size_t whole(size_t bytes, size_t unit) {
    return (bytes + unit - 1) / unit * unit;
}

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

// Images that nobody holds any more.
class Kept {
public:
    struct Image {
        Floats memory;
        size_t bytes;
        uint64_t since; // how many had been taken when it came
    };

    // One of at most a quarter more bytes, or none.
    Image take(size_t bytes) {
        std::vector<Image> late; // goes after the lock
        std::lock_guard<std::mutex> guard(lock_);
        taken_++;
        size_t best = images_.size();
        for (size_t k = 0; k < images_.size(); k++)
            if (images_[k].bytes >= bytes && images_[k].bytes <= bytes + bytes / 4 &&
                (best == images_.size() || images_[k].bytes < images_[best].bytes))
                best = k;
        Image found{nullptr, bytes, 0};
        if (best < images_.size()) {
            found = std::move(images_[best]);
            images_.erase(images_.begin() + best);
        }
        for (size_t k = images_.size(); k-- > 0;)
            if (images_[k].since + 64 < taken_) {
                late.push_back(std::move(images_[k]));
                images_.erase(images_.begin() + k);
            }
        return found;
    }

    // Where there is no memory to keep it in, it goes: this runs in destructors, which must not throw.
    void give(Image image) noexcept {
        try {
            std::lock_guard<std::mutex> guard(lock_);
            image.since = taken_;
            images_.push_back(std::move(image));
        } catch (const std::exception&) {
        }
    }

    void clear() {
        std::vector<Image> late;
        std::lock_guard<std::mutex> guard(lock_);
        late.swap(images_);
    }

private:
    std::mutex lock_;
    std::vector<Image> images_;
    uint64_t taken_ = 0;
};

// Never destroyed: images may outlive the extension's own end.
Kept& kept_images() {
    static Kept* const kept = new Kept;
    return *kept;
}

} // namespace

Floats allocate_image(size_t count) {
    const size_t bytes = whole(count * sizeof(float), page);
    Kept::Image image = kept_images().take(bytes);
    if (!image.memory) image.memory = pages(bytes);
    float* const first = image.memory.get();
    return Floats(first, [image](float*) mutable { kept_images().give(std::move(image)); });
}

void release_images() {
    kept_images().clear();
}

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

#ifdef __SANITIZE_ADDRESS__
constexpr bool together = false; // so that what is written past an end is seen
#else
constexpr bool together = true;
#endif

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

} // namespace ninefold
