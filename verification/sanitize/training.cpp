// Training's passes: convolutions of operands, and their gradients, against plain loops.
//
// Operands have integers for numbers and scales, so that every sum is exact. Means and variances are not.
#include "training.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>

#include "cases.h"
#include "chain.h"

namespace ninefold {

namespace {

const int64_t kFewest = 4; // channels: a vector of the narrowest instruction set

// A raw image, its four rows of numbers (or none) and its activation.
struct Raw {
    Picture z;
    Numbers numbers;
    std::string activation;

    Raw(Random& random, Picture image) : z(std::move(image)) {
        const int64_t c = z.shape.channels;
        if (!random.below(4)) return; // as it is
        numbers = random.integers(4 * c);
        for (int64_t k = 0; k < c; k++)
            numbers[2 * c + k] = float(random.between(1, 2)); // the scale
        activation = random.of<std::string>({"", "relu", "relu6"});
    }
    Operand operand() const { return {z.image(), numbers.empty() ? nullptr : numbers.data(), activation}; }
    float around(int64_t i) const { return z.data[i] - number(0, i); }
    float before(int64_t i) const {
        return numbers.empty() ? z.data[i] : number(2, i) * around(i) + number(3, i);
    }
    Picture read() const {
        Picture made = z;
        for (size_t i = 0; i < made.data.size(); i++) {
            float value = before(int64_t(i));
            if (activation != "") value = std::max(value, 0.0f);
            if (activation == "relu6") value = std::min(value, 6.0f);
            made.data[i] = value;
        }
        return made;
    }
    bool passes(int64_t i) const {
        return activation == "" || (before(i) > 0 && (activation == "relu" || before(i) < 6));
    }

private:
    float number(int row, int64_t i) const {
        const int64_t c = z.shape.channels;
        return numbers.empty() ? 0.0f : numbers[row * c + i % c];
    }
};

// What a convolution's gradients are, one product at a time. Weights as PyTorch has them.
struct Gradients {
    Numbers weight, input;

    Gradients(const Picture& x, const Picture& dz, const Convolution& c)
        : weight(c.weight.size()), input(x.data.size()) {
        const Window& w = c.window;
        const int64_t inputs = c.in_channels / c.groups, outputs = c.out_channels / c.groups;
        const float* arrived = dz.data.data();
        for (int64_t n = 0; n < dz.shape.batch; n++)
            for (int64_t oy = 0; oy < dz.shape.height; oy++)
                for (int64_t ox = 0; ox < dz.shape.width; ox++)
                    for (int64_t o = 0; o < c.out_channels; o++, arrived++)
                        for (int i = 0; i < w.kernel_h; i++)
                            for (int j = 0; j < w.kernel_w; j++) {
                                const int64_t y = oy * w.stride_h + i * w.dilation_h - c.padding.top;
                                const int64_t u = ox * w.stride_w + j * w.dilation_w - c.padding.left;
                                if (y < 0 || y >= x.shape.height || u < 0 || u >= x.shape.width) continue;
                                for (int64_t m = 0; m < inputs; m++) {
                                    const int64_t at = ((o * inputs + m) * w.kernel_h + i) * w.kernel_w + j;
                                    const int64_t pixel = (n * x.shape.height + y) * x.shape.width + u;
                                    const int64_t from = pixel * x.shape.channels + o / outputs * inputs + m;
                                    weight[at] += *arrived * x.data[from];
                                    input[from] += *arrived * c.weight[at];
                                }
                            }
    }
};

// A convolution of one kind both ways; `c` has no bias in training.
struct Passes {
    const Convolution& c;
    const int threads;
    const std::string what;
    int done = 0;

    bool deep() const { return c.groups > 1; }
    bool flat() const {
        const Padding& p = c.padding;
        return std::max({c.window.kernel_h, c.window.kernel_w, c.window.stride_h}) == 1 &&
               std::max({p.left, p.right, p.top, p.bottom}) == 0;
    }
    // A standard convolution's kernels have no gradient of an input at a stride.
    bool both() const { return deep() || flat() || (c.window.stride_h == 1 && c.window.stride_w == 1); }
    Conv2d standard() const {
        return {{c.weight.data()}, nullptr, c.in_channels, c.out_channels, 1, c.window, "", threads, false};
    }

    void near(const Numbers& got, const Numbers& want, const char* part) {
        for (size_t k = 0; k < want.size(); k++)
            if (!(std::abs(got[k] - want[k]) <= 1e-4 * (1 + std::abs(want[k])))) {
                std::printf("FAILED %s, %s: number %zu is %g, not %g\n", what.c_str(), part, k, got[k],
                            want[k]);
                failures++;
                return;
            }
    }

    void forward(const Raw& x, const Picture& want) {
        const int64_t channels = c.out_channels;
        Numbers out = poisoned(want.shape.numbers()), moments = poisoned(2 * channels);
        if (deep())
            train_forward(depthwise(c), x.operand(), c.padding, out.data(), moments.data(), threads);
        else if (flat())
            train_forward(pointwise(c, threads), x.operand(), out.data(), moments.data(), threads);
        else
            train_forward(standard(), x.operand(), c.padding, out.data(), moments.data(), threads);
        same(out, want.data, what + ", forward");
        Numbers right(2 * channels);
        const int64_t pixels = want.shape.numbers() / channels;
        for (int64_t k = 0; k < channels; k++) {
            double sum = 0, squares = 0;
            for (int64_t p = 0; p < pixels; p++)
                sum += want.data[p * channels + k];
            for (int64_t p = 0; p < pixels; p++)
                squares += std::pow(want.data[p * channels + k] - sum / pixels, 2);
            right[k] = float(sum / pixels), right[channels + k] = float(squares / pixels);
        }
        near(moments, right, "moments");
        done++;
    }

    void backward(Random& random, const Raw& x, const Raw& after) {
        const int64_t outputs = after.z.shape.channels, inputs = x.z.shape.channels;
        const Numbers arrived = random.integers(after.z.shape.numbers());
        Numbers turn = random.integers(3 * outputs);
        Picture dz = after.z;
        for (size_t i = 0; i < arrived.size(); i++) {
            const int64_t k = int64_t(i) % outputs;
            const float passed = after.passes(int64_t(i)) ? arrived[i] : 0.0f;
            dz.data[i] = after.numbers.empty()
                             ? arrived[i]
                             : turn[k] * (passed + turn[outputs + k] * after.around(int64_t(i)) +
                                          turn[2 * outputs + k]);
        }
        const Gradient gradient(after.operand(), arrived.data(),
                                after.numbers.empty() ? nullptr : turn.data());
        const Gradients right(x.read(), dz, c);
        Numbers weight = poisoned(int64_t(c.weight.size())), input = poisoned(x.z.shape.numbers());
        std::vector<double> sums(2 * inputs, std::nan(""));
        const Wanted wanted{weight.data(), both() ? input.data() : nullptr,
                            x.numbers.empty() || !both() ? nullptr : sums.data()};
        if (deep())
            train_backward(c.weight.data(), c.window, c.padding, gradient, x.operand(), wanted, threads);
        else if (flat())
            train_backward(c.weight.data(), gradient, x.operand(), wanted, threads);
        else
            train_conv2d_backward(c.weight.data(), c.window, c.padding, gradient, x.operand(), wanted,
                                  threads);
        same(weight, right.weight, what + ", weight's gradient");
        if (both()) same(input, right.input, what + ", input's gradient");
        done++;
        if (!wanted.sums) return;
        Numbers got(2 * inputs), want(2 * inputs);
        for (size_t i = 0; i < right.input.size(); i++) {
            const int64_t k = int64_t(i) % inputs;
            const float passed = x.passes(int64_t(i)) ? right.input[i] : 0.0f;
            want[k] += passed, want[inputs + k] += passed * x.around(int64_t(i));
        }
        for (int64_t k = 0; k < 2 * inputs; k++)
            got[k] = float(sums[k]);
        near(got, want, "sums");
    }
};

// Both stages in one call each way, against the same passes one by one.
int chained(Random& random, const Picture& x, const Convolution& filter, const Convolution& combine,
            int threads, const std::string& where) {
    const std::string what = "training, a chain" + where;
    const int64_t c = filter.out_channels, wide = combine.out_channels;
    const Picture shape = naive(x, filter);
    const int64_t pixels = shape.shape.numbers() / c;
    if (pixels < 2) return 0;
    const bool kept = random.below(2);
    const Chain chain({{"depthwise", c, filter.window, filter.padding, "relu", true, true, 1e-3},
                       {"pointwise", wide, combine.window, combine.padding, "", true, true, 1e-3}},
                      "");
    const Numbers gamma = random.integers(c), beta = random.integers(c);
    Numbers mean(c, 0.5f), variance(c, 2.0f), first = poisoned(pixels * c), second = poisoned(pixels * wide);
    Numbers numbers = poisoned(4 * (c + wide)), result = poisoned(pixels * wide);
    const std::vector<StageTensors> tensors{
        {filter.weight.data(), nullptr, gamma.data(), beta.data(), mean.data(), variance.data(), 0.5},
        {combine.weight.data(), nullptr, nullptr, nullptr, nullptr, nullptr, 0}};
    const std::vector<float*> outputs{kept ? first.data() : nullptr, second.data()};
    caches_hold(0); // a chain writes past the caches, and stage by stage it does not
    chain.forward(x.image(), tensors, outputs, numbers.data(), nullptr, result.data(), threads);
    Numbers right = poisoned(pixels * c), moments = poisoned(4 * c), then = poisoned(pixels * wide),
            last = poisoned(4 * wide), shown = poisoned(pixels * wide);
    caches_hold(-1);
    train_forward(depthwise(filter), Operand(x.image(), nullptr, ""), filter.padding, right.data(),
                  moments.data(), threads);
    for (int64_t k = 0; k < c; k++)
        if (std::abs(mean[k] - (0.25f + 0.5f * moments[k])) > 1e-4f * (1 + std::abs(mean[k]))) {
            std::printf("FAILED %s: a running mean is %g\n", what.c_str(), mean[k]);
            failures++;
            break;
        }
    train_normalisation(moments.data(), gamma.data(), beta.data(), 1e-3, c);
    Image between = shape.image();
    between.data = right.data();
    const Operand read(between, moments.data(), "relu");
    train_forward(pointwise(combine, threads), read, then.data(), last.data(), threads);
    train_normalisation(last.data(), nullptr, nullptr, 1e-3, wide);
    Image end = between;
    end.data = then.data(), end.channels = end.stride = wide;
    train_apply(Operand(end, last.data(), ""), nullptr, shown.data(), threads);
    same(result, shown, what + ", forward");

    const Numbers arrived = random.integers(pixels * wide);
    Numbers along = poisoned(x.shape.numbers()), weights = poisoned(int64_t(filter.weight.size())),
            others = poisoned(int64_t(combine.weight.size())), slopes = poisoned(2 * c);
    caches_hold(0);
    chain.backward(x.image(), tensors, outputs, numbers.data(), arrived.data(),
                   {{weights.data(), nullptr, slopes.data(), slopes.data() + c},
                    {others.data(), nullptr, nullptr, nullptr}},
                   along.data(), false, threads);
    caches_hold(-1);
    std::vector<double> sums(2 * wide), before(2 * c);
    const Operand behind(end, last.data(), "");
    train_reduce(Gradient(behind, arrived.data(), nullptr), nullptr, sums.data(), threads);
    Numbers turn(3 * wide), first_turn(3 * c), input = poisoned(pixels * c), got = poisoned(along.size()),
                                               gradient = poisoned(int64_t(combine.weight.size())),
                                               filters = poisoned(int64_t(weights.size()));
    train_normalisation_gradient(last.data(), nullptr, 1e-3, sums.data(), double(pixels), true, wide,
                                 turn.data(), nullptr, nullptr);
    train_backward(combine.weight.data(), Gradient(behind, arrived.data(), turn.data()), read,
                   {gradient.data(), input.data(), before.data()}, threads);
    train_normalisation_gradient(moments.data(), gamma.data(), 1e-3, before.data(), double(pixels), true, c,
                                 first_turn.data(), nullptr, nullptr);
    train_backward(filter.weight.data(), filter.window, filter.padding,
                   Gradient(read, input.data(), first_turn.data()), Operand(x.image(), nullptr, ""),
                   {filters.data(), got.data(), nullptr}, threads);
    same(others, gradient, what + ", pointwise weight's gradient");
    same(weights, filters, what + ", depthwise weight's gradient");
    same(along, got, what + ", input's gradient");
    return 2;
}

} // namespace

int training(Random& random, int threads, const std::string& where) {
    const int64_t c = std::max(channels(random), kFewest), wide = std::max(channels(random), kFewest);
    const Raw x(random,
                picture(random, random.of({1, 2, 3}), random.between(1, 17), random.between(1, 17), c));
    Convolution filter = convolution(random, c, c, int(c), true),
                combine = convolution(random, c, wide, 1, false), mix = convolution(random, c, wide, 1, true);
    int done = 0;
    for (Convolution* one : {&filter, &combine, &mix}) {
        if (!fits(x.z.shape, *one)) continue;
        one->activation = "";
        std::fill(one->bias.begin(), one->bias.end(), 0.0f);
        const std::string kind = one == &filter ? "depthwise" : one == &combine ? "pointwise" : "standard";
        Passes passes{*one, threads, "training, " + kind + where};
        try {
            const Picture z = naive(x.read(), *one);
            passes.forward(x, z);
            passes.backward(random, x, Raw(random, z));
        } catch (const std::exception& error) {
            std::printf("FAILED %s: %s\n", passes.what.c_str(), error.what());
            failures++;
        }
        done += passes.done;
    }
    if (fits(x.z.shape, filter)) done += chained(random, x.z, filter, combine, threads, where);
    return done;
}

} // namespace ninefold
