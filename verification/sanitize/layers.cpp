// One layer of each kind, against plain loops.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>

#include "cases.h"

namespace ninefold {

namespace {

// A convolution's only run, its weights in the order that they have, or channels-last.
void once(const Convolution& c, const Picture& x, bool channels_last, float* out, int threads) {
    const int64_t inputs = x.shape.channels / c.groups, taps = c.window.kernel_h * c.window.kernel_w;
    Numbers last(channels_last ? c.weight.size() : 0);
    for (size_t i = 0; i < last.size(); i++) {
        const int64_t n = int64_t(i) / (taps * inputs), t = int64_t(i) / inputs % taps,
                      m = int64_t(i) % inputs;
        last[i] = c.weight[(n * inputs + m) * taps + t];
    }
    convolve({channels_last ? last.data() : c.weight.data(), channels_last}, c.bias.data(), c.out_channels,
             c.groups, c.window, c.activation, x.image(), c.padding, out, threads);
}

} // namespace

// One layer of each kind on one image, under the kernels in use.
int layers(Random& random, int threads, const std::string& where) {
    const Picture x =
        picture(random, random.of({1, 1, 2}), random.between(1, 17), random.between(1, 17), channels(random));
    const int64_t c = x.shape.channels, wide = channels(random);
    const Convolution standard = convolution(random, c, wide, 1, true),
                      grouped = convolution(random, c, c * 2, int(c), true), // as Conv2d: one input a group
        expand = convolution(random, c, wide, 1, false),
                      filter = convolution(random, wide, wide * random.of({1, 1, 2}), int(wide), true),
                      project = convolution(random, filter.out_channels, channels(random), 1, false);
    int done = 0;
    const auto run = [&](const char* name, const Picture& want, const std::function<void(float*)>& compute) {
        Numbers out = poisoned(want.shape.numbers());
        try {
            compute(out.data());
        } catch (const std::exception& error) {
            std::printf("FAILED %s%s: %s\n", name, where.c_str(), error.what());
            failures++;
            return;
        }
        same(out, want.data, std::string(name) + where);
        done++;
    };
    for (const Convolution* one : {&standard, &grouped})
        if (fits(x.shape, *one)) {
            const Conv2d layer({one->weight.data()}, one->bias.data(), c, one->out_channels, one->groups,
                               one->window, one->activation, threads, false);
            const Picture want = naive(x, *one);
            run("conv2d", want, [&](float* out) { layer.run(x.image(), one->padding, out, threads); });
            for (const bool last : {false, true})
                run("conv2d, once", want, [&](float* out) { once(*one, x, last, out, threads); });
        }
    // Many weights for few pixels.
    const Picture few = picture(random, random.of({1, 1, 2}), random.between(1, 6), random.between(1, 6),
                                random.of({33, 40}));
    const Convolution heavy =
        convolution(random, few.shape.channels, random.of({70, 130, 300}), 1, random.below(8) > 0);
    for (const bool last : {false, true})
        if (fits(few.shape, heavy))
            run("conv2d, few pixels", naive(few, heavy),
                [&](float* out) { once(heavy, few, last, out, threads); });
    if (fits(x.shape, standard) && Winograd::takes(standard.window, c, wide)) {
        const Winograd layer(standard.weight.data(), standard.bias.data(), c, wide, standard.window,
                             standard.activation, threads);
        const Picture want = naive(x, standard);
        run("winograd", want, [&](float* out) {
            layer.run(x.image(), standard.padding, out, threads);
            // A sixth is no float: its results are near the integers, and all of those are there.
            std::transform(out, out + want.shape.numbers(), out,
                           [](float number) { return std::nearbyint(number); });
        });
    }
    const Picture expanded = naive(x, expand);
    const Pointwise expansion = pointwise(expand, threads);
    run("pointwise", expanded, [&](float* out) {
        expansion.run(x.data.data(), c, x.shape.batch * x.shape.pixels(), nullptr, nullptr, {out, wide},
                      threads);
    });
    if (!fits(x.shape, filter)) return done;
    const Picture filtered = naive(expanded, filter);
    Picture projected = naive(filtered, project);
    const Numbers residual = random.integers(projected.shape.numbers());
    for (size_t i = 0; i < residual.size(); i++)
        projected.data[i] += residual[i];
    const Depthwise filtering = depthwise(filter);
    const Pointwise projection = pointwise(project, threads);
    run("depthwise", filtered, [&](float* out) {
        filtering.run(expanded.image(), filter.padding, {out, filter.out_channels}, threads);
    });
    const Separable separable(filtering, projection);
    run("separable", projected,
        [&](float* out) { separable.run(expanded.image(), filter.padding, residual.data(), out, threads); });
    const Inverted inverted(expansion, filtering, &projection), unprojected(expansion, filtering, nullptr);
    run("inverted", projected,
        [&](float* out) { inverted.run(x.image(), filter.padding, residual.data(), out, threads); });
    run("inverted, unprojected", filtered,
        [&](float* out) { unprojected.run(x.image(), filter.padding, nullptr, out, threads); });
    return done;
}

} // namespace ninefold
