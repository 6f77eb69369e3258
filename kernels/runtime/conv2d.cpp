// The loops around the standard convolution's kernels: groups, rows, panels, columns.
#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "buffer.h"
#include "cover.h"
#include "errors.h"
#include "layers.h"
#include "parallel.h"
#include "transpose.h"

namespace ninefold {

namespace {

// Reads a number of each cache line: so many loads wait for memory at once, where a kernel waits for the next
// few. A network's first convolution, on an image that no cache has, took 304 µs, with this 274, and
// MobileNetV3, V4 and MnasNet 0.99 of their time.
void fetch(const float* first, int64_t count) {
    for (int64_t i = 0; i < count; i += 16)
        (void)*static_cast<const volatile float*>(first + i);
}

// Heights of tiles for so many columns, tallest first, in the least time. The last may begin before the one
// ahead of it ends, as far as there is `room`: 13 columns, which an even filter leaves of 14, are two of
// seven and not one of twelve and four.
template <class Tiles>
std::vector<int64_t> heights(int64_t columns, int64_t room, const Tiles& tiles) {
    const int64_t tallest = tiles.front().pixels, whole = std::max<int64_t>(0, columns / tallest - 3);
    const int64_t rest = std::max<int64_t>(0, columns - whole * tallest);
    std::vector<int64_t> least(rest + 1, std::numeric_limits<int64_t>::max()), last(rest + 1, 0);
    least[0] = 0;
    for (int64_t n = 1; n <= rest; n++)
        for (const auto& tile : tiles) {
            // A tile of fewer than four waits for its own sums.
            const int64_t h = tile.pixels, before = least[std::max<int64_t>(0, n - h)];
            const int64_t time = 8 * std::max<int64_t>(h, 4) + 1 + before;
            if (h <= room && time < least[n]) least[n] = time, last[n] = h;
        }
    std::vector<int64_t> found(whole, tallest);
    for (int64_t n = rest; n > 0; n -= last[n])
        found.push_back(last[n]);
    std::sort(found.rbegin(), found.rend());
    return found;
}

} // namespace

Conv2d::Conv2d(Filters weight, const float* bias, int64_t in_channels, int64_t out_channels, int groups,
               Window window, const std::string& activation, int threads, bool winograd, int64_t once)
    : kernels_(current()), in_channels_(in_channels), out_channels_(out_channels), groups_(groups),
      window_(window), activation_(kernels_, activation) {
    if (window.kernel_h == 1 && window.kernel_w == 1 && groups == 1) {
        pointwise_.emplace(weight.data, bias, in_channels, out_channels, activation, threads);
        return;
    }
    if (winograd && groups == 1 && !weight.channels_last &&
        Winograd::takes(window, in_channels, out_channels))
        winograd_.emplace(weight.data, bias, in_channels, out_channels, window, activation, threads);
    const int64_t inputs = in_channels / groups, outputs = out_channels / groups;
    const int64_t kh = window.kernel_h, kw = window.kernel_w, taps = kh * kw * inputs;
    const bool one_run = groups == 1 && window.dilation_w == 1;
    run_ = one_run ? kw * inputs : inputs;
    steps_ = one_run ? 1 : kw;
    hop_ = window.dilation_w * in_channels;
    // Packed as a whole, weights that no cache holds are written and read once more each: 320→320, 5×5 at
    // 7×7, took 4.7 ms, so 3.6. A panel and the images shall stay in the second cache.
    const int64_t number = int64_t(sizeof(float)), cache = second_level_cache();
    const bool by_panels =
        once > 0 && once * number <= cache / 4 && taps * out_channels > 65536 && groups == 1;
    const auto panels = by_panels ? cover(kernels_.conv2d, outputs, cache * 5 / 8 / (taps * number))
                                  : cover(kernels_.conv2d, outputs);
    int64_t padded = 0;
    for (int64_t g = 0; g < groups; g++)
        for (int64_t p = 0, first = 0; p < int64_t(panels.size()); first += panels[p++]->width) {
            const int64_t valid = std::min<int64_t>(panels[p]->width, outputs - first);
            blocks_.push_back({panels[p], g, g * outputs + first, valid, padded * taps, padded});
            padded += panels[p]->width;
        }
    bias_ = allocate_weights(padded);
    for (const Block& block : blocks_)
        for (int64_t d = 0; d < block.panel->width; d++)
            bias_[block.bias + d] = bias && d < block.valid ? bias[block.first + d] : 0.0f;
    if (by_panels) {
        unpacked_ = weight;
        return;
    }
    weight_ = allocate_weights(padded * taps);
    parallel_for(padded * taps > 32768 ? threads : 1, blocks_.size(),
                 [&](int64_t b) { pack(weight, blocks_[b], weight_.get() + blocks_[b].weight, 0, 1); });
}

// One of `parts` shares of a panel's weights: PyTorch's order of taps is (m, t), or with the channels last
// the kernel's, (t, m).
void Conv2d::pack(Filters weight, const Block& block, float* to, int64_t part, int64_t parts) const {
    const int64_t width = block.panel->width, taps = run_ * steps_ * window_.kernel_h;
    const int64_t places = int64_t(window_.kernel_h) * window_.kernel_w, inputs = in_channels_ / groups_;
    const Range m{part * inputs / parts, (part + 1) * inputs / parts};
    const float* const own = weight.data + block.first * taps;
    if (weight.channels_last) {
        const Range share{m.first * places, m.last * places};
        if (block.valid < width) std::fill_n(to + share.first * width, share.size() * width, 0.0f);
        float* next = to + share.first * width;
        transpose_to([=]() mutable { return std::exchange(next, next + width); }, own + share.first,
                     block.valid, share.size(), taps);
        return;
    }
    if (block.valid < width)
        for (int64_t t = 0; t < places; t++)
            std::fill_n(to + (t * inputs + m.first) * width, m.size() * width, 0.0f);
    const int64_t apart = inputs * width, turn = width - places * apart;
    float *next = to + m.first * width, *const end = to + taps * width;
    transpose_to(
        [=]() mutable {
            float* const row = next;
            if ((next += apart) >= end) next += turn;
            return row;
        },
        own + m.first * places, block.valid, m.size() * places, taps);
}

// The rows of the image that the output rows y read, as far as there are any.
Range Conv2d::seen(const Image& image, Padding padding, Range y) const {
    const int64_t reach = int64_t(window_.dilation_h) * (window_.kernel_h - 1) + 1;
    const int64_t above = y.first * window_.stride_h - padding.top;
    const int64_t below = (y.last - 1) * window_.stride_h - padding.top + reach;
    return {std::clamp<int64_t>(above, 0, image.height), std::clamp<int64_t>(below, 0, image.height)};
}

// What the output columns x of the rows y read, with zeros where that is beside the image: tiles of several
// columns then serve at the border too. One column at a time, the three that 12 leave of 111, and the one at
// the border, were a tenth of a network's first layer.
Conv2d::Plane Conv2d::strip(const Image& image, int64_t n, Padding padding, Range x, Range y,
                            float* memory) const {
    const Range rows = seen(image, padding, y);
    const int64_t first = x.first * window_.stride_w - padding.left;
    const int64_t wide =
        (x.size() - 1) * window_.stride_w + int64_t(window_.dilation_w) * (window_.kernel_w - 1) + 1;
    // The image's columns within the strip: none where the padding is wider than the strip.
    const Range inside{std::clamp<int64_t>(-first, 0, wide),
                       std::clamp<int64_t>(image.width - first, 0, wide)};
    const int64_t c = image.channels;
    float* to = memory;
    for (int64_t row = rows.first; row < rows.last; row++, to += wide * c) {
        std::fill_n(to, inside.first * c, 0.0f);
        std::copy_n(image.row(n, row) + (first + inside.first) * c, inside.size() * c, to + inside.first * c);
        std::fill(to + inside.last * c, to + wide * c, 0.0f);
    }
    // A band whose taps all lie above or below the image sees a row of zeros: a kernel refuses none.
    if (rows.size() == 0) std::fill_n(memory, wide * c, 0.0f);
    return {memory, std::max<int64_t>(1, rows.size()), wide * c, int32_t(x.first * window_.stride_w * c),
            int32_t(padding.top + rows.first)};
}

// How many columns at the left and at the right border to compute from strips: whole tiles of one height, the
// one for which the fewest columns are computed in all. 0 where there is no border, or none fits.
std::pair<int64_t, int64_t> Conv2d::borders(int64_t width, Range inner) const {
    const auto& tiles = blocks_.front().panel->tiles;
    const int64_t wide = std::max(inner.first, width - inner.last);
    std::pair<int64_t, int64_t> best{0, 0};
    int64_t fewest = std::numeric_limits<int64_t>::max();
    if (wide == 0) return best;
    for (const auto& tile : tiles) {
        const int64_t t = tile.pixels, l = inner.first > 0 ? t : 0,
                      r = inner.last < width && l < width ? t : 0;
        if (t == 1 || t < wide || t > width) continue;
        int64_t rest = std::max<int64_t>(0, width - l - r), computed = l + r + rest;
        for (const auto& other : tiles)
            if (other.pixels > 1) rest %= other.pixels;
        if (rest > 0) computed += tiles[tiles.size() - 2].pixels - rest; // computed once more
        if (computed < fewest) {
            fewest = computed;
            best = {l, r};
        }
    }
    return best;
}

void Conv2d::in_tiles(const Image& image, int64_t n, Padding padding, Range y, Range panels,
                      const float* packed, float* out) const {
    const int64_t inputs = in_channels_ / groups_, count = y.size(), kh = window_.kernel_h;
    const int64_t width = window_.output_width(image.width, padding), taps = run_ * steps_ * kh;
    const Range inner = window_.inner_columns(image.width, padding);
    const Plane whole{image.row(n, 0), image.height, image.width * image.channels,
                      int32_t(padding.left * in_channels_), padding.top};
    const auto [l, r] = borders(width, inner);
    const Range left{0, l}, right{width - r, width};
    const int64_t rows_seen = (count - 1) * window_.stride_h + int64_t(window_.dilation_h) * (kh - 1) + 1;
    const auto room = [&](int64_t columns) {
        return rows_seen * image.channels *
               ((columns - 1) * window_.stride_w + int64_t(window_.dilation_w) * (window_.kernel_w - 1) + 1);
    };
    const Range read = seen(image, padding, y);
    const int64_t fetched = read.size() * image.width * image.channels;
    if (fetched * int64_t(sizeof(float)) <= second_level_cache() / 4)
        fetch(image.row(n, read.first), fetched);
    const Scratch beside_left(l ? room(l) : 0), beside_right(r ? room(r) : 0);
    const Plane at_left = l ? strip(image, n, padding, left, y, beside_left) : whole;
    const Plane at_right = r ? strip(image, n, padding, right, y, beside_right) : whole;
    const Range some{std::max(l, inner.first), std::min(r ? right.first : width, inner.last)};
    const std::vector<int64_t> in_some = heights(some.size(), some.last - inner.first,
                                                 blocks_.front().panel->tiles); // the same for each panel
    for (int64_t b = panels.first; b < panels.last; b++) {
        const Block& block = blocks_[b];
        const int64_t panel = block.panel->width;
        Buffer weight(packed ? packed : weight_.get() + block.weight, {{0, panel, 1},
                                                                       {0, run_, panel},
                                                                       {0, steps_, panel * run_},
                                                                       {0, kh, panel * run_ * steps_},
                                                                       {0, 1, panel * taps}});
        Buffer bias(bias_.get() + block.bias, {{0, panel, 1}});
        // A panel that reaches past the group's channels goes to scratch, its real channels from there to
        // the output.
        const bool fits = block.valid == panel;
        const Scratch padded(fits ? 0 : count * width * panel);
        float* tile = fits ? out + block.first : padded;
        const int64_t stride = fits ? out_channels_ : panel;
        const auto columns = [&](const Plane& plane, const Tile<Conv2dKernel>& kernel, Range x) {
            if (x.size() <= 0) return;
            const int64_t skipped = block.group * inputs;
            Buffer source(plane.data + skipped,
                          {{0, plane.line - skipped, 1}, {0, plane.height, plane.line}});
            Buffer crop(tile + x.first * stride,
                        {{0, panel, 1}, {x.first, x.size(), stride}, {y.first, count, width * stride}});
            check(kernel.run(source, weight, bias, int32_t(window_.stride_w * in_channels_), plane.left,
                             int32_t(hop_), window_.stride_h, plane.top, window_.dilation_h, activation_.low,
                             activation_.high, crop));
        };
        const auto& tiles = block.panel->tiles;
        const auto find = [&](int64_t pixels) -> const Tile<Conv2dKernel>& {
            return *std::find_if(tiles.begin(), tiles.end(),
                                 [&](const auto& t) { return t.pixels == pixels; });
        };
        if (l) columns(at_left, find(l), left);
        columns(whole, tiles.back(), {l, inner.first});
        int64_t x = some.first;
        for (size_t t = 0; t < in_some.size() && x < some.last;) {
            const int64_t h = in_some[t], fitting = (some.last - x) / h;
            int64_t n = 0; // of this height, and as many as do not overlap in one call
            while (t < in_some.size() && in_some[t] == h)
                t++, n++;
            const int64_t until = x + std::min(n, fitting) * h;
            columns(whole, find(h), {x, until});
            if (n > fitting && until < some.last) columns(whole, find(h), {some.last - h, some.last});
            x = n > fitting ? some.last : until;
        }
        columns(whole, tiles.back(), {x, r ? right.first : width});
        if (r) columns(at_right, find(r), right);
        if (!fits)
            for (int64_t p = 0; p < count * width; p++)
                std::memcpy(out + block.first + p * out_channels_, tile + p * panel,
                            block.valid * sizeof(float));
    }
    const Block &first = blocks_[panels.first], &last = blocks_[panels.last - 1];
    activation_.apply(out + first.first, last.first + last.valid - first.first, count * width, out_channels_);
}

// A window of one pixel, at a stride: the pixels that it comes to are laid side by side, zeros for those
// beside the image, and combined like any others. In tiles of neighbouring columns xception41's four such
// layers reached 57 to 85 % of the peak.
void Conv2d::sampled(const Image& image, int64_t n, Padding padding, Range y, float* out) const {
    const int64_t width = window_.output_width(image.width, padding), apart = spread(in_channels_);
    const Scratch pixels(y.size() * width * apart);
    float* to = pixels;
    for (int64_t v = y.first; v < y.last; v++)
        for (int64_t u = 0; u < width; u++, to += apart) {
            const int64_t row = v * window_.stride_h - padding.top,
                          column = u * window_.stride_w - padding.left;
            if (row >= 0 && row < image.height && column >= 0 && column < image.width)
                std::copy_n(image.row(n, row) + column * image.stride, in_channels_, to);
            else
                std::fill_n(to, in_channels_, 0.0f);
        }
    pointwise_->panels(pixels, apart, y.size() * width, nullptr, {out, out_channels_}, 0,
                       pointwise_->panel_count());
}

void Conv2d::rows(const Image& image, int64_t n, Padding padding, Range y, float* out) const {
    if (pointwise_)
        sampled(image, n, padding, y, out);
    else
        in_tiles(image, n, padding, y, {0, int64_t(blocks_.size())}, nullptr, out);
}

// Each thread its own panels, but those that are left for fewer than all threads, which they share: 96
// channels have three panels of 32.
void Conv2d::panel_by_panel(const Image& image, Padding padding, float* out, int threads) const {
    const int64_t height = window_.output_height(image.height, padding),
                  size = height * window_.output_width(image.width, padding) * out_channels_;
    const int64_t count = int64_t(blocks_.size()), alone = count / threads * threads;
    const int64_t taps = run_ * steps_ * window_.kernel_h;
    parallel_for(threads, alone, [&](int64_t b) {
        const Block& block = blocks_[b];
        const Scratch packed(taps * block.panel->width);
        pack(unpacked_, block, packed, 0, 1);
        for (int64_t n = 0; n < image.batch; n++)
            in_tiles(image, n, padding, {0, height}, {b, b + 1}, packed, out + n * size);
    });
    for (int64_t b = alone; b < count; b++) {
        const Block& block = blocks_[b];
        const Scratch room(taps * block.panel->width);
        float* const packed = room;
        parallel_for(threads, threads, [&](int64_t part) { pack(unpacked_, block, packed, part, threads); });
        const int64_t bands = even_parts(image.batch, height, height, threads);
        parallel_for(threads, image.batch * bands, [&](int64_t task) {
            const int64_t n = task / bands, band = task % bands;
            const Range y{band * height / bands, (band + 1) * height / bands};
            in_tiles(image, n, padding, y, {b, b + 1}, packed, out + n * size + y.first * (size / height));
        });
    }
}

void Conv2d::run(const Image& image, Padding padding, float* out, int threads) const {
    const int64_t height = window_.output_height(image.height, padding),
                  width = window_.output_width(image.width, padding);
    if (winograd_ && winograd_->pays(height, width)) {
        winograd_->run(image, padding, out, threads);
        return;
    }
    if (unpacked_.data) {
        panel_by_panel(image, padding, out, threads);
        return;
    }
    // A band that stays in the cache: of the result, or of what is laid side by side for it.
    const int64_t numbers = width * (pointwise_ ? in_channels_ : out_channels_);
    const int64_t bands = even_parts(image.batch, height, std::max<int64_t>(1, 65536 / numbers), threads);
    parallel_for(threads, image.batch * bands, [&](int64_t task) {
        const int64_t n = task / bands, band = task % bands;
        const Range y{band * height / bands, (band + 1) * height / bands};
        rows(image, n, padding, y, out + (n * height + y.first) * width * out_channels_);
    });
}

} // namespace ninefold
