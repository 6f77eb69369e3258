// What Python passes: addresses of dense float32 arrays, and shapes.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "layers.h"

namespace ninefold {

inline const float* read(uintptr_t address) {
    return reinterpret_cast<const float*>(address);
}
inline float* written(uintptr_t address) {
    return reinterpret_cast<float*>(address);
}

inline Image image(uintptr_t x, int64_t n, int64_t h, int64_t w, int64_t c) {
    // To Halide a null image is a question about sizes: it would answer, and compute nothing.
    if (!x) throw std::invalid_argument("`x` must be the address of an array, got null");
    return {read(x), n, h, w, c};
}

using Sizes = std::tuple<int64_t, int64_t, int64_t, int64_t>; // batch, height, width, channels
using Addresses = std::vector<uintptr_t>;

} // namespace ninefold
