// The loops around the standard convolution's kernels: groups, rows, panels, columns.
#include <algorithm>
#include <cstring>

#include "buffer.h"
#include "errors.h"
#include "layers.h"
#include "parallel.h"

namespace ninefold {

namespace {

struct Remainder; // names the scratch of a panel that reaches past a group's last output channel

} // namespace

Conv2d::Conv2d(const float* weight, const float* bias, int64_t in_channels, int64_t out_channels, int groups,
               Window window, const std::string& activation)
    : kernels_(current()), in_channels_(in_channels), out_channels_(out_channels), groups_(groups),
      window_(window), activation_(kernels_, activation) {
    const int64_t inputs = in_channels / groups, outputs = out_channels / groups,
                  width = kernels_.conv2d_panel;
    const int64_t kh = window.kernel_h, kw = window.kernel_w;
    const bool one_run = groups == 1 && window.dilation_w == 1;
    run_ = one_run ? kw * inputs : inputs;
    steps_ = one_run ? 1 : kw;
    hop_ = window.dilation_w * in_channels;
    panels_per_group_ = (outputs + width - 1) / width;
    const int64_t taps = kh * kw * inputs;
    weight_ = allocate_weights(groups * panels_per_group_ * taps * width);
    bias_ = allocate_weights(groups * panels_per_group_ * width);
    float *packed = weight_.get(), *sums = bias_.get();
    for (int64_t g = 0; g < groups; g++)
        for (int64_t first = 0; first < panels_per_group_ * width; first += width) {
            const int64_t valid = std::min(width, outputs - first);
            const float* source = weight + (g * outputs + first) * taps;
            for (int64_t t = 0; t < kh * kw; t++)
                for (int64_t m = 0; m < inputs; m++)
                    for (int64_t d = 0; d < width; d++)
                        *packed++ = d < valid ? source[d * taps + m * kh * kw + t] : 0.0f;
            for (int64_t d = 0; d < width; d++)
                *sums++ = bias && d < valid ? bias[g * outputs + first + d] : 0.0f;
        }
}

void Conv2d::rows(const Image& image, int64_t n, Padding padding, int64_t y0, int64_t y1, float* out) const {
    const int64_t inputs = in_channels_ / groups_, outputs = out_channels_ / groups_,
                  panel = kernels_.conv2d_panel;
    const int64_t width = window_.output_width(image.width, padding), count = y1 - y0, kh = window_.kernel_h;
    const int64_t line = image.width * image.channels, taps = run_ * steps_ * kh;
    const Range inner = window_.inner_columns(image.width, padding);
    for (int64_t g = 0; g < groups_; g++) {
        Buffer source(image.row(n, 0) + g * inputs, {{0, line - g * inputs, 1}, {0, image.height, line}});
        for (int64_t b = 0; b < panels_per_group_; b++) {
            const int64_t valid = std::min(panel, outputs - b * panel), index = g * panels_per_group_ + b;
            Buffer weight(weight_.get() + index * taps * panel, {{0, panel, 1},
                                                                 {0, run_, panel},
                                                                 {0, steps_, panel * run_},
                                                                 {0, kh, panel * run_ * steps_},
                                                                 {0, 1, panel * taps}});
            Buffer bias(bias_.get() + index * panel, {{0, panel, 1}});
            // A panel that reaches past the group's channels goes to scratch, its real channels from there to
            // the output.
            float* target = out + g * outputs + b * panel;
            const bool whole = valid == panel;
            float* tile = whole ? target : scratch<Remainder>(count * width * panel);
            const int64_t stride = whole ? out_channels_ : panel;
            const auto columns = [&](const Conv2dTile& kernel, int64_t from, int64_t to) {
                if (from >= to) return;
                Buffer crop(tile + from * stride,
                            {{0, panel, 1}, {from, to - from, stride}, {y0, count, width * stride}});
                check(kernel.run(source, weight, bias, int32_t(window_.stride_w * in_channels_),
                                 int32_t(padding.left * in_channels_), int32_t(hop_), window_.stride_h,
                                 padding.top, window_.dilation_h, activation_.low, activation_.high, crop));
            };
            int64_t x = inner.first;
            for (const Conv2dTile& kernel : kernels_.conv2d) {
                if (kernel.columns == 1) break;
                const int64_t end = x + (inner.last - x) / kernel.columns * kernel.columns;
                columns(kernel, x, end);
                x = end;
            }
            columns(kernels_.conv2d.back(), 0, inner.first);
            columns(kernels_.conv2d.back(), x, width);
            if (!whole)
                for (int64_t p = 0; p < count * width; p++)
                    std::memcpy(target + p * out_channels_, tile + p * panel, valid * sizeof(float));
        }
    }
    activation_.apply(out, out_channels_, count * width, out_channels_);
}

void Conv2d::run(const Image& image, Padding padding, float* out, int threads) const {
    const int64_t height = window_.output_height(image.height, padding);
    const int64_t line = window_.output_width(image.width, padding) * out_channels_;
    const int64_t cached = std::max<int64_t>(1, 65536 / line),
                  fair = (image.batch * height + threads - 1) / threads;
    const int64_t step = std::clamp<int64_t>(std::min(cached, fair), 1, height),
                  bands = (height + step - 1) / step;
    parallel_for(threads, image.batch * bands, [&](int64_t task) {
        const int64_t n = task / bands, y0 = task % bands * step, y1 = std::min(y0 + step, height);
        rows(image, n, padding, y0, y1, out + (n * height + y0) * line);
    });
}

} // namespace ninefold
