// What a product asks for while it multiplies.
#include "ahead.h"

#include <algorithm>

__thread NinefoldAhead ninefold_ahead = {nullptr, nullptr, 0, 0};

namespace ninefold {

namespace {

const int64_t kLine = 64; // bytes of the cache; a step asks for no more than one line of a stretch

int64_t stride(const Stretch& stretch, int64_t steps) {
    const int64_t bytes = stretch.count * int64_t(sizeof(float));
    return std::min(kLine, (bytes + steps - 1) / steps);
}

} // namespace

Ahead::Ahead(const Stretch& one, const Stretch& other, int64_t steps) {
    if (steps <= 0 || (one.count <= 0 && other.count <= 0)) return;
    // One that is empty stays with the first line of the other.
    const Stretch& first = one.count > 0 ? one : Stretch{other.first, 0};
    const Stretch& second = other.count > 0 ? other : Stretch{one.first, 0};
    ninefold_ahead = {reinterpret_cast<const char*>(first.first), reinterpret_cast<const char*>(second.first),
                      stride(first, steps), stride(second, steps)};
}

Ahead::~Ahead() {
    ninefold_ahead = {nullptr, nullptr, 0, 0};
}

} // namespace ninefold
