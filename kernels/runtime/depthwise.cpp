// The loops around the depthwise kernels: which kernel filters which columns.
#include <algorithm>
#include <numeric>

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

constexpr int64_t most_slight = 144; // channels; ops/choice.py knows it, too

bool is_square(const Window& w) {
    return w.kernel_h == w.kernel_w && w.stride_h == w.stride_w && w.dilation_h == w.dilation_w;
}

// Whether a row of pixels is filtered as a row of numbers. Fewer than 8 channels are, and what has no kernel
// of its own up to 16: of 12 channels of 112×112 even filters took 1.0 to 1.9 times as long in `border` of 8
// lanes, and 3×3 to 7×7 would take 0.9 to 1.5 times as long so. What is hardly more than a copy is, too, 1×1
// of any number of channels and 2×2 of some: 17 of 112×112 took 165 and 138 µs, and take 50 and 78; 2×2 of
// 960 of 28×28 would take twice as long.
bool is_flat(int64_t outputs, const Window& w) {
    const bool square = is_square(w);
    const int stride = w.stride_h / std::gcd(w.stride_h, w.dilation_h);
    const bool sized = square && w.kernel_h % 2 == 1 && w.kernel_h > 1 && w.kernel_h <= 7 && stride <= 2;
    const bool slight = square && w.stride_h == 1 && w.dilation_h == 1 &&
                        (w.kernel_h == 1 || (w.kernel_h == 2 && outputs <= most_slight));
    return outputs < std::min(current().lanes, 8) || (outputs < 16 && !sized) || slight;
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
    : flat_(multiplier > 1 || is_flat(channels, window)), kernels_(flat_ ? current() : current_for(channels)),
      channels_(channels), multiplier_(multiplier), window_(window), activation_(kernels_, activation) {
    const int64_t outputs = out_channels(), taps = int64_t(window.kernel_h) * window.kernel_w;
    weight_ = allocate_weights(outputs * taps);
    bias_ = allocate_weights(outputs);
    transpose(weight, outputs, taps, taps, weight_.get(), outputs);
    for (int64_t c = 0; c < outputs; c++)
        bias_[c] = bias ? bias[c] : 0.0f;
    if (flat_ || channels < kernels_.lanes || !is_square(window)) return;
    const int common = std::gcd(window.stride_h, window.dilation_h);
    apart_ = window.dilation_h / common;
    for (const DepthwiseSized& kernels : kernels_.depthwise_sized)
        if (kernels.size == (window.kernel_h | 1) && kernels.stride == window.stride_h / common)
            sized_ = &kernels;
}

void Depthwise::rows(const Image& image, int64_t n, Padding padding, int64_t y0, int64_t y1, int64_t c0,
                     int64_t c1, float* out, int64_t out_stride) const {
    const int64_t width = window_.output_width(image.width, padding);
    const Plane plane{image.row(n, 0) + c0 / multiplier_, image.height, image.width, image.stride};
    filter(plane, padding, {y0, y1}, width, {c0, c1}, out, out_stride);
}

// A dilated filter sees the image as several, interleaved, and filters each without dilation: with stride s
// and dilation d, and g dividing both, the taps s·y + d·j - top of the results y = (d/g)·v + p lie d apart,
// at d·((s/g)·v + j + q) + r, where d·q + r = s·p - top. One pixel at a time, 3×3 at dilation 2 took 2.8
// times as long on 96 channels of 56×56, and twice on 728 of 19×19.
void Depthwise::filter(const Plane& plane, Padding padding, Range rows, int64_t width, Range channels,
                       float* out, int64_t out_stride) const {
    struct Part {
        Range results;                // v
        int64_t first, count, before; // of the image's rows or columns, and how many are beside it
    };
    const int64_t d = window_.dilation_h, s = window_.stride_h;
    const auto part = [&](int64_t p, Range results, int64_t size, int before) -> Part {
        const auto up = [&](int64_t y) { return (y - p + apart_ - 1) / apart_; };
        const int64_t offset = s * p - before, q = offset >= 0 ? offset / d : -((d - 1 - offset) / d);
        const int64_t first = offset - d * q + d * std::max<int64_t>(q, 0);
        return {{up(results.first), up(results.last)},
                first,
                std::max<int64_t>(0, (size - first + d - 1) / d),
                std::max<int64_t>(-q, 0)};
    };
    const int64_t line = plane.width * plane.stride, out_line = width * out_stride;
    bool whole = d == 1 || !sized_ || channels.size() < kernels_.lanes || d > plane.width ||
                 d > plane.height || width / apart_ < kernels_.depthwise_columns || rows.size() < apart_;
    for (int64_t p = 0; p < apart_ && !whole; p++)
        whole = part(p, {0, width}, plane.width, padding.left).count < 1 ||
                part(p, rows, plane.height, padding.top).count < 1;
    if (whole) {
        filter({plane.data, plane.height, plane.width, plane.stride, line}, window_, padding, rows, width,
               channels, {out, out_stride, out_line});
    } else {
        const int stride = int(s / std::gcd(s, d));
        const Window undilated{window_.kernel_h, window_.kernel_w, stride, stride, 1, 1};
        for (int64_t i = 0; i < apart_ * apart_; i++) {
            const int64_t v = i / apart_, u = i % apart_;
            const Part y = part(v, rows, plane.height, padding.top),
                       x = part(u, {0, width}, plane.width, padding.left);
            const Source source{plane.data + y.first * line + x.first * plane.stride, y.count, x.count,
                                d * plane.stride, d * line};
            const int64_t first = (y.results.first * apart_ + v - rows.first) * out_line + u * out_stride;
            // What lies behind the image follows from the sizes: no kernel asks.
            filter(source, undilated, {int(x.before), 0, int(y.before), 0}, y.results, x.results.last,
                   channels, {out + first, apart_ * out_stride, apart_ * out_line});
        }
    }
    activation_.apply(out, channels.size(), rows.size() * width, out_stride);
}

void Depthwise::filter(const Source& image, const Window& window, Padding padding, Range rows, int64_t width,
                       Range channels, Target out) const {
    if (flat_ || channels.size() < kernels_.lanes)
        return flat(image, window, padding, rows, width, channels, out);
    const int64_t outputs = out_channels(), count = channels.size();
    const int kw = window.kernel_w, kh = window.kernel_h;
    const Activation& a = activation_;
    Buffer source(image.data, {{0, count, 1}, {0, image.width, image.stride}, {0, image.height, image.line}});
    Buffer weight(weight_.get() + channels.first, {{0, count, 1}, {0, kw, outputs}, {0, kh, kw * outputs}});
    Buffer bias(bias_.get() + channels.first, {{0, count, 1}});

    const auto crop = [&](Range x, Range y) {
        float* first = out.data + (y.first - rows.first) * out.line + x.first * out.stride;
        return Buffer(first, {{0, count, 1}, {x.first, x.size(), out.stride}, {y.first, y.size(), out.line}});
    };
    const auto sized = [&](DepthwiseSizedKernel* kernel, Range x, Range y) {
        if (x.size() <= 0) return;
        Buffer target = crop(x, y);
        check(kernel(source, weight, bias, padding.left, padding.top, a.low, a.high, target));
    };
    const auto anywhere = [&](Range x, Range y) {
        if (x.size() <= 0) return;
        DepthwiseAnywhereKernel* kernel =
            count >= kernels_.depthwise_wide ? kernels_.depthwise_wide_kernel : kernels_.depthwise_narrow;
        Buffer target = crop(x, y);
        check(kernel(source, weight, bias, window.stride_w, window.stride_h, window.dilation_w,
                     window.dilation_h, padding.left, padding.top, a.low, a.high, target));
    };

    const bool dilated = window.dilation_h > 1 || window.dilation_w > 1;
    const int64_t least = kernels_.depthwise_border_columns;
    if (!sized_ || dilated || width < kernels_.depthwise_columns) {
        anywhere({0, width}, rows);
        return;
    }
    const bool even = window.kernel_h % 2 == 0; // one of `border` a row and a column larger
    if (width < least && sized_->narrow && !even && rows.size() >= kernels_.depthwise_rows) {
        sized(sized_->narrow, {0, width}, rows);
        return;
    }
    if (width < least) {
        // As many columns as a tile has, of which those that are none of the image's are dropped; one pixel
        // at a time 3×3 and 5×5 at 4×4 to 6×6 took 1.2 to 2 times as long.
        const Scratch made(rows.size() * least * count);
        Buffer target(made, {{0, count, 1}, {0, least, count}, {rows.first, rows.size(), least * count}});
        check(sized_->border(source, weight, bias, padding.left, padding.top, a.low, a.high, target));
        for (int64_t y = 0; y < rows.size(); y++)
            for (int64_t x = 0; x < width; x++)
                std::copy_n(made + (y * least + x) * count, count, out.data + y * out.line + x * out.stride);
        return;
    }
    const int64_t reach_w = window.kernel_w - 1, reach_h = window.kernel_h - 1;
    const Range columns = inside(image.width, width, padding.left, window.stride_w, reach_w),
                every = inside(image.height, rows.last, padding.top, window.stride_h, reach_h);
    // The border in whole tiles of its kernel; at the sides, where it is a column or two of many, one pixel
    // at a time: 3×3 at 28×28 lost 7 % to tiles of 7.
    const bool slim = 4 * (width - columns.size()) <= width && (sized_->size == 3 || sized_->stride == 2);
    Range x = columns,
          y{std::clamp(every.first, rows.first, rows.last), std::clamp(every.last, rows.first, rows.last)};
    if (!slim && x.first > 0) x.first = std::max(x.first, least);
    if (!slim && x.last < width) x.last = std::min(x.last, width - least);
    // With registers for more than `inner` needs, 3×3 at 14×14 takes 0.94 of the time whole, at 28×28 0.95;
    // at 32×32, whose last tile is nearly the one before, and at 56×56 it takes 1.05 to 1.08.
    const bool fits = sized_->wide && width <= 4 * least && (least - width % least) % least <= 2;
    if (even || !sized_->inner || fits || x.size() < kernels_.depthwise_columns ||
        y.size() < kernels_.depthwise_rows) {
        sized(sized_->border, {0, width}, rows);
        return;
    }
    // A row more than whole tiles have would be made twice; in `border` it is made once. Not where there may
    // be no fused multiply-add: the two kernels' sums are rounded in ways of their own then, and it would
    // show how an image was shared.
    if (kernels_.lanes > 4) y.last -= y.size() % kernels_.depthwise_rows;
    if (y.first > rows.first) sized(sized_->border, {0, width}, {rows.first, y.first});
    if (y.last < rows.last) sized(sized_->border, {0, width}, {y.last, rows.last});
    for (const Range side : {Range{0, x.first}, Range{x.last, width}})
        slim ? anywhere(side, y) : sized(sized_->border, side, y);
    const bool few = sized_->wide && x.size() >= kernels_.depthwise_wide_columns &&
                     count <= 3 * kernels_.lanes; // channels
    sized(few ? sized_->wide : sized_->inner, x, y);
}

void Depthwise::run(const Image& image, Padding padding, Result out, int threads, float* mean) const {
    const int64_t height = window_.output_height(image.height, padding);
    const int64_t width = window_.output_width(image.width, padding), line = width * out_channels();
    // Few enough rows that an activation's second look at them comes from the cache.
    const int64_t bands =
        even_parts(image.batch, height, std::max<int64_t>(2 * apart_, 65536 / line), threads);
    Means means(kernels_, mean, image.batch, height, width, out_channels());
    parallel_for(threads, image.batch * bands, [&](int64_t task) {
        const int64_t n = task / bands, band = task % bands;
        const int64_t y0 = band * height / bands, y1 = (band + 1) * height / bands;
        float* const first = out.data + (n * height + y0) * width * out.stride;
        rows(image, n, padding, y0, y1, 0, out_channels(), first, out.stride);
        means.add(n, {y0, y1}, first);
    });
    means.write();
}

} // namespace ninefold
