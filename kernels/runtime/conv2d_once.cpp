// A standard convolution whose weights are met once: for few pixels they are not packed at all.
#include <algorithm>
#include <vector>

#include "layers.h"
#include "parallel.h"
#include "transpose.h"

namespace ninefold {

namespace {

// The taps of a window that see the image from some pixel of the result at all: of a 5×5 filter at one pixel,
// one. By its row and column, and its place among all.
struct Tap {
    int64_t row, column, place;
};

std::vector<Tap> seeing(const Window& window, const Image& image, Padding padding) {
    const auto sees = [](int64_t at, int64_t outputs, int64_t stride, int64_t size) {
        for (int64_t i = 0; i < outputs; i++)
            if (at + i * stride >= 0 && at + i * stride < size) return true;
        return false;
    };
    const int64_t height = window.output_height(image.height, padding),
                  width = window.output_width(image.width, padding);
    std::vector<Tap> taps;
    for (int64_t t = 0; t < int64_t(window.kernel_h) * window.kernel_w; t++) {
        const int64_t row = t / window.kernel_w * window.dilation_h - padding.top,
                      column = t % window.kernel_w * window.dilation_w - padding.left;
        if (sees(row, height, window.stride_h, image.height) &&
            sees(column, width, window.stride_w, image.width))
            taps.push_back({row, column, t});
    }
    return taps;
}

// What these taps of each pixel see of the image, as panels of pixels, zeros beside the image and for pixels
// that only fill the last panel: (channel, tap) by pixel, or as the weights are (tap, channel).
void gather(const Pointwise& products, const Window& window, const std::vector<Tap>& taps, const Image& image,
            Padding padding, int64_t pixels, bool channels_last, float* columns, int threads) {
    const int64_t height = window.output_height(image.height, padding),
                  width = window.output_width(image.width, padding);
    const int64_t count = int64_t(taps.size()), channels = image.channels;
    const std::vector<float> nothing(channels, 0.0f);
    parallel_for(threads, count, [&](int64_t t) {
        const auto seen = [&](int64_t p) -> const float* {
            if (p >= pixels) return nothing.data();
            const int64_t y = p / width % height * window.stride_h + taps[t].row,
                          x = p % width * window.stride_w + taps[t].column;
            const bool inside = y >= 0 && y < image.height && x >= 0 && x < image.width;
            return inside ? image.row(p / width / height, y) + x * image.stride : nothing.data();
        };
        float* panel = columns;
        int64_t first = 0;
        for (int b = 0; b < products.panel_count(); b++) {
            const int64_t lanes = products.panel_width(b);
            const int64_t apart = (channels_last ? 1 : count) * lanes; // from channel to channel
            for (int64_t p = 0; p < lanes; p += 4) {
                const float* const from[4] = {seen(first + p), seen(first + p + 1), seen(first + p + 2),
                                              seen(first + p + 3)};
                float* to = panel + t * (channels_last ? channels : 1) * lanes + p;
                int64_t c = 0;
                for (; c + 4 <= channels; c += 4, to += 4 * apart) {
                    const float* const here[4] = {from[0] + c, from[1] + c, from[2] + c, from[3] + c};
                    float* const four[4] = {to, to + apart, to + 2 * apart, to + 3 * apart};
                    transpose_four(here, four);
                }
                for (; c < channels; c++, to += apart)
                    for (int k = 0; k < 4; k++)
                        to[k] = from[k][c];
            }
            panel += channels * count * lanes;
            first += lanes;
        }
    });
}

// The weights of these taps alone, of `count` filters of so many channels, of which each has `all` taps.
void take(Filters filters, int64_t count, int64_t channels, int64_t all, const std::vector<Tap>& taps,
          float* to) {
    const float* from = filters.data;
    if (filters.channels_last) {
        for (int64_t i = 0; i < count; i++, from += all * channels)
            for (const Tap& tap : taps)
                to = std::copy_n(from + tap.place * channels, channels, to);
        return;
    }
    for (int64_t i = 0; i < count * channels; i++, from += all)
        for (const Tap& tap : taps)
            *to++ = from[tap.place];
}

// So many pixels as whole panels.
int64_t in_panels(const Kernels& kernels, int64_t pixels) {
    int64_t narrow = kernels.pointwise.front().width;
    for (const PointwisePanel& panel : kernels.pointwise)
        narrow = std::min<int64_t>(narrow, panel.width);
    return (pixels + narrow - 1) / narrow * narrow;
}

// The product the other way round: the weights, read where they lie, are the many rows, and what the few
// pixels see is packed. One thread, 960→960, 3×3 at stride 2 on 7×7: 2.7 ms, with the weights packed as a
// whole 9.2, panel by panel 6.8; PyTorch's 7.1.
void by_pixels(Filters weight, const float* bias, int64_t outputs, const Window& window,
               const Activation& activation, const Kernels& kernels, const Image& image, Padding padding,
               float* out, int threads) {
    const int64_t all = int64_t(window.kernel_h) * window.kernel_w, channels = image.channels;
    const int64_t pixels =
        image.batch * window.output_height(image.height, padding) * window.output_width(image.width, padding);
    std::vector<Tap> taps = seeing(window, image, padding);
    // To take some of the weights costs as much as half of the products. One is left where none sees
    // anything.
    const bool some = 2 * int64_t(taps.size()) <= all;
    if (some && taps.empty()) taps.push_back({image.height, 0, 0});
    if (!some) {
        taps.clear();
        for (int64_t t = 0; t < all; t++)
            taps.push_back({t / window.kernel_w * window.dilation_h - padding.top,
                            t % window.kernel_w * window.dilation_w - padding.left, t});
    }
    const int64_t depth = channels * int64_t(taps.size()), lanes = in_panels(kernels, pixels);
    const Pointwise products(depth, lanes);
    const Scratch columns(lanes * depth), sums(outputs * lanes);
    float *const packed = columns, *const made = sums;
    gather(products, window, taps, image, padding, pixels, weight.channels_last, packed, threads);
    const int64_t tile = 12, tiles = (outputs + tile - 1) / tile, parts = std::min<int64_t>(threads, tiles);
    parallel_for(threads, parts, [&](int64_t part) {
        const Range n{part * tiles / parts * tile, std::min((part + 1) * tiles / parts * tile, outputs)};
        const float* rows = weight.data + n.first * channels * all;
        const Scratch taken(some ? n.size() * depth : 0);
        if (some) {
            take({rows, weight.channels_last}, n.size(), channels, all, taps, taken);
            rows = taken;
        }
        products.panels(rows, depth, n.size(), nullptr, {made + n.first * lanes, lanes}, 0,
                        products.panel_count(), packed);
        transpose(made + n.first * lanes, n.size(), pixels, lanes, out + n.first, outputs);
        for (int64_t p = 0; p < pixels; p++)
            for (int64_t i = n.first; i < n.last; i++) {
                float& value = out[p * outputs + i];
                value += bias ? bias[i] : 0.0f;
                // NaN stays, as in the kernels.
                value = activation.low > value ? activation.low : value;
                value = activation.high < value ? activation.high : value;
            }
        activation.apply(out + n.first, n.size(), pixels, outputs);
    });
}

// Whether that is to be expected to be faster. In multiplications of one weight: to pack it takes some 14, as
// does a number that the pixels see; rows of taps beside the image are left out only the usual way.
bool pays(const Kernels& kernels, const Window& window, const Image& image, Padding padding,
          int64_t outputs) {
    const int64_t height = window.output_height(image.height, padding);
    const int64_t pixels = image.batch * height * window.output_width(image.width, padding);
    if (pixels > outputs || outputs * image.channels * window.kernel_h * window.kernel_w < 32768)
        return false;
    int64_t inside = 0;
    for (int64_t y = 0; y < height; y++)
        for (int64_t v = 0; v < window.kernel_h; v++) {
            const int64_t row = y * window.stride_h + v * window.dilation_h - padding.top;
            inside += row >= 0 && row < image.height;
        }
    const double met = double(inside) / double(height * window.kernel_h), packing = 14;
    return double(in_panels(kernels, pixels)) * (1 + packing / double(outputs)) <
           double(pixels) * met + packing;
}

} // namespace

void convolve(Filters weight, const float* bias, int64_t out_channels, int groups, const Window& window,
              const std::string& activation, const Image& image, Padding padding, float* out, int threads) {
    const Kernels& kernels = current();
    if (groups == 1 && pays(kernels, window, image, padding, out_channels)) {
        by_pixels(weight, bias, out_channels, window, Activation(kernels, activation), kernels, image,
                  padding, out, threads);
        return;
    }
    const int64_t numbers = image.batch * image.height * image.width * image.channels;
    const Conv2d layer(weight, bias, image.channels, out_channels, groups, window, activation, threads, false,
                       numbers);
    layer.run(image, padding, out, threads);
}

} // namespace ninefold
