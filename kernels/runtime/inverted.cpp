// Pointwise, depthwise, pointwise: the wide image between them is made and used up a few rows at a time.
#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "layers.h"
#include "parallel.h"

namespace ninefold {

Inverted::Inverted(const Pointwise& expansion, const Depthwise& depthwise, const Pointwise* projection)
    : expansion_(expansion), depthwise_(depthwise), projection_(projection) {
    if (projection) separable_.emplace(depthwise, *projection);
    if (expansion.out_channels() != depthwise.in_channels())
        throw std::invalid_argument("the depthwise stage must take the channels that the expansion gives");
}

void Inverted::run(const Image& image, Padding padding, const float* residual, float* out, int threads,
                   float* mean) const {
    const Window& window = depthwise_.window();
    const int64_t height = window.output_height(image.height, padding);
    const int64_t width = window.output_width(image.width, padding);
    const int64_t wide = expansion_.out_channels(), outputs = out_channels();
    const int64_t pixels = image.height * image.width;

    // A small expanded image is simpler made whole: no row of it is handled twice. The filtered one, the
    // image and the weights want room beside it, and halves of it that two threads made overflowed their
    // caches: 24→72→24 at 56×56 took 197 to 306 µs whole, 181 to 191 by rows. With a whole and not half a
    // cache for the limit, and that for each thread, networks took 1.00 to 1.015 times as long on one thread,
    // and MobileNetV2 1.05, V3 1.02, MnasNet 1.025 on two; 1152 or 672 channels at 7×7 and 14×14 by rows as
    // well, EfficientNets took 1.02.
    if (pixels * wide * int64_t(sizeof(float)) <= second_level_cache() * 9 / 16 || height < 2 * threads) {
        const Scratch expanded(pixels * wide);
        for (int64_t n = 0; n < image.batch; n++) {
            const int64_t first = n * height * width * outputs;
            expansion_.run(image.row(n, 0), image.stride, pixels, nullptr, nullptr, {expanded, wide},
                           threads);
            const Image made{expanded, 1, image.height, image.width, wide};
            if (separable_)
                separable_->run(made, padding, residual ? residual + first : nullptr, out + first, threads);
            else
                depthwise_.run(made, padding, {out + first, outputs}, threads,
                               mean ? mean + n * outputs : nullptr);
        }
        return;
    }
    Means means(expansion_.kernels(), mean, image.batch, height, width, outputs);
    parallel_for(threads, image.batch * threads, [&](int64_t task) {
        const int64_t n = task / threads, part = task % threads;
        rows(image, n, padding, {part * height / threads, (part + 1) * height / threads}, residual, out,
             means);
    });
    means.write();
}

void Inverted::rows(const Image& image, int64_t n, Padding padding, Range y, const float* residual,
                    float* out, Means& means) const {
    const Window& window = depthwise_.window();
    const int64_t height = window.output_height(image.height, padding);
    const int64_t width = window.output_width(image.width, padding);
    const int64_t wide = expansion_.out_channels(), hidden = depthwise_.out_channels();
    const int64_t outputs = out_channels(), apart = spread(hidden);
    const int64_t stride = window.stride_h, reach = int64_t(window.dilation_h) * (window.kernel_h - 1) + 1;
    const int64_t line = image.width * wide;

    // As many rows at a time as leave room in the cache for weights, in twos, which share the filter's loads:
    // MobileNetV2's 96 channels of 112×112 had room for three.
    const int64_t room = second_level_cache() / 2 / int64_t(sizeof(float));
    const int64_t most = (room - reach * line) / (stride * line + (projection_ ? width * apart : 0));
    const int64_t step = std::max<int64_t>(2, (most + 1) / 2 * 2);
    const Scratch expanded(((step - 1) * stride + reach) * line);
    const Scratch filtered(projection_ ? step * width * apart : 0);
    Range held{0, 0}; // the rows of the expanded image that `expanded` has
    for (int64_t y0 = y.first; y0 < y.last; y0 += step) {
        const int64_t count = std::min(step, y.last - y0), above = y0 * stride - padding.top;
        const Range needed{std::clamp<int64_t>(above, 0, image.height),
                           std::clamp<int64_t>(above + (count - 1) * stride + reach, 0, image.height)};
        const int64_t kept = std::max<int64_t>(0, held.last - needed.first);
        if (kept > 0)
            std::memmove(expanded, expanded + (needed.first - held.first) * line,
                         kept * line * sizeof(float));
        const int64_t fresh = needed.size() - kept;
        if (fresh > 0)
            expansion_.run(image.row(n, needed.first + kept), image.stride, fresh * image.width, nullptr,
                           nullptr, {expanded + kept * line, wide}, 1);
        held = needed;
        // The same taps, seen from the first row that is held.
        const int64_t top = needed.first - above;
        const int64_t bottom = (count - 1) * stride + reach - top - needed.size();
        const Padding around{padding.left, padding.right, int(top), int(bottom)};
        const Depthwise::Plane plane{expanded, needed.size(), image.width, wide};
        const int64_t first = (n * height + y0) * width * outputs;
        if (!projection_) {
            depthwise_.filter(plane, around, {0, count}, width, {0, hidden}, out + first, outputs);
            means.add(n, {y0, y0 + count}, out + first);
            continue;
        }
        depthwise_.filter(plane, around, {0, count}, width, {0, hidden}, filtered, apart);
        projection_->panels(filtered, apart, count * width, residual ? residual + first : nullptr,
                            {out + first, outputs}, 0, projection_->panel_count());
    }
}

} // namespace ninefold
