// The loops around the pointwise kernels: panels of output channels, blocks of pixels.
#include <algorithm>
#include <cstring>

#include "buffer.h"
#include "cover.h"
#include "errors.h"
#include "layers.h"
#include "parallel.h"
#include "transpose.h"

namespace ninefold {

namespace {

// The first numbers of rows that lie `apart`. Where they are few, a call for each would be most of it: 3→3 at
// 112×112 took 47 µs, so 28.
void copy_rows(const float* from, int64_t apart, int64_t rows, int64_t count, Result to) {
    const auto each = [&](auto few) {
        for (int64_t p = 0; p < rows; p++)
            for (int64_t k = 0; k < few(); k++)
                to.data[p * to.stride + k] = from[p * apart + k];
    };
    if (count == 1) return each([] { return 1; });
    if (count == 2) return each([] { return 2; });
    if (count == 3) return each([] { return 3; });
    if (count == 4) return each([] { return 4; });
    for (int64_t p = 0; p < rows; p++)
        std::memcpy(to.data + p * to.stride, from + p * apart, count * sizeof(float));
}

} // namespace

Pointwise::Pointwise(const float* weight, const float* bias, int64_t in_channels, int64_t out_channels,
                     const std::string& activation, int threads, bool turned)
    : kernels_(current()), in_channels_(in_channels), out_channels_(out_channels),
      activation_(kernels_, activation) {
    divide();
    const int64_t padded = blocks_.back().bias + blocks_.back().panel->width;
    weight_ = allocate_weights(packed_);
    bias_ = allocate_weights(padded);
    parallel_for(packed_ > 32768 ? threads : 1, blocks_.size(), [&](int64_t b) {
        const Block& block = blocks_[b];
        const int width = block.panel->width;
        float* packed = weight_.get() + block.offset;
        if (block.valid < width) std::fill_n(packed, width * in_channels, 0.0f);
        if (turned)
            for (int64_t m = 0; m < in_channels; m++)
                std::copy_n(weight + m * out_channels + block.first, block.valid, packed + m * width);
        else
            transpose(weight + block.first * in_channels, block.valid, in_channels, in_channels, packed,
                      width);
        for (int d = 0; d < width; d++)
            bias_[block.bias + d] = bias && d < block.valid ? bias[block.first + d] : 0.0f;
    });
    // A panel of 8 for so few is mostly padding: of 56×56 pixels 320→1 took 265 µs more than a call, so 60,
    // 32→1 22 and 7; 112×112, 24→3 73 and 68; with four filters of 24 channels 69 and 88, with eight of 960
    // it is slower from the cache and from memory.
    if (out_channels <= 4 && in_channels >= 8 * out_channels &&
        current_for(in_channels).lanes <= in_channels && !turned) {
        rows_ = allocate_weights(out_channels * in_channels);
        std::copy_n(weight, out_channels * in_channels, rows_.get());
    }
}

Pointwise::Pointwise(int64_t in_channels, int64_t out_channels)
    : kernels_(current()), in_channels_(in_channels), out_channels_(out_channels), activation_(kernels_, "") {
    divide();
    const int64_t padded = blocks_.back().bias + blocks_.back().panel->width;
    bias_ = allocate_weights(padded);
    std::fill_n(bias_.get(), padded, 0.0f);
}

// The panels of output channels.
void Pointwise::divide() {
    int64_t first = 0, padded = 0;
    for (const PointwisePanel* panel : cover(kernels_.pointwise, out_channels_)) {
        blocks_.push_back(
            {panel, first, std::min<int64_t>(panel->width, out_channels_ - first), packed_, padded});
        first += blocks_.back().valid;
        padded += panel->width;
        packed_ += panel->width * in_channels_;
    }
}

void Pointwise::tiles(const Block& block, int count, const float* weights, const float* image,
                      int64_t image_stride, int64_t pixels, const float* residual, Result out,
                      int64_t channels) const {
    const int width = block.panel->width;
    Buffer weight(weights + block.offset,
                  {{0, width, 1}, {0, in_channels_, width}, {0, count, width * in_channels_}});
    Buffer bias(bias_.get() + block.bias, {{0, channels, 1}});
    const std::vector<int> counts = block.panel->counts(pixels);
    int64_t p = 0;
    for (size_t t = 0; t < counts.size(); t++) {
        const Tile<PointwiseKernel>& tile = block.panel->tiles[t];
        const int64_t n = int64_t(counts[t]) * tile.pixels;
        if (n == 0) continue;
        Buffer source(image + p * image_stride, {{0, in_channels_, 1}, {0, n, image_stride}});
        Buffer target(out.data + p * out.stride, {{0, channels, 1}, {0, n, out.stride}});
        // Without a residual the kernel reads none, but checks the buffer's shape: the output's own serves.
        Buffer added(residual ? residual + p * out_channels_ : out.data + p * out.stride,
                     {{0, channels, 1}, {0, n, residual ? out_channels_ : out.stride}});
        check(tile.run(source, weight, bias, added, residual != nullptr, activation_.low, activation_.high,
                       target));
        p += n;
    }
}

void Pointwise::panels(const float* image, int64_t image_stride, int64_t pixels, const float* residual,
                       Result out, int first, int last, const float* weights) const {
    if (!weights) weights = weight_.get();
    // As many panels to a call as stay in the cache while the tall tiles pass, and then the short ones.
    const int64_t cached = 128 * 1024 / int64_t(sizeof(float));
    const bool late = activation_.follows() && residual; // the activation comes between sum and residual
    for (int b = first; b < last;) {
        const Block& block = blocks_[b];
        const int width = block.panel->width;
        const bool whole = block.valid == width;
        int count = 1;
        const int64_t most = std::max<int64_t>(1, cached / (width * in_channels_));
        while (whole && count < most && b + count < last && blocks_[b + count].panel == block.panel &&
               blocks_[b + count].valid == width)
            count++;
        const int64_t channels = whole ? int64_t(width) * count : block.valid;
        const Result target{out.data + block.first, out.stride};
        const float* added = residual ? residual + block.first : nullptr;
        if (whole) {
            tiles(block, count, weights, image, image_stride, pixels, late ? nullptr : added, target,
                  channels);
        } else {
            // The padded panel goes to scratch, its real channels from there to the output.
            const Scratch tile(pixels * width);
            tiles(block, 1, weights, image, image_stride, pixels, nullptr, {tile, width}, width);
            copy_rows(tile, width, pixels, channels, target);
        }
        activation_.apply(target.data, channels, pixels, out.stride);
        if (added && (late || !whole)) {
            Buffer sum(target.data, {{0, channels, 1}, {0, pixels, out.stride}});
            Buffer same(target.data, {{0, channels, 1}, {0, pixels, out.stride}});
            Buffer other(added, {{0, channels, 1}, {0, pixels, out_channels_}});
            check(kernels_.add(same, other, sum));
        }
        b += count;
    }
}

void Pointwise::share(const float* image, int64_t image_stride, int64_t pixels, const float* residual,
                      Result out, int64_t part, int64_t parts, const float* weights) const {
    const int64_t all = packed_ / in_channels_; // channels, padded
    struct Place {
        int panel;
        int64_t pixel;
    };
    const auto place = [&](int64_t share) -> Place {
        int64_t before = share * all / parts;
        int b = 0;
        while (b < panel_count() && before >= blocks_[b].panel->width)
            before -= blocks_[b++].panel->width;
        if (before == 0) return {b, 0};
        const PointwisePanel& panel = *blocks_[b].panel;
        const std::vector<int> counts = panel.counts(pixels);
        int64_t pixel = 0, least = pixels;
        for (size_t t = 0, seen = 0; t < counts.size(); t++)
            for (int n = 0; n < counts[t]; n++) {
                seen += panel.tiles[t].pixels;
                const int64_t off = std::abs(int64_t(seen) - before * pixels / panel.width);
                if (off < least) least = off, pixel = int64_t(seen);
            }
        return pixel == pixels ? Place{b + 1, 0} : Place{b, pixel};
    };
    const auto some = [&](int64_t p, int64_t until, int first, int last) {
        if (p < until && first < last)
            panels(image + p * image_stride, image_stride, until - p,
                   residual ? residual + p * out_channels_ : nullptr, {out.data + p * out.stride, out.stride},
                   first, last, weights);
    };
    const Place from = place(part), to = place(part + 1);
    if (from.panel == to.panel) {
        some(from.pixel, to.pixel, from.panel, from.panel + 1);
        return;
    }
    if (from.pixel > 0) some(from.pixel, pixels, from.panel, from.panel + 1);
    some(0, pixels, from.panel + (from.pixel > 0), to.panel);
    some(0, to.pixel, to.panel, to.panel + 1);
}

// The packed weights times the gate. Multiplying the weights is the same as multiplying the image, and for
// most layers behind a squeeze-and-excitation they are fewer. With one thread for all of them,
// EfficientNet-B0 took 1.02 times as long on two, MobileNetV3 1.01 to 1.02; with each thread's own pixels
// multiplied, where those are fewer still, no longer than now, and results depended on the number of threads.
void Pointwise::gated(const float* gate, float* gated, int threads) const {
    parallel_for(packed_ < 4096 ? 1 : threads, blocks_.size(), [&](int64_t b) {
        const Block& block = blocks_[b];
        const int64_t width = block.panel->width;
        const float* from = weight_.get() + block.offset;
        float* to = gated + block.offset;
        for (int64_t m = 0; m < in_channels_; m++)
            for (int64_t d = m * width; d < (m + 1) * width; d++)
                to[d] = from[d] * gate[m];
    });
}

void Pointwise::few(const float* image, int64_t image_stride, int64_t pixels, Result out, int threads) const {
    const Kernels& kernels = current_for(in_channels_);
    const int64_t tile = kernels.lanes, units = (pixels + tile - 1) / tile;
    Buffer weight(rows_.get(), {{0, in_channels_, 1}, {0, out_channels_, in_channels_}});
    Buffer bias(bias_.get(), {{0, out_channels_, 1}});
    const auto tiles = [&](const float* from, int64_t stride, int64_t count, float* to, int64_t to_stride) {
        Buffer source(from, {{0, in_channels_, 1}, {0, count, stride}});
        Buffer target(to, {{0, out_channels_, 1}, {0, count, to_stride}});
        check(kernels.pointwise_few(source, weight, bias, activation_.low, activation_.high, target));
    };
    const int64_t blocks = even_parts(1, units, std::max<int64_t>(1, 65536 / in_channels_ / tile), threads);
    parallel_for(threads, blocks, [&](int64_t b) {
        const int64_t p = b * units / blocks * tile,
                      n = std::min((b + 1) * units / blocks * tile, pixels) - p;
        const float* from = image + p * image_stride;
        float* const to = out.data + p * out.stride;
        if (n >= tile) {
            tiles(from, image_stride, n, to, out.stride);
        } else { // fewer than the kernel takes
            const Scratch some(tile * in_channels_), made(tile * out_channels_);
            std::fill_n(some + n * in_channels_, (tile - n) * in_channels_, 0.0f);
            for (int64_t i = 0; i < n; i++)
                std::copy_n(from + i * image_stride, in_channels_, some + i * in_channels_);
            tiles(some, in_channels_, tile, made, out_channels_);
            copy_rows(made, out_channels_, n, out_channels_, {to, out.stride});
        }
        activation_.apply(to, out_channels_, n, out.stride);
    });
}

void Pointwise::run(const float* image, int64_t image_stride, int64_t pixels, const float* gate,
                    const float* residual, Result out, int threads) const {
    if (rows_ && !gate && !residual) return few(image, image_stride, pixels, out, threads);
    const int count = panel_count();
    const int64_t tallest = blocks_.front().panel->tiles.front().pixels;
    // Where the weights outweigh the pixels, each thread takes its own weights; else its own pixels.
    const bool by_panels =
        threads > 1 && count >= threads && (out_channels_ > pixels || pixels < 2 * threads * tallest);
    // A block of pixels stays in the second cache, and so does what becomes of it if it is looked at again.
    // With half of that for the latter EfficientNet-B0 and MobileNetV3 took 1.006 times as long, with an
    // eighth 1.02.
    const int64_t numbers = std::max(in_channels_, activation_.follows() ? out_channels_ : 0);
    const int64_t cached = std::max<int64_t>(tallest, 65536 / numbers / tallest * tallest);
    const int64_t units = (pixels + tallest - 1) / tallest; // whole tiles, but for the last
    const int64_t blocks = even_parts(1, units, cached / tallest, by_panels ? 1 : threads);
    const int64_t parts = by_panels ? threads : 1, apart = spread(in_channels_);
    // On any number of threads the same one of the two, for they round apart.
    const bool gate_weights = gate && packed_ < pixels * in_channels_, gate_image = gate && !gate_weights;
    const Scratch multiplied(gate_weights ? packed_ : 0);
    if (gate_weights) gated(gate, multiplied, threads);
    const float* weights = gate_weights ? multiplied : weight_.get();
    const bool collides = image_stride == in_channels_ && apart != in_channels_ && out_channels_ >= 64;
    parallel_for(threads, parts * blocks, [&](int64_t task) {
        const int64_t part = task / blocks, b = task % blocks;
        const int64_t p = b * units / blocks * tallest,
                      n = std::min((b + 1) * units / blocks * tallest, pixels) - p;
        const float* block = image + p * image_stride;
        int64_t stride = image_stride;
        // Pixels moved off one another's cache sets, or multiplied by the gate.
        const Scratch copy(collides || gate_image ? n * apart : 0);
        if (collides || gate_image) {
            if (gate_image) {
                Buffer from(block, {{0, in_channels_, 1}, {0, n, stride}}), by(gate, {{0, in_channels_, 1}});
                Buffer to(copy, {{0, in_channels_, 1}, {0, n, apart}});
                check(kernels_.scale(from, by, to));
            } else {
                for (int64_t i = 0; i < n; i++)
                    std::memcpy(copy + i * apart, block + i * stride, in_channels_ * sizeof(float));
            }
            block = copy;
            stride = apart;
        }
        share(block, stride, n, residual ? residual + p * out_channels_ : nullptr,
              {out.data + p * out.stride, out.stride}, part, parts, weights);
    });
}

} // namespace ninefold
