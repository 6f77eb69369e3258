// Depthwise, then pointwise, with the filtered image in the cache between them.
//
// The fusion is done here, by calling two Halide kernels on one band of rows, and not inside one Halide
// pipeline: the same kernels then serve every pair of kernel size, activation and instruction set, and the
// way threads share the work is chosen at run time. Measured against the one-pipeline schedule in
// benchmarks/results.
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <vector>

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

namespace {

// Where an image's bands begin and end, in pixels: bands of whole rows, `most` at the most, but between two
// threads where a whole row is more than a hundredth of a share. Both filter that row then. Of xception41's
// 19 rows two threads had 9 and 10: its middle layers take 0.956 of their time, the network 0.97 to 0.98.
std::vector<int64_t> bands(int64_t images, int64_t height, int64_t width, int64_t most, int threads) {
    const int64_t parts = images % threads == 0 ? 1 : std::min<int64_t>(threads, height);
    const int64_t pixels = height * width, tile = 12; // a whole number of every instruction set's tiles
    const auto begin = [&](int64_t part) {
        const int64_t exact = part * pixels / parts, row = (exact + width / 2) / width * width;
        const bool whole = std::abs(exact - row) * parts * 100 <= pixels || pixels < 4 * tile * parts;
        return whole ? row : exact / tile * tile;
    };
    std::vector<int64_t> edges;
    for (int64_t part = 0; part < parts; part++) {
        const int64_t first = begin(part), size = begin(part + 1) - first;
        const int64_t count = (size + most * width - 1) / (most * width);
        for (int64_t b = 0; b < count; b++) {
            const int64_t edge = b == 0 ? first : (first + b * size / count) / width * width;
            if (edges.empty() || edge > edges.back()) edges.push_back(edge);
        }
    }
    edges.push_back(pixels);
    return edges;
}

} // namespace

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

    // A band takes half the cache, the rest is for its input and a panel of weights. Where the weights are
    // few, so that reading them once more for each band costs nothing, its input and its output twice (what
    // was just written, and what is asked for) have room beside it, too: MobileNetV1 on two threads took 0.97
    // of its time beside busy neighbours, 0.995 without; with many weights Xception-41 took 1.01. While a
    // band is combined, the rows that the next one filters, and the memory it writes, come into the cache:
    // 128→128 at 150×150 took 7.2 instead of 8.2 ms, xception41 0.978 of its time; images that stay in the
    // third cache gain nothing.
    const int64_t cache = second_level_cache(), floats = cache / int64_t(sizeof(float));
    const int64_t around = window.stride_h * image.width * image.channels + 2 * width * outputs;
    const bool few = pointwise_.weight_bytes() <= cache / 4;
    const int64_t most =
        std::clamp<int64_t>(few ? floats * 4 / 5 / (line + around) : floats / 2 / line, 1, height);
    const std::vector<int64_t> edges = bands(image.batch, height, width, most, threads);
    const int64_t tasks = int64_t(edges.size()) - 1;
    const int64_t reach = int64_t(window.dilation_h) * (window.kernel_h - 1) + 1;
    const auto end = [&](int64_t y) { // of the image's rows that the output's rows before y read
        return std::clamp<int64_t>((y - 1) * window.stride_h - padding.top + reach, 0, image.height);
    };
    parallel_for(threads, image.batch * tasks, [&](int64_t task) {
        const int64_t n = task / tasks, band = task % tasks;
        const int64_t from = edges[band], to = edges[band + 1], pixels = to - from;
        const int64_t y0 = from / width, y1 = (to + width - 1) / width;
        const Scratch filtered((y1 - y0) * line);
        depthwise_.rows(image, n, padding, y0, y1, 0, hidden, filtered, apart);
        const int64_t first = (n * height * width + from) * outputs;
        const int64_t next = band + 1 < tasks ? edges[band + 2] : to;
        const Range rows{end(y1), end((next + width - 1) / width)};
        const Ahead ahead({image.row(n, rows.first), rows.size() * image.width * image.stride},
                          {out + first + pixels * outputs, (next - to) * outputs}, pointwise_.steps(pixels));
        pointwise_.panels(filtered + (from - y0 * width) * apart, apart, pixels,
                          residual ? residual + first : nullptr, {out + first, outputs}, 0, count);
    });
}

} // namespace ninefold
