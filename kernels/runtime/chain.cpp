#include "chain.h"

#include <algorithm>
#include <cmath>

#include "buffer.h"
#include "errors.h"
#include "parallel.h"

namespace ninefold {

namespace {

bool has_numbers(const Stage& stage) {
    return stage.normalises || !stage.activation.empty();
}

// Those of an operand that normalises nothing.
std::vector<float> unchanged(int64_t channels) {
    std::vector<float> numbers(4 * channels, 0.0f);
    std::fill_n(numbers.begin() + channels, 2 * channels, 1.0f);
    return numbers;
}

int64_t count(const Image& image) {
    return image.batch * image.height * image.width;
}

// As F.batch_norm moves them: towards the mean and the unbiased variance.
void move(const StageTensors& tensors, const float* numbers, int64_t channels, int64_t values) {
    const double m = tensors.momentum;
    if (!tensors.mean || !tensors.variance || std::isnan(m)) return;
    const double unbiased = m * double(values) / double(values - 1);
    for (int64_t c = 0; c < channels; c++) {
        tensors.mean[c] = float((1 - m) * tensors.mean[c] + m * numbers[c]);
        tensors.variance[c] = float((1 - m) * tensors.variance[c] + unbiased * numbers[channels + c]);
    }
}

// numbers += others, in parts that two threads can share.
void add(float* numbers, const float* others, int64_t size, int threads) {
    const int64_t step = 65536;
    parallel_for(threads, (size + step - 1) / step, [&](int64_t part) {
        const int64_t first = part * step, count = std::min(step, size - first);
        Buffer sum(numbers + first, {{0, count, 1}, {0, 1, count}}),
            same(numbers + first, {{0, count, 1}, {0, 1, count}}),
            other(others + first, {{0, count, 1}, {0, 1, count}});
        check(current().add(same, other, sum));
    });
}

} // namespace

Chain::Chain(std::vector<Stage> stages, std::string ahead)
    : stages_(std::move(stages)), ahead_(std::move(ahead)) {}

Image Chain::output(const Stage& stage, const Image& x, float* data) const {
    return {data, x.batch, stage.window.output_height(x.height, stage.padding),
            stage.window.output_width(x.width, stage.padding), stage.outputs};
}

Operand Chain::read(size_t stage, const Image& z, const float* numbers) const {
    return Operand(z, has_numbers(stages_[stage]) ? numbers : nullptr, stages_[stage].activation);
}

void Chain::convolve(const Stage& stage, const StageTensors& tensors, const Operand& x, float* out,
                     float* moments, int threads) const {
    const int64_t inputs = x.z().channels;
    if (stage.kind == "pointwise") {
        const Pointwise layer(tensors.weight, tensors.bias, inputs, stage.outputs, "", threads);
        train_forward(layer, x, out, moments, threads);
    } else if (stage.kind == "depthwise") {
        const Depthwise layer(tensors.weight, tensors.bias, inputs, 1, stage.window, "");
        train_forward(layer, x, stage.padding, out, moments, threads);
    } else {
        const Conv2d layer({tensors.weight}, tensors.bias, inputs, stage.outputs, 1, stage.window, "",
                           threads, false);
        train_forward(layer, x, stage.padding, out, moments, threads);
    }
}

void Chain::differentiate(const Stage& stage, const StageTensors& tensors, const Gradient& dz,
                          const Operand& x, const Wanted& wanted, int threads) const {
    if (stage.kind == "pointwise")
        train_backward(tensors.weight, dz, x, wanted, threads);
    else if (stage.kind == "depthwise")
        train_backward(tensors.weight, stage.window, stage.padding, dz, x, wanted, threads);
    else
        train_conv2d_backward(tensors.weight, stage.window, stage.padding, dz, x, wanted, threads);
}

void Chain::forward(const Image& x, const std::vector<StageTensors>& tensors,
                    const std::vector<float*>& outputs, float* numbers, const float* residual, float* result,
                    int threads) const {
    const std::vector<float> plain = ahead_.empty() ? std::vector<float>() : unchanged(x.channels);
    Operand read(x, ahead_.empty() ? nullptr : plain.data(), ahead_);
    Floats unkept[2]; // of this stage, which the next one reads
    for (size_t k = 0; k < stages_.size(); k++) {
        const Stage& stage = stages_[k];
        Image z = output(stage, read.z(), outputs[k]);
        const int64_t c = stage.outputs, values = count(z);
        float* data = outputs[k];
        if (!data) {
            unkept[k % 2] = allocate_image(values * c);
            z.data = data = unkept[k % 2].get();
        }
        const bool batch = stage.normalises && stage.batch;
        convolve(stage, tensors[k], read, data, batch ? numbers : nullptr, threads);
        unkept[(k + 1) % 2].reset();
        if (batch) {
            move(tensors[k], numbers, c, values);
        } else if (stage.normalises) {
            std::copy_n(tensors[k].mean, c, numbers);
            std::copy_n(tensors[k].variance, c, numbers + c);
        } else {
            std::fill_n(numbers, c, 0.0f);
            std::fill_n(numbers + c, c, 1.0f);
        }
        train_normalisation(numbers, tensors[k].gamma, tensors[k].beta, stage.epsilon, c);
        read = this->read(k, z, numbers);
        numbers += 4 * c;
    }
    if (result) train_apply(read, residual, result, threads);
}

void Chain::backward(const Image& x, const std::vector<StageTensors>& tensors,
                     const std::vector<float*>& outputs, const float* numbers, const float* gradient,
                     const std::vector<StageGradients>& gradients, float* input, bool itself,
                     int threads) const {
    const float* const arrived = gradient;
    const std::vector<float> plain = ahead_.empty() ? std::vector<float>() : unchanged(x.channels);
    const Operand first(x, ahead_.empty() ? nullptr : plain.data(), ahead_);
    std::vector<Image> images;
    std::vector<const float*> own; // where each stage's numbers begin
    for (size_t k = 0; k < stages_.size(); k++) {
        images.push_back(output(stages_[k], k ? images[k - 1] : x, outputs[k]));
        own.push_back(numbers);
        numbers += 4 * stages_[k].outputs;
    }
    std::vector<Floats> made_again(stages_.size());
    Floats arriving; // the gradient that arrives, once it is our own
    const auto operand = [&](size_t k) {
        if (k == size_t(-1)) return first;
        if (!images[k].data) {
            made_again[k] = allocate_image(count(images[k]) * images[k].channels);
            images[k].data = made_again[k].get();
            convolve(stages_[k], tensors[k], k ? read(k - 1, images[k - 1], own[k - 1]) : first,
                     made_again[k].get(), nullptr, threads);
        }
        return read(k, images[k], own[k]);
    };
    // Whether anything before a stage, or the stage's own weights, want a gradient.
    std::vector<bool> before;
    bool any = input;
    for (const StageGradients& wanted : gradients) {
        before.push_back(any);
        any = any || wanted.weight || wanted.bias || wanted.gamma || wanted.beta;
    }
    Operand after = operand(stages_.size() - 1);
    std::vector<double> sums; // of what arrives; none where no numbers stand behind the convolution
    if (!after.plain()) {
        sums.resize(2 * after.z().channels);
        if (after.has_slope()) arriving = allocate_image(after.pixels() * after.z().channels);
        train_reduce(Gradient(after, gradient, nullptr), arriving.get(), sums.data(), threads);
        if (arriving) gradient = arriving.get();
    }
    for (size_t k = stages_.size(); k-- > 0;) {
        const Stage& stage = stages_[k];
        const StageGradients& wanted = gradients[k];
        const int64_t c = stage.outputs;
        const bool batch = stage.normalises && stage.batch;
        std::vector<float> turn(sums.empty() ? 0 : 3 * c);
        if (!sums.empty())
            train_normalisation_gradient(own[k], tensors[k].gamma, stage.epsilon, sums.data(),
                                         double(after.pixels()), batch, c, turn.data(), wanted.gamma,
                                         wanted.beta);
        if (wanted.bias && sums.empty()) {
            const std::vector<float> numbers = unchanged(c);
            std::vector<double> sum(2 * c);
            train_reduce(Gradient(Operand(after.z(), numbers.data(), ""), gradient, nullptr), nullptr,
                         sum.data(), threads);
            std::copy_n(sum.begin(), c, wanted.bias);
        } else if (wanted.bias) // the batch's own mean takes every bias out again
            for (int64_t i = 0; i < c; i++)
                wanted.bias[i] = batch ? 0.0f : float(sums[i] * double(turn[i]));
        if (!wanted.weight && !before[k]) break;
        const Operand read = operand(k - 1);
        Floats made; // the gradient of what this stage read
        float* along = k == 0 ? input : nullptr;
        if (before[k] && !along) {
            made = allocate_image(read.pixels() * read.z().channels);
            along = made.get();
        }
        const bool adds = itself && k == 0 && along, in_passing = stage.kind == "pointwise" && read.plain();
        std::vector<double> reduced(along && k > 0 && !read.plain() ? 2 * read.z().channels : 0);
        differentiate(stage, tensors[k], Gradient(after, gradient, turn.empty() ? nullptr : turn.data()),
                      read,
                      {wanted.weight, along, reduced.empty() ? nullptr : reduced.data(),
                       adds && in_passing ? arrived : nullptr},
                      threads);
        if (adds && !in_passing) add(along, arrived, read.pixels() * read.z().channels, threads);
        if (!before[k]) break;
        made_again[k].reset();
        after = read;
        arriving = std::move(made);
        gradient = along;
        sums = std::move(reduced);
    }
}

} // namespace ninefold
