// Random cases, and what is right, in plain loops.
#include "cases.h"

#include <algorithm>
#include <cstdio>
#include <limits>

namespace ninefold {

int64_t failures = 0;

Numbers poisoned(int64_t count) {
    return Numbers(count, std::numeric_limits<float>::quiet_NaN());
}

Picture naive(const Picture& x, const Convolution& c) {
    const Window& w = c.window;
    const Shape s{x.shape.batch, w.output_height(x.shape.height, c.padding),
                  w.output_width(x.shape.width, c.padding), c.out_channels};
    Picture out{s, poisoned(s.numbers())};
    const int64_t inputs = c.in_channels / c.groups, outputs = c.out_channels / c.groups;
    float* to = out.data.data();
    for (int64_t n = 0; n < s.batch; n++)
        for (int64_t oy = 0; oy < s.height; oy++)
            for (int64_t ox = 0; ox < s.width; ox++)
                for (int64_t o = 0; o < c.out_channels; o++) {
                    double sum = c.bias[o];
                    for (int i = 0; i < w.kernel_h; i++)
                        for (int j = 0; j < w.kernel_w; j++) {
                            const int64_t y = oy * w.stride_h + i * w.dilation_h - c.padding.top;
                            const int64_t xx = ox * w.stride_w + j * w.dilation_w - c.padding.left;
                            if (y < 0 || y >= x.shape.height || xx < 0 || xx >= x.shape.width) continue;
                            const float* pixel =
                                &x.data[((n * x.shape.height + y) * x.shape.width + xx) * x.shape.channels];
                            const float* weight = &c.weight[o * inputs * w.kernel_h * w.kernel_w];
                            for (int64_t m = 0; m < inputs; m++)
                                sum += double(weight[(m * w.kernel_h + i) * w.kernel_w + j]) *
                                       pixel[o / outputs * inputs + m];
                        }
                    if (c.activation == "relu" || c.activation == "relu6") sum = std::max(sum, 0.0);
                    if (c.activation == "relu6") sum = std::min(sum, 6.0);
                    *to++ = float(sum);
                }
    return out;
}

Convolution convolution(Random& random, int64_t in_channels, int64_t out_channels, int groups,
                        bool windowed) {
    const int k = windowed ? int(random.of({1, 2, 3, 3, 3, 4, 5, 6, 7})) : 1,
              d = windowed ? random.of({1, 1, 1, 2}) : 1, s = windowed ? random.of({1, 1, 2, 2, 3}) : 1,
              odd = windowed ? int(random.below(2)) : 0;
    const Window window{k, k + odd, s, s, d, d};
    const auto side = [&](int kernel) { return windowed ? int(random.below((kernel - 1) * d + 4)) : 0; };
    const bool same = windowed && random.below(2);
    const int half = (k - 1) * d / 2;
    const Padding padding =
        same ? Padding{half, half, half, half} : Padding{side(k + odd), side(k + odd), side(k), side(k)};
    return {in_channels,
            out_channels,
            groups,
            window,
            padding,
            random.integers(out_channels * (in_channels / groups) * k * (k + odd)),
            random.integers(out_channels),
            random.of<std::string>({"", "relu", "relu6"})};
}

Depthwise depthwise(const Convolution& c) {
    return {c.weight.data(), c.bias.data(), c.in_channels, int(c.out_channels / c.in_channels),
            c.window,        c.activation};
}
Pointwise pointwise(const Convolution& c, int threads) {
    return {c.weight.data(), c.bias.data(), c.in_channels, c.out_channels, c.activation, threads};
}

bool fits(const Shape& x, const Convolution& c) {
    return c.window.output_height(x.height, c.padding) > 0 && c.window.output_width(x.width, c.padding) > 0;
}

void same(const Numbers& got, const Numbers& want, const std::string& what) {
    for (size_t i = 0; i < want.size(); i++)
        if (!(got[i] == want[i])) {
            std::printf("FAILED %s: number %zu of %zu is %g, not %g\n", what.c_str(), i, want.size(), got[i],
                        want[i]);
            failures++;
            return;
        }
}

int64_t channels(Random& random) {
    return random.of<int64_t>(
        {1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48, 63, 65, 72, random.between(1, 80)});
}

Picture picture(Random& random, int64_t batch, int64_t height, int64_t width, int64_t c) {
    const Shape shape{batch, height, width, c};
    return {shape, random.integers(shape.numbers())};
}

} // namespace ninefold
