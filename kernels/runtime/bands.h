// How training shares an image: bands of rows or of pixels, each thread its own, and scratch with zeros
// around.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "layers.h"
#include "parallel.h"

namespace ninefold {

// Calls body(part, range of tasks) once on each thread: what a thread gathers, it gathers in order, so that
// the same count of threads gives the same bits.
template <class Body>
void in_parts(int threads, int64_t tasks, Body&& body) {
    const int64_t count = std::max<int64_t>(1, std::min<int64_t>(threads, tasks));
    parallel_for(int(count), count,
                 [&](int64_t part) { body(part, Range{part * tasks / count, (part + 1) * tasks / count}); });
}

// An image's pixels in tiles, of which threads get equally many, and a thread's share of them in equal bands
// of at most `step` pixels: of 1024 pixels in bands of 96 two threads had 480 and 544, and xception41's
// middle layers took 1.06 times as long.
class Tiles {
public:
    static constexpr int64_t tile = 12; // a whole number of every instruction set's micro-tiles

    Tiles(int64_t pixels, int64_t step) : pixels_(pixels), step_(step) {}
    int64_t count() const { return (pixels_ + tile - 1) / tile; }

    // Calls body(pixels of a band, pixels of the next one) for each band of a share of the tiles.
    template <class Body>
    void in_bands(Range share, Body&& body) const {
        const int64_t bands = (share.size() * tile + step_ - 1) / step_;
        const auto edge = [&](int64_t b) {
            return std::min((share.first + std::min(b, bands) * share.size() / bands) * tile, pixels_);
        };
        for (int64_t b = 0; b < bands; b++)
            body(Range{edge(b), edge(b + 1)}, Range{edge(b + 1), edge(b + 2)});
    }

private:
    int64_t pixels_, step_;
};

// Calls body(pixel, width, height) over `count` dense pixels as little rows: a kernel passes one row for some
// channels, then for the next, and a row stays in the first cache.
template <class Body>
void as_rows(int64_t first, int64_t count, int64_t channels, int64_t most, Body&& body) {
    // A multiple of the pixels that share a channel's numbers in those kernels (kernels/batchnorm.py).
    const int64_t width = std::clamp<int64_t>(4096 / channels / 4 * 4, 4, 64);
    for (int64_t done = 0; done < count;) {
        const int64_t height = std::min(count - done, most) / width;
        const int64_t wide = height ? width : count - done, tall = std::max<int64_t>(height, 1);
        body(first + done, wide, tall);
        done += wide * tall;
    }
}

// A window of image n, made by `source` (an Operand or a Gradient), zeros where it leaves the image.
template <class Source>
void fill(const Source& source, int64_t n, Range rows, Range columns, float* out, int64_t apart) {
    const Image& image = source.z();
    const int64_t line = columns.size() * apart;
    const Range y{std::clamp<int64_t>(rows.first, 0, image.height),
                  std::clamp<int64_t>(rows.last, 0, image.height)},
        x{std::clamp<int64_t>(columns.first, 0, image.width),
          std::clamp<int64_t>(columns.last, 0, image.width)};
    if (y.size() <= 0 || x.size() <= 0) {
        std::fill_n(out, rows.size() * line, 0.0f);
        return;
    }
    std::fill_n(out, (y.first - rows.first) * line, 0.0f);
    std::fill_n(out + (y.last - rows.first) * line, (rows.last - y.last) * line, 0.0f);
    float* first = out + (y.first - rows.first) * line;
    for (int64_t k = 0; k < y.size(); k++) {
        std::fill_n(first + k * line, (x.first - columns.first) * apart, 0.0f);
        std::fill_n(first + k * line + (x.last - columns.first) * apart, (columns.last - x.last) * apart,
                    0.0f);
    }
    source.make((n * image.height + y.first) * image.width + x.first, x.size(), y.size(), image.width,
                first + (x.first - columns.first) * apart, apart, line);
}

} // namespace ninefold
