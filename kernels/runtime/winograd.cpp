// The loops around the standard convolution with fewer multiplications: tiles, their borders, the products.
#include <algorithm>
#include <cstring>

#include "buffer.h"
#include "errors.h"
#include "layers.h"
#include "parallel.h"

namespace ninefold {

namespace {

constexpr int step = 4; // input pixels from tile to tile

// G: what each product takes of the three taps, for stride 1 and for stride 2. Kept in the order of IN's
// rows.
constexpr double taps_1[6][3] = {{1 / 4.0, 0, 0},
                                 {-1 / 6.0, -1 / 6.0, -1 / 6.0},
                                 {-1 / 6.0, 1 / 6.0, -1 / 6.0},
                                 {1 / 24.0, 1 / 12.0, 1 / 6.0},
                                 {1 / 24.0, -1 / 12.0, 1 / 6.0},
                                 {0, 0, 1}};
constexpr double taps_2[5][3] = {{1, 0, 0}, {0, 1, 0}, {1, 0, 1}, {0, 0, 1}, {0, 1, 0}};

const Scheme* scheme_for(const Kernels& kernels, const Window& window) {
    if (window.kernel_h != 3 || window.kernel_w != 3 || window.dilation_h != 1 || window.dilation_w != 1 ||
        window.stride_h != window.stride_w)
        return nullptr;
    for (const Scheme& scheme : kernels.schemes)
        if (scheme.stride == window.stride_h) return &scheme;
    return nullptr;
}

// From tile to tile, in numbers: an odd count of rows of channels, for at 36 of 256 channels the tiles of one
// micro-tile would all lie on the same sets of the first cache.
int64_t apart(int64_t rows, int64_t channels) {
    return spread((rows | 1) * channels);
}

} // namespace

bool Winograd::takes(const Window& window, int64_t in_channels, int64_t out_channels) {
    const Kernels& kernels = current();
    return scheme_for(kernels, window) && std::min(in_channels, out_channels) >= kernels.lanes;
}

Winograd::Winograd(const float* weight, const float* bias, int64_t in_channels, int64_t out_channels,
                   Window window, const std::string& activation, int threads)
    : kernels_(current()), scheme_(*scheme_for(kernels_, window)), window_(window), in_channels_(in_channels),
      out_channels_(out_channels), activation_(kernels_, activation), bias_(allocate_weights(out_channels)) {
    for (int64_t d = 0; d < out_channels; d++)
        bias_[d] = bias ? bias[d] : 0.0f;
    const auto* taps = scheme_.stride == 1 ? taps_1 : taps_2;
    int64_t before = 0;
    for (int i = 0, row = 0; i < scheme_.sums(); row += scheme_.groups[i++])
        for (int j = 0, column = 0; j < scheme_.sums(); column += scheme_.groups[j++]) {
            const int rows = scheme_.groups[i], columns = scheme_.groups[j];
            const int64_t length = rows * columns * in_channels;
            const Scratch made(out_channels * length);
            float* const turned = made;
            parallel_for(threads, out_channels, [&](int64_t d) {
                float* to = turned + d * length;
                for (int a = row; a < row + rows; a++)
                    for (int b = column; b < column + columns; b++)
                        for (int64_t m = 0; m < in_channels; m++) {
                            const float* filter = weight + (d * in_channels + m) * 9;
                            double sum = 0;
                            for (int v = 0; v < 3; v++)
                                for (int u = 0; u < 3; u++)
                                    sum += taps[a][v] * taps[b][u] * filter[v * 3 + u];
                            *to++ = float(sum);
                        }
            });
            sums_.push_back({{turned, nullptr, length, out_channels, "", threads}, before});
            before += length;
            weight_bytes_ += sums_.back().products.weight_bytes();
        }
}

bool Winograd::pays(int64_t height, int64_t width) const {
    const int r = scheme_.results;
    const double tiles = double((height + r - 1) / r) * double((width + r - 1) / r),
                 pixels = double(height) * double(width), pairs = double(in_channels_ * out_channels_),
                 products = scheme_.products() * scheme_.products();
    // In multiplications, as measured: a number that is made for a product, or of one, costs about 3; a
    // weight that comes from the second cache 2, from the last 8, from memory 16; a sum for few channels
    // 9,000, its call. The direct kernels reach 93 % of the peak.
    const double far = weight_bytes_ <= second_level_cache() / 2 ? 2
                       : weight_bytes_ <= last_level_cache() / 2 ? 8
                                                                 : 16;
    const double fewer =
        products * (tiles * (pairs + 3.0 * double(in_channels_ + out_channels_)) + far * pairs) +
        9000.0 * double(sums_.size());
    return fewer < 0.9 * 9 * pairs * (pixels + far);
}

// The row of tiles that tile number t of a batch lies in, as far as `last`.
struct Winograd::Stretch {
    int64_t image, row;
    Range columns;
};

template <class Body>
void Winograd::stretches(Range tiles, int64_t down, int64_t across, Body&& body) {
    for (int64_t t = tiles.first; t < tiles.last;) {
        const int64_t column = t % across, n = std::min(across - column, tiles.last - t);
        body(Stretch{t / across / down, t / across % down, {column, column + n}}, t - tiles.first);
        t += n;
    }
}

// The factors of the products of some neighbouring tiles in one row.
void Winograd::before(const Image& image, Padding padding, const Stretch& tiles, float* out) const {
    const int64_t size = scheme_.products(), c = in_channels_, far = apart(size * size, c);
    const int64_t top = tiles.row * step - padding.top;
    const auto make = [&](const float* corner, int64_t pixel, int64_t line, Range columns) {
        const int64_t n = columns.size();
        Buffer from(corner, {{0, c, 1}, {0, (n - 1) * step + size, pixel}, {0, size, line}});
        Buffer to(out + (columns.first - tiles.columns.first) * far,
                  {{0, c, 1}, {0, size * size, c}, {0, n, far}});
        check(scheme_.before(from, to));
    };
    // Tiles that reach past the image read a copy with zeros there.
    const auto bordered = [&](Range columns) {
        if (columns.size() <= 0) return;
        const int64_t left = columns.first * step - padding.left, wide = (columns.size() - 1) * step + size;
        const Range rows{std::clamp<int64_t>(top, 0, image.height),
                         std::clamp<int64_t>(top + size, 0, image.height)},
            inside{std::clamp<int64_t>(left, 0, image.width),
                   std::clamp<int64_t>(left + wide, 0, image.width)};
        const Scratch copy(size * wide * c);
        if (rows.size() < size || inside.size() < wide)
            std::fill_n(static_cast<float*>(copy), size * wide * c, 0.0f);
        for (int64_t y = rows.first; y < rows.last; y++)
            for (int64_t x = inside.first; x < inside.last; x++)
                std::copy_n(image.row(tiles.image, y) + x * image.stride, c,
                            copy + ((y - top) * wide + x - left) * c);
        make(copy, c, wide * c, columns);
    };
    if (top < 0 || top + size > image.height) {
        bordered(tiles.columns);
        return;
    }
    const int64_t last = image.width - size + padding.left;
    const int64_t first =
        std::clamp<int64_t>((padding.left + step - 1) / step, tiles.columns.first, tiles.columns.last);
    const int64_t end = std::clamp<int64_t>(last < 0 ? 0 : last / step + 1, first, tiles.columns.last);
    bordered({tiles.columns.first, first});
    if (first < end)
        make(image.row(tiles.image, top) + (first * step - padding.left) * image.stride, image.stride,
             image.width * image.stride, {first, end});
    bordered({end, tiles.columns.last});
}

// The results of some neighbouring tiles in one row, as far as they are in the image.
void Winograd::after(const float* sums, const Stretch& tiles, int64_t height, int64_t width,
                     float* out) const {
    const int64_t r = scheme_.results, count = scheme_.sums() * scheme_.sums(), n = out_channels_;
    const int64_t far = apart(count, n);
    const int64_t rows = std::min(r, height - tiles.row * r);
    Buffer bias(bias_.get(), {{0, n, 1}});
    const auto make = [&](Range columns, float* to, int64_t line) {
        Buffer from(sums + (columns.first - tiles.columns.first) * far,
                    {{0, n, 1}, {0, count, n}, {0, columns.size(), far}});
        Buffer target(to, {{0, n, 1}, {0, r, n}, {0, r, line}, {0, columns.size(), r * n}});
        check(scheme_.after(from, bias, activation_.low, activation_.high, target));
    };
    float* const corner = out + (tiles.image * height + tiles.row * r) * width * n;
    const int64_t whole =
        rows < r ? tiles.columns.first : std::clamp(width / r, tiles.columns.first, tiles.columns.last);
    if (tiles.columns.first < whole)
        make({tiles.columns.first, whole}, corner + tiles.columns.first * r * n, width * n);
    if (whole < tiles.columns.last) {
        const int64_t line = (tiles.columns.last - whole) * r * n;
        const Scratch copy(r * line);
        make({whole, tiles.columns.last}, copy, line);
        const int64_t valid = std::min(tiles.columns.last * r, width) - whole * r;
        for (int64_t y = 0; y < rows; y++)
            std::memcpy(corner + (y * width + whole * r) * n, copy + y * line, valid * n * sizeof(float));
    }
    const int64_t first = tiles.columns.first * r, last = std::min(tiles.columns.last * r, width);
    for (int64_t y = 0; y < rows; y++)
        activation_.apply(corner + (y * width + first) * n, n, last - first, n);
}

void Winograd::run(const Image& image, Padding padding, float* out, int threads) const {
    const int64_t height = window_.output_height(image.height, padding),
                  width = window_.output_width(image.width, padding);
    const int64_t r = scheme_.results, down = (height + r - 1) / r, across = (width + r - 1) / r;
    const int64_t count = image.batch * down * across;
    const int64_t factors = apart(scheme_.products() * scheme_.products(), in_channels_),
                  sums = apart(scheme_.sums() * scheme_.sums(), out_channels_);
    const auto all_before = [&](Range tiles, float* to) {
        stretches(tiles, down, across,
                  [&](const Stretch& some, int64_t t) { before(image, padding, some, to + t * factors); });
    };
    const auto all_after = [&](Range tiles, const float* from) {
        stretches(tiles, down, across,
                  [&](const Stretch& some, int64_t t) { after(from + t * sums, some, height, width, out); });
    };
    const int64_t bytes = (factors + sums) * int64_t(sizeof(float)), tile = 12;
    const bool near = weight_bytes_ <= second_level_cache() / 2;
    const int64_t room = near ? second_level_cache() / 2 : std::min(weight_bytes_, last_level_cache() / 4);
    const int64_t units = (count + tile - 1) / tile, most = std::max<int64_t>(1, room / bytes / tile);
    const int64_t parts = even_parts(1, units, most, near ? threads : 1);
    const auto part = [&](int64_t p) {
        return Range{p * units / parts * tile, std::min((p + 1) * units / parts * tile, count)};
    };
    if (near) {
        parallel_for(threads, parts, [&](int64_t p) {
            const Range tiles = part(p);
            const Scratch factor(tiles.size() * factors), sum(tiles.size() * sums);
            all_before(tiles, factor);
            for (size_t s = 0; s < sums_.size(); s++)
                sums_[s].products.panels(factor + sums_[s].first, factors, tiles.size(), nullptr,
                                         {sum + s * out_channels_, sums}, 0, sums_[s].products.panel_count());
            all_after(tiles, sum);
        });
        return;
    }
    // Weights that come from afar are read once for many tiles, by each thread its own.
    for (int64_t p = 0; p < parts; p++) {
        const Range tiles = part(p);
        const Scratch factor(tiles.size() * factors), sum(tiles.size() * sums);
        float *const made = factor, *const summed = sum;
        const int64_t rows = std::min<int64_t>(tiles.size(), 4 * threads);
        const auto share = [&](int64_t i) {
            return Range{tiles.first + i * tiles.size() / rows, tiles.first + (i + 1) * tiles.size() / rows};
        };
        parallel_for(threads, rows, [&](int64_t i) {
            all_before(share(i), made + (share(i).first - tiles.first) * factors);
        });
        parallel_for(threads, threads, [&](int64_t i) {
            for (size_t s = 0; s < sums_.size(); s++)
                sums_[s].products.share(made + sums_[s].first, factors, tiles.size(), nullptr,
                                        {summed + s * out_channels_, sums}, i, threads);
        });
        parallel_for(threads, rows,
                     [&](int64_t i) { all_after(share(i), summed + (share(i).first - tiles.first) * sums); });
    }
}

} // namespace ninefold
