// Forward, in training: a band is normalised into scratch, convolved, and its statistics are taken while it
// is in the cache. One read of the image before and one write of the image after.
#include "ahead.h"
#include "bands.h"
#include "training.h"

namespace ninefold {

namespace {

void gather(std::vector<Moments>& found, int64_t channels, float* moments) {
    for (size_t part = 1; part < found.size(); part++)
        found[0].add(found[part]);
    found[0].write(moments, moments + channels);
}

// A convolution with a window, in bands of rows: `bare(n, y, target)` computes output rows y of image n as it
// is, `filter(plane, y, target)` so many rows of a plane that was made for them, zeros and all, its pixels
// `apart` numbers apart.
template <class Bare, class Filter>
void by_bands(const Window& window, int64_t outputs, const Operand& x, Padding padding, int64_t apart,
              float* out, float* moments, int threads, Bare&& bare, Filter&& filter) {
    const Image& image = x.z();
    const int64_t height = window.output_height(image.height, padding),
                  width = window.output_width(image.width, padding);
    const int64_t reach = int64_t(window.dilation_h) * (window.kernel_h - 1) + 1, stride = window.stride_h;
    const Range columns{-padding.left, (width - 1) * window.stride_w - padding.left +
                                           int64_t(window.dilation_w) * (window.kernel_w - 1) + 1};
    // Half the cache for the band that is read and the band that is written.
    const int64_t line = columns.size() * apart, room = second_level_cache() / 2 / int64_t(sizeof(float));
    const int64_t most =
        std::clamp<int64_t>((room - reach * line) / (stride * line + width * outputs), 2, height);
    const int64_t bands = (height + most - 1) / most;
    expect_writes(out, image.batch * height * width * outputs);
    // A product hides what fetching its output takes, a window of few taps does not.
    const bool past = outgrows_caches(image.batch * height * width * outputs);
    const Kernels& kernels = current_for(outputs);
    std::vector<Moments> found(threads, Moments(outputs));
    in_parts(threads, image.batch * bands, [&](int64_t part, Range tasks) {
        for (int64_t task = tasks.first; task < tasks.last; task++) {
            const int64_t n = task / bands, band = task % bands;
            const Range y{band * height / bands, (band + 1) * height / bands};
            const int64_t numbers = y.size() * width * outputs;
            float* const place = out + (n * height + y.first) * width * outputs;
            const Scratch made(past ? numbers : 0);
            float* const target = past ? made : place;
            if (x.plain()) {
                bare(n, y, target);
            } else {
                const int64_t top = y.first * stride - padding.top, tall = (y.size() - 1) * stride + reach;
                const Scratch read(tall * line);
                fill(x, n, {top, top + tall}, columns, read, apart);
                filter(Image{read, 1, tall, columns.size(), image.channels, apart}, Range{0, y.size()},
                       target);
            }
            if (moments) found[part].add(kernels, target, y.size() * width);
            if (past) write_past_caches(target, numbers, place);
        }
    });
    if (moments) gather(found, outputs, moments);
}

} // namespace

void train_forward(const Depthwise& layer, const Operand& x, Padding padding, float* out, float* moments,
                   int threads) {
    const int64_t outputs = layer.out_channels();
    const int64_t width = layer.window().output_width(x.z().width, padding);
    by_bands(
        layer.window(), outputs, x, padding, spread(x.z().channels), out, moments, threads,
        [&](int64_t n, Range y, float* target) {
            layer.rows(x.z(), n, padding, y.first, y.last, 0, outputs, target, outputs);
        },
        [&](const Image& made, Range y, float* target) {
            layer.filter({made.data, made.height, made.width, made.stride}, {0, 0, 0, 0}, y, width,
                         {0, outputs}, target, outputs);
        });
}

void train_forward(const Conv2d& layer, const Operand& x, Padding padding, float* out, float* moments,
                   int threads) {
    by_bands(
        layer.window(), layer.out_channels(), x, padding, x.z().channels, out, moments, threads,
        [&](int64_t n, Range y, float* target) { layer.rows(x.z(), n, padding, y, target); },
        [&](const Image& made, Range y, float* target) { layer.rows(made, 0, {0, 0, 0, 0}, y, target); });
}

void train_forward(const Pointwise& layer, const Operand& x, float* out, float* moments, int threads) {
    const int64_t inputs = layer.in_channels(), outputs = layer.out_channels(), pixels = x.pixels();
    // Half the cache for the band and what comes of it; the other for those of the next band, asked for
    // early.
    const int64_t apart = spread(inputs), room = second_level_cache() / 4 / int64_t(sizeof(float));
    const Tiles tiles(pixels, std::clamp<int64_t>(room / (apart + outputs), 96, 1536));
    expect_writes(out, pixels * outputs);
    const Kernels& kernels = current_for(outputs);
    std::vector<Moments> found(threads, Moments(outputs));
    in_parts(threads, tiles.count(), [&](int64_t part, Range share) {
        tiles.in_bands(share, [&](Range band, Range next) {
            const int64_t first = band.first, count = band.size();
            float* target = out + first * outputs;
            const float* read = x.z().data + first * inputs;
            int64_t between = inputs;
            const bool makes = !x.plain() || apart != inputs;
            const Scratch made(makes ? count * apart : 0);
            if (makes) {
                as_rows(first, count, inputs, count, [&](int64_t at, int64_t wide, int64_t tall) {
                    x.make(at, wide, tall, wide, made + (at - first) * apart, apart, wide * apart, true);
                });
                read = made;
                between = apart;
            }
            {
                const Ahead ahead({x.z().data + next.first * inputs, next.size() * inputs},
                                  {out + next.first * outputs, next.size() * outputs}, layer.steps(count));
                layer.panels(read, between, count, nullptr, {target, outputs}, 0, layer.panel_count());
            }
            if (moments) found[part].add(kernels, target, count);
        });
    });
    if (moments) gather(found, outputs, moments);
}

} // namespace ninefold
