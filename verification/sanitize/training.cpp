// Training's passes: convolutions of operands, and their gradients, against plain loops.
//
// Operands have integers for numbers and scales, so that every sum is exact. Means and variances are not.
#include "training.h"

#include <cmath>
#include <cstdio>
#include <stdexcept>

#include "cases.h"

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
        else
            train_forward(pointwise(c, threads), x.operand(), out.data(), moments.data(), threads);
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
        const Wanted wanted{weight.data(), input.data(), x.numbers.empty() ? nullptr : sums.data()};
        if (deep())
            train_backward(c.weight.data(), c.window, c.padding, gradient, x.operand(), wanted, threads);
        else
            train_backward(c.weight.data(), gradient, x.operand(), wanted, threads);
        same(weight, right.weight, what + ", weight's gradient");
        same(input, right.input, what + ", input's gradient");
        done++;
        if (x.numbers.empty()) return;
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

} // namespace

int training(Random& random, int threads, const std::string& where) {
    const int64_t c = std::max(channels(random), kFewest), wide = std::max(channels(random), kFewest);
    const Raw x(random,
                picture(random, random.of({1, 2, 3}), random.between(1, 17), random.between(1, 17), c));
    Convolution filter = convolution(random, c, c, int(c), true),
                combine = convolution(random, c, wide, 1, false);
    int done = 0;
    for (Convolution* one : {&filter, &combine}) {
        if (!fits(x.z.shape, *one)) continue;
        one->activation = "";
        std::fill(one->bias.begin(), one->bias.end(), 0.0f);
        Passes passes{*one, threads,
                      (one == &filter ? "training, depthwise" : "training, pointwise") + where};
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
    return done;
}

} // namespace ninefold
