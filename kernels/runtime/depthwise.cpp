// The loops around the depthwise kernels: which kernel filters which columns.
#include <algorithm>

#include "buffer.h"
#include "errors.h"
#include "layers.h"
#include "parallel.h"
#include "transpose.h"

namespace ninefold {

namespace {

// The output positions whose taps, `reach` apart from first to last, all lie in [0, size).
Range inside(int64_t size, int64_t outputs, int before, int stride, int64_t reach) {
    const int64_t first = std::min<int64_t>((before + stride - 1) / stride, outputs),
                  room = size - 1 + before - reach;
    return {first, std::clamp<int64_t>(room < 0 ? 0 : room / stride + 1, first, outputs)};
}

} // namespace

Range Window::inner_columns(int64_t width, Padding p) const {
    return inside(width, output_width(width, p), p.left, stride_w, int64_t(dilation_w) * (kernel_w - 1));
}

Range Window::inner_rows(int64_t height, Padding p) const {
    return inside(height, output_height(height, p), p.top, stride_h, int64_t(dilation_h) * (kernel_h - 1));
}

Depthwise::Depthwise(const float* weight, const float* bias, int64_t channels, int multiplier, Window window,
                     const std::string& activation)
    : kernels_(current_for(channels * multiplier)), channels_(channels), multiplier_(multiplier),
      window_(window), activation_(kernels_, activation) {
    const int64_t outputs = out_channels(), taps = int64_t(window.kernel_h) * window.kernel_w;
    weight_ = allocate_weights(outputs * taps);
    bias_ = allocate_weights(outputs);
    transpose(weight, outputs, taps, taps, weight_.get(), outputs);
    for (int64_t c = 0; c < outputs; c++)
        bias_[c] = bias ? bias[c] : 0.0f;
    const bool plain =
        multiplier == 1 && window.dilation_h == 1 && window.dilation_w == 1 && channels >= kernels_.lanes;
    if (!plain || window.kernel_h != window.kernel_w || window.stride_h != window.stride_w) return;
    for (const DepthwiseSized& kernels : kernels_.depthwise_sized)
        if (kernels.size == window.kernel_h && kernels.stride == window.stride_h) sized_ = &kernels;
}

void Depthwise::rows(const Image& image, int64_t n, Padding padding, int64_t y0, int64_t y1, int64_t c0,
                     int64_t c1, float* out, int64_t out_stride) const {
    const int64_t width = window_.output_width(image.width, padding);
    const Plane plane{image.row(n, 0) + c0 / multiplier_, image.height, image.width, image.stride};
    filter(plane, padding, {y0, y1}, width, {c0, c1}, out, out_stride);
}

void Depthwise::filter(const Plane& plane, Padding padding, Range rows, int64_t width, Range channels,
                       float* out, int64_t out_stride) const {
    const int64_t outputs = out_channels(), count = channels.size();
    const int kw = window_.kernel_w, kh = window_.kernel_h;
    const Activation& a = activation_;
    Buffer source(plane.data, {{0, (count + multiplier_ - 1) / multiplier_, 1},
                               {0, plane.width, plane.stride},
                               {0, plane.height, plane.width * plane.stride}});
    Buffer weight(weight_.get() + channels.first, {{0, count, 1}, {0, kw, outputs}, {0, kh, kw * outputs}});
    Buffer bias(bias_.get() + channels.first, {{0, count, 1}});

    const auto crop = [&](Range x, Range y) {
        float* first = out + ((y.first - rows.first) * width + x.first) * out_stride;
        return Buffer(
            first, {{0, count, 1}, {x.first, x.size(), out_stride}, {y.first, y.size(), width * out_stride}});
    };
    const auto sized = [&](DepthwiseSizedKernel* kernel, Range x, Range y) {
        if (x.size() <= 0) return;
        Buffer target = crop(x, y);
        check(kernel(source, weight, bias, padding.left, padding.top, a.low, a.high, target));
    };
    const auto anywhere = [&](Range x, Range y) {
        if (x.size() <= 0) return;
        DepthwiseAnywhereKernel* kernel = count < kernels_.lanes             ? kernels_.depthwise_scalar
                                          : multiplier_ > 1                  ? kernels_.depthwise_multiplied
                                          : count >= kernels_.depthwise_wide ? kernels_.depthwise_wide_kernel
                                                                             : kernels_.depthwise_narrow;
        Buffer target = crop(x, y);
        check(kernel(source, weight, bias, window_.stride_w, window_.stride_h, window_.dilation_w,
                     window_.dilation_h, padding.left, padding.top, multiplier_, a.low, a.high, target));
    };

    const Range columns = window_.inner_columns(plane.width, padding),
                every = window_.inner_rows(plane.height, padding);
    if (!sized_ || count < kernels_.lanes || width < sized_->border_columns ||
        rows.size() < sized_->border_rows) {
        anywhere({0, width}, rows);
    } else {
        // The border in whole tiles of its kernel; at the sides, where it is a column or two of many, one
        // pixel at a time: 3×3 at 28×28 lost 7 % to tiles of 7.
        const int64_t tall = sized_->border_rows, least = sized_->border_columns;
        const bool slim = 4 * (width - columns.size()) <= width && (sized_->size == 3 || sized_->stride == 2);
        Range x = columns, y{std::clamp(every.first, rows.first, rows.last),
                             std::clamp(every.last, rows.first, rows.last)};
        if (!slim && x.first > 0) x.first = std::max(x.first, least);
        if (!slim && x.last < width) x.last = std::min(x.last, width - least);
        if (x.size() < kernels_.depthwise_columns || y.size() < kernels_.depthwise_rows) {
            sized(sized_->border, {0, width}, rows);
        } else {
            if (y.first > rows.first)
                sized(sized_->border, {0, width}, {rows.first, std::max(y.first, rows.first + tall)});
            if (y.last < rows.last)
                sized(sized_->border, {0, width}, {std::min(y.last, rows.last - tall), rows.last});
            for (const Range side : {Range{0, x.first}, Range{x.last, width}})
                slim ? anywhere(side, y) : sized(sized_->border, side, y);
            // Whole tiles of the wide kernel, as images of 28 columns have, or hardly any channels.
            const int64_t wide = kernels_.depthwise_wide_columns;
            const bool suits = sized_->wide && x.size() >= wide &&
                               (x.size() <= 2 * wide ? x.size() % wide == 0 : count <= 3 * kernels_.lanes);
            sized(suits ? sized_->wide : sized_->inner, x, y);
        }
    }
    activation_.apply(out, count, rows.size() * width, out_stride);
}

void Depthwise::run(const Image& image, Padding padding, Result out, int threads) const {
    const int64_t height = window_.output_height(image.height, padding);
    const int64_t width = window_.output_width(image.width, padding), line = width * out_channels();
    // Few enough rows that an activation's second look at them comes from the cache.
    const int64_t bands = even_parts(image.batch, height, std::max<int64_t>(2, 65536 / line), threads);
    parallel_for(threads, image.batch * bands, [&](int64_t task) {
        const int64_t n = task / bands, band = task % bands;
        const int64_t y0 = band * height / bands, y1 = (band + 1) * height / bands;
        rows(image, n, padding, y0, y1, 0, out_channels(), out.data + (n * height + y0) * width * out.stride,
             out.stride);
    });
}

} // namespace ninefold
