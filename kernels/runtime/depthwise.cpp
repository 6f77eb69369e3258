// The loops around the depthwise kernels: which kernel filters which columns.
#include <algorithm>

#include "buffer.h"
#include "errors.h"
#include "layers.h"
#include "parallel.h"

namespace ninefold {

void Window::inner_columns(int64_t width, int64_t output_width, int left, int64_t* first, int64_t* last) const {
  const int64_t reach = width - 1 + left - int64_t(dilation_w) * (kernel_w - 1);
  *first = std::min<int64_t>((left + stride_w - 1) / stride_w, output_width);
  *last = std::clamp<int64_t>(reach < 0 ? 0 : reach / stride_w + 1, *first, output_width);
}

Depthwise::Depthwise(const float* weight, const float* bias, int64_t channels, int multiplier, Window window,
                     const std::string& activation)
    : kernels_(current()),
      channels_(channels),
      multiplier_(multiplier),
      window_(window),
      activation_(kernels_, activation) {
  const int64_t outputs = out_channels(), taps = int64_t(window.kernel_h) * window.kernel_w;
  weight_ = allocate(outputs * taps);
  bias_ = allocate(outputs);
  for (int64_t c = 0; c < outputs; c++) {
    for (int64_t t = 0; t < taps; t++) weight_[t * outputs + c] = weight[c * taps + t];
    bias_[c] = bias ? bias[c] : 0.0f;
  }
  const bool plain = multiplier == 1 && window.dilation_h == 1 && window.dilation_w == 1 && channels >= kernels_.lanes;
  if (!plain || window.kernel_h != window.kernel_w || window.stride_h != window.stride_w) return;
  for (const DepthwiseInner& kernel : kernels_.depthwise_inner)
    if (kernel.size == window.kernel_h && kernel.stride == window.stride_h) inner_ = kernel.run;
}

void Depthwise::rows(const Image& image, int64_t n, Padding padding, int64_t y0, int64_t y1, int64_t c0, int64_t c1,
                     float* out, int64_t out_channels) const {
  const int64_t outputs = this->out_channels(), width = window_.output_width(image.width, padding);
  const int64_t channels = c1 - c0, count = y1 - y0;
  const int kw = window_.kernel_w, kh = window_.kernel_h;
  Buffer source(image.row(n, 0) + c0 / multiplier_,
                {{0, (channels + multiplier_ - 1) / multiplier_, 1},
                 {0, image.width, image.channels},
                 {0, image.height, image.width * image.channels}});
  Buffer weight(weight_.get() + c0, {{0, channels, 1}, {0, kw, outputs}, {0, kh, kw * outputs}});
  Buffer bias(bias_.get() + c0, {{0, channels, 1}});

  const auto columns = [&](int64_t first, int64_t last, bool inner) {
    if (first >= last) return;
    Buffer target(out + first * out_channels,
                  {{0, channels, 1}, {first, last - first, out_channels}, {y0, count, width * out_channels}});
    const Activation& a = activation_;
    if (inner) {
      check(inner_(source, weight, bias, padding.left, padding.top, a.low, a.high, target));
      return;
    }
    const bool vectors = channels >= kernels_.lanes, wide = channels >= kernels_.depthwise_wide;
    DepthwiseAnywhereKernel* kernel = !vectors          ? kernels_.depthwise_scalar
                                      : multiplier_ > 1 ? kernels_.depthwise_multiplied
                                      : wide            ? kernels_.depthwise_wide_kernel
                                                        : kernels_.depthwise_narrow;
    check(kernel(source, weight, bias, window_.stride_w, window_.stride_h, window_.dilation_w, window_.dilation_h,
                 padding.left, padding.top, multiplier_, a.low, a.high, target));
  };

  int64_t first = 0, last = 0;
  if (inner_ && channels >= kernels_.lanes) window_.inner_columns(image.width, width, padding.left, &first, &last);
  if (last - first < kernels_.depthwise_columns) first = last = 0;
  columns(0, first, false);
  columns(first, last, true);
  columns(last, width, false);
  activation_.apply(out, channels, count * width, out_channels);
}

void Depthwise::run(const Image& image, Padding padding, float* out, int threads) const {
  const int64_t height = window_.output_height(image.height, padding);
  const int64_t line = window_.output_width(image.width, padding) * out_channels();
  // Few enough rows that an activation's second look at them comes from the cache.
  const int64_t cached = std::max<int64_t>(1, 16384 / line), fair = (image.batch * height + threads - 1) / threads;
  const int64_t step = std::clamp<int64_t>(std::min(cached, fair), 1, height), bands = (height + step - 1) / step;
  parallel_for(threads, image.batch * bands, [&](int64_t task) {
    const int64_t n = task / bands, y0 = task % bands * step, y1 = std::min(y0 + step, height);
    rows(image, n, padding, y0, y1, 0, out_channels(), out + (n * height + y0) * line, out_channels());
  });
}

}  // namespace ninefold
