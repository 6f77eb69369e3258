// A window on memory, as a Halide kernel takes it.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <stdexcept>

#include "HalideRuntime.h"

namespace ninefold {

struct Extent {
    int64_t min, extent, stride;
};

// `first` points at the element whose coordinates are all the mins.
class Buffer {
public:
    Buffer(const float* first, std::initializer_list<Extent> shape)
        : Buffer(first, {halide_type_float, 32}, shape) {}
    Buffer(const int32_t* first, std::initializer_list<Extent> shape)
        : Buffer(first, {halide_type_int, 32}, shape) {}

    operator halide_buffer_t*() {
        raw_.dim = dims_.data(); // here, so that a copy points at its own
        return &raw_;
    }

private:
    Buffer(const void* first, halide_type_t type, std::initializer_list<Extent> shape) {
        int k = 0;
        for (const Extent& d : shape)
            dims_[k++] = halide_dimension_t(fit(d.min), fit(d.extent), fit(d.stride));
        raw_.host = static_cast<uint8_t*>(const_cast<void*>(first));
        raw_.type = type;
        raw_.dimensions = k;
    }

    static int32_t fit(int64_t number) {
        if (number < 0 || number > std::numeric_limits<int32_t>::max())
            throw std::length_error("an image of more than 2^31 - 1 numbers is too large for the kernels");
        return int32_t(number);
    }

    std::array<halide_dimension_t, 5> dims_{};
    halide_buffer_t raw_{};
};

} // namespace ninefold
