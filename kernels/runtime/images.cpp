// Memory for images between two convolutions that train.
#include "memory.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <mutex>
#include <new>

namespace ninefold {

namespace {

constexpr size_t grain = 4096;              // images begin and end at pages
constexpr size_t growth = size_t(32) << 20; // whole large pages

// One range of addresses, as long as the machine's memory. An image gets the first gap that it fits into, and
// its own gap joins those beside it when it goes. Memory is there from the range's begin to an end that
// moves.
class Images {
public:
    Images() {
        // Who limits addresses has none to spare for what may never be used.
        rlimit limit;
        if (!together || getrlimit(RLIMIT_AS, &limit) || limit.rlim_cur != RLIM_INFINITY) return;
        const long count = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
        if (count <= 0 || size <= 0) return;
        const size_t bytes = whole(size_t(count) * size_t(size), growth);
        void* p =
            mmap(nullptr, bytes + growth, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) return;
        first_ = reinterpret_cast<char*>(whole(reinterpret_cast<uintptr_t>(p), growth));
        gaps_.emplace(0, bytes);
    }

    // Nullptr where there is no gap for it; throws std::bad_alloc.
    float* take(size_t bytes) {
        bytes = whole(std::max<size_t>(bytes, 1), grain);
        std::lock_guard<std::mutex> guard(lock_);
        const auto gap =
            std::find_if(gaps_.begin(), gaps_.end(), [&](const auto& g) { return g.second >= bytes; });
        if (gap == gaps_.end()) return nullptr;
        const auto [at, room] = *gap;
        if (at + bytes > end_) extend(whole(at + bytes, growth));
        used_.emplace(at, bytes);
        auto rest = gaps_.extract(gap);
        if (room > bytes) {
            rest.key() = at + bytes;
            rest.mapped() = room - bytes;
            gaps_.insert(std::move(rest));
        }
        highest_ = std::max(highest_, at + bytes);
        taken_ += bytes;
        if (taken_ > 16 * end_) forget();
        return reinterpret_cast<float*>(first_ + at);
    }

    // Allocates nothing: this runs in destructors, which must not throw.
    void give(float* image) noexcept {
        std::lock_guard<std::mutex> guard(lock_);
        auto node = used_.extract(size_t(reinterpret_cast<char*>(image) - first_));
        const auto next = gaps_.upper_bound(node.key());
        if (next != gaps_.end() && node.key() + node.mapped() == next->first) {
            node.mapped() += next->second;
            gaps_.erase(next);
        }
        const auto after = gaps_.upper_bound(node.key());
        if (after != gaps_.begin()) {
            const auto before = std::prev(after);
            if (before->first + before->second == node.key()) {
                before->second += node.mapped();
                return;
            }
        }
        gaps_.insert(std::move(node));
    }

    // What lies in gaps goes back to the system.
    void release() noexcept {
        std::lock_guard<std::mutex> guard(lock_);
        shorten(last());
        for (const auto& [at, room] : gaps_)
            if (at < end_) madvise(first_ + at, std::min(room, end_ - at), MADV_DONTNEED);
        highest_ = last(); // of those that are held: `forget` must not come below them
        taken_ = 0;
    }

private:
    // Where the last image ends.
    size_t last() const { return used_.empty() ? 0 : used_.rbegin()->first + used_.rbegin()->second; }

    void extend(size_t end) {
        if (mprotect(first_ + end_, end - end_, PROT_READ | PROT_WRITE)) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
        madvise(first_ + end_, end - end_, MADV_HUGEPAGE); // a wish; the system may not care
#endif
        end_ = end;
    }

    // Mapped anew, so that a system that counts what is promised counts it no more.
    void shorten(size_t end) {
        end = whole(end, growth);
        if (end >= end_) return;
        void* p = mmap(first_ + end, end_ - end, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        if (p != MAP_FAILED) end_ = end;
    }

    // What has not been reached for some steps of training goes back to the system.
    void forget() {
        shorten(highest_);
        highest_ = last();
        taken_ = 0;
    }

    std::mutex lock_;
    char* first_ = nullptr;
    std::map<size_t, size_t> gaps_, used_; // bytes by place
    size_t end_ = 0;
    size_t highest_ = 0, taken_ = 0; // the furthest end, and all bytes, since `forget`
};

// Never destroyed: images may outlive the extension's own end.
Images& images() {
    static Images* const all = new Images;
    return *all;
}

} // namespace

Floats allocate_image(size_t count) {
    float* const image = images().take(count * sizeof(float));
    if (!image) return allocate_kept(count);
    return Floats(image, [](float* p) { images().give(p); });
}

void release_images() {
    images().release();
}

} // namespace ninefold
