// Depthwise with fewer channels than a vector has lanes, and with a multiplier: a row of pixels as a row of
// numbers.
#include <algorithm>
#include <limits>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "buffer.h"
#include "errors.h"
#include "layers.h"

namespace ninefold {

namespace {

// How a row lies with its padding around it: pixels whose columns are equal modulo the stride side by side,
// one such part behind the other. A tap's numbers for neighbouring results are then neighbours at any stride.
struct Layout {
    int64_t channels, stride;
    int64_t wide; // pixels of a part
    int64_t numbers() const { return stride * wide * channels; }
    int64_t place(int64_t column) const { return (column % stride * wide + column / stride) * channels; }
};

// Lays `width` pixels, `apart` from one to the next, with `left` of zeros before them and zeros behind.
// copy(from, to) copies a pixel.
template <class Copy>
void lay(const Layout& layout, const float* row, int64_t width, int64_t apart, int64_t left, bool dense,
         Copy&& copy, float* to) {
    for (int64_t p = 0; p < layout.stride; p++, to += layout.wide * layout.channels) {
        // This part's pixels [first, last) are the image's columns p + stride · i - left.
        const auto part = [&](int64_t column) {
            return std::clamp<int64_t>((column + left - p + layout.stride - 1) / layout.stride, 0,
                                       layout.wide);
        };
        const int64_t first = left < p ? 0 : part(0), last = left + width < p ? 0 : part(width);
        float* const end = to + layout.wide * layout.channels;
        float* next = std::fill_n(to, first * layout.channels, 0.0f);
        const float* from = row + (p + layout.stride * first - left) * apart;
        if (dense && first < last)
            next = std::copy_n(from, (last - first) * layout.channels, next);
        else
            for (int64_t i = first; i < last; i++, from += layout.stride * apart, next += layout.channels)
                copy(from, next);
        std::fill(next, end, 0.0f);
    }
}

} // namespace

void Depthwise::flat(const Source& image, const Window& window, Padding padding, Range rows, int64_t width,
                     Range channels, Target out) const {
    const int64_t count = channels.size(), lanes = kernels_.lanes, numbers = width * count;
    const int64_t taps = int64_t(window.kernel_h) * window.kernel_w;
    const int64_t above = rows.first * window.stride_h - padding.top;
    const int64_t tall =
        (rows.size() - 1) * window.stride_h + int64_t(window.dilation_h) * (window.kernel_h - 1) + 1;
    const int64_t reach_w = int64_t(window.dilation_w) * (window.kernel_w - 1);
    const Layout layout{count, window.stride_w, width + reach_w / window.stride_w};

    const bool dense = window.stride_w == 1 && multiplier_ == 1 && image.stride == count;
    const bool as_it_is = dense && numbers >= lanes && padding.left == 0 && width + reach_w <= image.width &&
                          above >= 0 && above + tall <= image.height;
    const int64_t line = as_it_is ? image.line : layout.numbers() + lanes;
    const Scratch padded(as_it_is ? 0 : tall * line);
    const auto lay_rows = [&](const auto& copy) {
        for (int64_t row = 0; row < tall; row++) {
            bool read = false; // by a tap: not every row is, where the stride is the larger
            for (int64_t i = 0; i < window.kernel_h && i * window.dilation_h <= row; i++)
                read = read || (row - i * window.dilation_h) % window.stride_h == 0;
            const int64_t y = above + row;
            float* const to = padded + row * line;
            if (read && y >= 0 && y < image.height)
                lay(layout, image.data + y * image.line, image.width, image.stride, padding.left, dense, copy,
                    to);
            else if (read)
                std::fill_n(to, layout.numbers(), 0.0f);
            std::fill_n(to + layout.numbers(), lanes, 0.0f); // a vector may begin at the row's last number
        }
    };
    const auto copy_some = [&](auto known) { // three numbers by a loop of any length take four times as long
        constexpr int64_t few = decltype(known)::value;
        lay_rows([count](const float* from, float* to) { std::copy_n(from, few ? few : count, to); });
    };
    if (as_it_is) {
        // nothing to lay
    } else if (multiplier_ > 1) {
        const int64_t skipped = channels.first % multiplier_;
        lay_rows([&](const float* from, float* to) {
            int64_t left = multiplier_ - skipped; // copies of this channel
            for (float* const end = to + count; to < end; left = multiplier_)
                to = std::fill_n(to, std::min<int64_t>(left, end - to), *from++);
        });
    } else if (count == 1) {
        copy_some(std::integral_constant<int, 1>());
    } else if (count == 2) {
        copy_some(std::integral_constant<int, 2>());
    } else if (count == 3) {
        copy_some(std::integral_constant<int, 3>());
    } else {
        copy_some(std::integral_constant<int, 0>());
    }

    const float* const from = as_it_is ? image.data + above * image.line : padded;
    const int64_t reach = (window.kernel_h - 1) * int64_t(window.dilation_h) * line + layout.numbers();
    if (reach + numbers + lanes > std::numeric_limits<int32_t>::max())
        throw std::length_error("an image of more than 2^31 - 1 numbers is too large for the kernels");
    std::vector<int32_t> offsets;
    for (int64_t i = 0; i < window.kernel_h; i++)
        for (int64_t j = 0; j < window.kernel_w; j++)
            offsets.push_back(int32_t(i * window.dilation_h * line + layout.place(j * window.dilation_w)));
    const int64_t filters = count + lanes;
    const Scratch repeated(filters * (taps + 1));
    for (int64_t t = 0; t <= taps; t++) {
        const float* const own = t < taps ? weight_.get() + t * out_channels() : bias_.get();
        for (int64_t c = 0; c < filters; c++)
            repeated[t * filters + c] = own[channels.first + c % count];
    }
    // Rows of fewer numbers than a vector has, and pixels that do not touch, are made in scratch.
    const bool direct = out.stride == count && numbers >= lanes;
    const int64_t made_line = std::max(numbers, lanes);
    const Scratch made(direct ? 0 : rows.size() * made_line);
    float* const to = direct ? out.data : made;
    const int64_t to_line = direct ? out.line : made_line;
    Buffer weight(repeated, {{0, filters, 1}, {0, taps, filters}});
    Buffer bias(repeated + taps * filters, {{0, filters, 1}});
    Buffer places(offsets.data(), {{0, taps, 1}});
    const auto run = [&](int64_t first, int64_t vectors) {
        Buffer source(from + first,
                      {{0, vectors * lanes + reach, 1}, {0, rows.size(), window.stride_h * line}});
        Buffer target(to + first, {{0, lanes, 1}, {0, vectors, lanes}, {0, rows.size(), to_line}});
        check(kernels_.depthwise_flat(source, weight, bias, places, int32_t(count), int32_t(first % count),
                                      int32_t(reach), activation_.low, activation_.high, target));
    };
    run(0, made_line / lanes);
    if (made_line % lanes != 0) run(made_line - lanes, 1);
    if (direct) return;
    for (int64_t y = 0; y < rows.size(); y++)
        for (int64_t x = 0; x < width; x++)
            std::copy_n(made + y * made_line + x * count, count, out.data + y * out.line + x * out.stride);
}

} // namespace ninefold
