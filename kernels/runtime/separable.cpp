// Depthwise, then pointwise, with the filtered image in the cache between them.
//
// The fusion is done here, by calling two Halide kernels on one band of rows, and not inside one Halide
// pipeline: the same kernels then serve every pair of kernel size, activation and instruction set, and the
// way threads share the work is chosen at run time. Measured against the one-pipeline schedule in
// benchmarks/results.
#include <unistd.h>

#include <algorithm>
#include <stdexcept>

#include "ahead.h"
#include "layers.h"
#include "parallel.h"

namespace ninefold {

int64_t second_level_cache() {
    static const int64_t bytes = [] {
#ifdef _SC_LEVEL2_CACHE_SIZE
        const long found = sysconf(_SC_LEVEL2_CACHE_SIZE);
        if (found > 0) return int64_t(found);
#endif
        return int64_t(512 * 1024);
    }();
    return bytes;
}

int64_t last_level_cache() {
    static const int64_t bytes = [] {
#ifdef _SC_LEVEL3_CACHE_SIZE
        // No more than one group of cores shares, whatever a virtual machine says of its host: 320 MB for 32.
        const long found = sysconf(_SC_LEVEL3_CACHE_SIZE);
        if (found > 0) return std::min<int64_t>(found, 32 << 20);
#endif
        return int64_t(16 * 1024 * 1024);
    }();
    return bytes;
}

Separable::Separable(const Depthwise& depthwise, const Pointwise& pointwise)
    : depthwise_(depthwise), pointwise_(pointwise) {
    if (depthwise.out_channels() != pointwise.in_channels())
        throw std::invalid_argument(
            "the pointwise stage must take the channels that the depthwise stage gives");
}

void Separable::run(const Image& image, Padding padding, const float* residual, float* out,
                    int threads) const {
    const Window& window = depthwise_.window();
    const int64_t height = window.output_height(image.height, padding),
                  width = window.output_width(image.width, padding);
    const int64_t hidden = depthwise_.out_channels(), outputs = pointwise_.out_channels();
    const int64_t apart = spread(hidden), line = width * apart, line_bytes = line * int64_t(sizeof(float));

    // Where the weights outweigh the filtered image, threads share the weights, not the rows: each would
    // stream them all.
    const int count = pointwise_.panel_count();
    if (threads > 1 && count >= threads && pointwise_.weight_bytes() > height * line_bytes &&
        height * line_bytes <= threads * second_level_cache() / 2) {
        const Scratch filtered(height * line);
        const int64_t lanes = 16, groups = (hidden + lanes - 1) / lanes;
        const bool by_channels = depthwise_.out_channels() == image.channels && groups >= threads;
        for (int64_t n = 0; n < image.batch; n++) {
            const int64_t parts = by_channels ? threads : std::min<int64_t>(threads, height);
            parallel_for(threads, parts, [&](int64_t part) {
                if (by_channels) {
                    const int64_t c0 = part * groups / parts * lanes,
                                  c1 = std::min((part + 1) * groups / parts * lanes, hidden);
                    depthwise_.rows(image, n, padding, 0, height, c0, c1, filtered + c0, apart);
                } else {
                    const int64_t y0 = part * height / parts, y1 = (part + 1) * height / parts;
                    depthwise_.rows(image, n, padding, y0, y1, 0, hidden, filtered + y0 * line, apart);
                }
            });
            const int64_t first = n * height * width * outputs;
            parallel_for(threads, threads, [&](int64_t part) {
                pointwise_.share(filtered, apart, height * width, residual ? residual + first : nullptr,
                                 {out + first, outputs}, part, threads);
            });
        }
        return;
    }

    // A band takes half the cache, the rest is for its input and a panel of weights. The number of bands is
    // one that the threads can share evenly. While a band is combined, the rows that the next one filters,
    // and the memory it writes, come into the cache: 128→128 at 150×150 took 7.2 instead of 8.2 ms,
    // xception41 0.978 of its time; images that stay in the third cache gain nothing.
    const int64_t most = std::clamp<int64_t>(second_level_cache() / 2 / line_bytes, 1, height);
    const int64_t bands = even_parts(image.batch, height, most, threads);
    const int64_t reach = int64_t(window.dilation_h) * (window.kernel_h - 1) + 1;
    const auto end = [&](int64_t y) { // of the image's rows that the output's rows before y read
        return std::clamp<int64_t>((y - 1) * window.stride_h - padding.top + reach, 0, image.height);
    };
    parallel_for(threads, image.batch * bands, [&](int64_t task) {
        const int64_t n = task / bands, band = task % bands;
        const int64_t y0 = band * height / bands, y1 = (band + 1) * height / bands;
        const Scratch filtered((y1 - y0) * line);
        depthwise_.rows(image, n, padding, y0, y1, 0, hidden, filtered, apart);
        const int64_t first = (n * height + y0) * width * outputs, pixels = (y1 - y0) * width;
        const int64_t next = band + 1 < bands ? (band + 2) * height / bands : y1;
        const Range rows{end(y1), end(next)};
        const Ahead ahead({image.row(n, rows.first), rows.size() * image.width * image.stride},
                          {out + first + pixels * outputs, (next - y1) * width * outputs},
                          pointwise_.steps(pixels));
        pointwise_.panels(filtered, apart, pixels, residual ? residual + first : nullptr,
                          {out + first, outputs}, 0, count);
    });
}

} // namespace ninefold
