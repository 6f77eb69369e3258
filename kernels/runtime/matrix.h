// The product that sums a convolution's weights' gradient over the pixels of a band.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "buffer.h"
#include "errors.h"
#include "layers.h"

namespace ninefold {

// The gradient of one tap's weights, (inputs, outputs): the matrix of one thread, padded to whole tiles.
// Across it go the inputs, or the outputs, whichever pads less. With AVX-512 that is a quarter less for
// 24→144 and 32→16: with all that is read made anew, 7.7 → 7.0 ms (56², batch 16) and 5.5 → 4.7 (112²).
//
// It lies in strips as wide as a tile, one behind the other, so that the kernels pass it as it lies. A matrix
// that outgrows the second-level cache comes and goes once a band, and row by row, 3 KB apart, nothing
// fetched it ahead.
class Matrix {
public:
    Matrix(int64_t inputs, int64_t outputs) : kernels_(current()), inputs_(inputs) {
        narrowest_ = &kernels_.matrices.front();
        widest_ = &kernels_.matrices.back();
        turned_ = across(outputs) * down(inputs) < across(inputs) * down(outputs);
        down_ = turned_ ? inputs : outputs;
        width_ = across(turned_ ? outputs : inputs);
        wide_ = width_ / widest_->width * widest_->width;
        rows_ = down(down_);
    }

    // What the kernels read of a pixel, its padding included: of the image and of the output's gradient.
    int64_t image_numbers() const { return turned_ ? rows_ : width_; }
    int64_t gradient_numbers() const { return turned_ ? width_ : rows_; }
    int64_t size() const { return rows_ * width_; }

    // Over `count` pixels that lie so far apart, into `out`: added to what is there, or instead of it.
    void sum(const float* image, int64_t image_apart, const float* gradient, int64_t gradient_apart,
             int64_t count, bool adds, float* out) const {
        if (turned_) {
            std::swap(image, gradient);
            std::swap(image_apart, gradient_apart);
        }
        for (int64_t first = 0; first < width_;) {
            const MatrixTiles& tiles = tiles_at(first);
            Buffer source(image + first, {{0, tiles.width, 1}, {0, count, image_apart}});
            strip(tiles, source, gradient, gradient_apart, count, adds, out + first * rows_);
            first += tiles.width;
        }
    }

    // Where in the matrix the gradient of a weight stands.
    int64_t place(int64_t input, int64_t output) const {
        const int64_t across = turned_ ? output : input, down = turned_ ? input : output;
        const int64_t width = tiles_at(across).width,
                      within = (across < wide_ ? across : across - wide_) % width;
        return (across - within) * rows_ + down * width + within;
    }
    // The weights of some outputs, (outputs, inputs), from the first of them on: written to `out`, or added.
    // Strip by strip, for that is how they lie.
    void weights(const float* matrix, Range outputs, bool adds, float* out) const {
        const auto move = [&](const float* from, int64_t apart, int64_t count, float* to) {
            for (int64_t k = 0; k < count; k++)
                to[k] = (adds ? to[k] : 0.0f) + from[k * apart];
        };
        if (turned_) {
            for (int64_t n = outputs.first; n < outputs.last; n++)
                move(matrix + place(0, n), tiles_at(n).width, inputs_, out + (n - outputs.first) * inputs_);
            return;
        }
        for (int64_t m = 0; m < inputs_; m += tiles_at(m).width)
            for (int64_t n = outputs.first; n < outputs.last; n++)
                move(matrix + place(m, n), 1, std::min<int64_t>(tiles_at(m).width, inputs_ - m),
                     out + (n - outputs.first) * inputs_ + m);
    }

    // About how many steps the kernels' innermost loops make for so many pixels.
    int64_t steps(int64_t count) const {
        return count * (rows_ / widest_->tiles.front().rows) * std::max<int64_t>(1, width_ / widest_->width);
    }

private:
    static int64_t padded(int64_t count, int64_t multiple) {
        return (count + multiple - 1) / multiple * multiple;
    }
    int64_t across(int64_t channels) const { return padded(channels, narrowest_->width); }
    int64_t down(int64_t channels) const {
        int64_t most = 0;
        for (const MatrixTiles& tiles : kernels_.matrices)
            most = std::max(most, padded(channels, tiles.tiles.back().rows));
        return most;
    }
    const MatrixTiles& tiles_at(int64_t across) const { return across < wide_ ? *widest_ : *narrowest_; }

    void strip(const MatrixTiles& tiles, Buffer& source, const float* gradient, int64_t gradient_apart,
               int64_t count, bool adds, float* out) const {
        // One row of zeros for all rows: nothing is cleared first, and nothing of that is read again.
        static const float zeros[64] = {};
        int64_t row = 0;
        for (const MatrixTile& tile : tiles.tiles) {
            // The last tile reaches past what there is, where the matrix has room.
            const bool last = &tile == &tiles.tiles.back();
            const int64_t left = down_ - row;
            const int64_t down = last ? padded(left, tile.rows) : left / tile.rows * tile.rows;
            if (down <= 0) continue;
            const int64_t width = tiles.width;
            Buffer arrived(gradient + row, {{0, down, 1}, {0, count, gradient_apart}});
            Buffer before(adds ? out + row * width : zeros, {{0, width, 1}, {0, down, adds ? width : 0}});
            Buffer after(out + row * width, {{0, width, 1}, {0, down, width}});
            check(tile.run(source, arrived, before, after));
            row += down;
        }
    }

    const Kernels& kernels_;
    int64_t inputs_;
    const MatrixTiles *narrowest_, *widest_;
    int64_t down_;         // rows that are wanted
    int64_t width_, rows_; // the padded sides
    int64_t wide_;         // how far the widest strips go
    bool turned_;          // the inputs go down
};

} // namespace ninefold
