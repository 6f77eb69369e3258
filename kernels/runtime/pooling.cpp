// The operations of a plan that take many pixels together: means, and the largest and the average of windows.
#include <algorithm>
#include <stdexcept>

#include "buffer.h"
#include "errors.h"
#include "parallel.h"
#include "plan.h"

namespace ninefold {

namespace {

// Pixels that lie c numbers apart, some channels of them, each sum times share.
void sum(const Kernels& kernels, const float* first, int64_t pixels, int64_t c, int64_t channels, float share,
         float* sums) {
    if (channels >= kernels.lanes) {
        Buffer in(first, {{0, channels, 1}, {0, pixels, c}}), out(sums, {{0, channels, 1}});
        check(kernels.mean(in, share, out));
        return;
    }
    std::fill_n(sums, channels, 0.0f);
    for (int64_t p = 0; p < pixels; p++)
        for (int64_t k = 0; k < channels; k++)
            sums[k] += first[p * c + k] * share;
}

class MeanStep : public Operation {
public:
    Shape shape(const std::vector<Shape>& x) const override { return {x[0].batch, 1, 1, x[0].channels}; }
    void run(const std::vector<Image>& x, const Shape& shape, Result out, int threads) const override {
        const Kernels& kernels = current();
        const int64_t c = shape.channels, pixels = x[0].height * x[0].width;
        const float share = 1.0f / float(pixels);
        // A single large image is shared by its channels, some vectors to each thread.
        const int64_t vectors = c / (2 * kernels.lanes);
        const int64_t each =
            shape.batch >= threads || pixels * c < 32768 ? 1 : std::clamp<int64_t>(vectors, 1, threads);
        parallel_for(threads, shape.batch * each, [&](int64_t task) {
            const int64_t n = task / each, first = task % each * c / each / kernels.lanes * kernels.lanes;
            const int64_t last =
                task % each + 1 == each ? c : (task % each + 1) * c / each / kernels.lanes * kernels.lanes;
            sum(kernels, x[0].data + n * pixels * c + first, pixels, c, last - first, share,
                out.data + n * c + first);
        });
    }
    bool averages() const override { return true; }
};

class PoolStep : public Operation {
public:
    PoolStep(bool largest, Window window, Padding padding, bool ceil, bool count_padding, int64_t divisor)
        : largest_(largest), ceil_(ceil), count_padding_(count_padding), window_(window), padding_(padding),
          divisor_(divisor) {}

    Shape shape(const std::vector<Shape>& x) const override {
        const Shape out{x[0].batch,
                        size(x[0].height, window_.kernel_h, window_.stride_h, window_.dilation_h,
                             padding_.top, padding_.bottom),
                        size(x[0].width, window_.kernel_w, window_.stride_w, window_.dilation_w,
                             padding_.left, padding_.right),
                        x[0].channels};
        if (out.height < 1 || out.width < 1) throw std::invalid_argument("a pooling window has no output");
        return out;
    }

    void run(const std::vector<Image>& x, const Shape& shape, Result out, int threads) const override {
        const Kernels& kernels = current();
        MeanKernel* kernel = largest_ ? kernels.largest : kernels.average;
        const Image& image = x[0];
        const int64_t c = shape.channels;
        parallel_for(threads, shape.batch * shape.height, [&](int64_t line) {
            const int64_t n = line / shape.height, y = line % shape.height;
            const Taps rows = taps(y, image.height, window_.kernel_h, window_.stride_h, window_.dilation_h,
                                   padding_.top, padding_.bottom);
            for (int64_t column = 0; column < shape.width;) {
                const Taps across = columns(column, image.width);
                // Windows that lie as wholly in the image are one call.
                int64_t last = column + 1;
                while (last < shape.width && across.count == window_.kernel_w &&
                       columns(last, image.width).count == window_.kernel_w)
                    last++;
                const float* first = image.row(n, rows.first) + across.first * image.stride;
                Buffer window(first, {{0, c, 1},
                                      {0, last - column, window_.stride_w * image.stride},
                                      {0, across.count, window_.dilation_w * image.stride},
                                      {0, rows.count, window_.dilation_h * image.width * image.stride}});
                Buffer to(out.data + (line * shape.width + column) * out.stride,
                          {{0, c, 1}, {0, last - column, out.stride}});
                check(kernel(window, largest_ ? 1.0f : 1.0f / float(divisor(rows, across)), to));
                column = last;
            }
        });
    }
    bool writes_part() const override { return true; }
    bool reads_part() const override { return true; }

private:
    // The taps of one output along one axis that lie in the image, and how many lie in it or its padding.
    struct Taps {
        int64_t first, count, padded;
    };

    int64_t size(int64_t in, int kernel, int stride, int dilation, int before, int after) const {
        const int64_t free = in + before + after - int64_t(dilation) * (kernel - 1) - 1;
        if (free < 0 && !(ceil_ && free + stride > 0)) return 0;
        const int64_t out = (free + (ceil_ ? stride - 1 : 0)) / stride + 1;
        // No window may begin behind the image.
        return ceil_ && (out - 1) * stride >= in + before ? out - 1 : out;
    }
    static Taps taps(int64_t place, int64_t in, int kernel, int stride, int dilation, int before, int after) {
        const int64_t start = place * stride - before;
        const int64_t skipped = start < 0 ? (-start + dilation - 1) / dilation : 0;
        const int64_t inside = std::clamp<int64_t>((in - start + dilation - 1) / dilation, 0, kernel);
        const int64_t padded = std::min<int64_t>(kernel, in + after - start);
        return {start + skipped * dilation, std::max<int64_t>(inside - skipped, 0), padded};
    }
    Taps columns(int64_t column, int64_t width) const {
        return taps(column, width, window_.kernel_w, window_.stride_w, window_.dilation_w, padding_.left,
                    padding_.right);
    }
    int64_t divisor(const Taps& rows, const Taps& across) const {
        if (divisor_) return divisor_;
        return count_padding_ ? rows.padded * across.padded : rows.count * across.count;
    }

    const bool largest_, ceil_, count_padding_;
    const Window window_;
    const Padding padding_;
    const int64_t divisor_;
};

} // namespace

Means::Means(const Kernels& kernels, float* mean, int64_t images, int64_t height, int64_t width,
             int64_t channels)
    : kernels_(kernels), mean_(mean), images_(images), height_(height), width_(width), channels_(channels),
      sums_(mean ? images * height * channels : 0) {}

void Means::add(int64_t image, Range rows, const float* first) {
    if (!mean_) return;
    const float share = 1.0f / float(height_ * width_);
    for (int64_t y = rows.first; y < rows.last; y++)
        sum(kernels_, first + (y - rows.first) * width_ * channels_, width_, channels_, channels_, share,
            sums_ + (image * height_ + y) * channels_);
}

void Means::write() {
    if (!mean_) return;
    for (int64_t n = 0; n < images_; n++) {
        float* const mean = mean_ + n * channels_;
        const float* row = sums_ + n * height_ * channels_;
        std::copy_n(row, channels_, mean);
        for (int64_t y = 1; y < height_; y++) {
            row += channels_;
            for (int64_t k = 0; k < channels_; k++)
                mean[k] += row[k];
        }
    }
}

std::unique_ptr<Operation> mean_step() {
    return std::make_unique<MeanStep>();
}
std::unique_ptr<Operation> largest_step(Window window, Padding padding, bool ceil) {
    return std::make_unique<PoolStep>(true, window, padding, ceil, false, 0);
}
std::unique_ptr<Operation> average_step(Window window, Padding padding, bool ceil, bool count_padding,
                                        int64_t divisor) {
    return std::make_unique<PoolStep>(false, window, padding, ceil, count_padding, divisor);
}

} // namespace ninefold
