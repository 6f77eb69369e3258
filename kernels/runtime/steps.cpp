// The operations of a plan: the layers, and what stands between them but for pooling (pooling.cpp).
#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "buffer.h"
#include "errors.h"
#include "parallel.h"
#include "plan.h"

namespace ninefold {

namespace {

// The same tile for all threads: rows of pixels of one image after another.
template <class Body>
void by_pixels(const Shape& shape, int threads, Body&& body) {
    const int64_t pixels = shape.batch * shape.pixels();
    const int64_t parts = pixels * shape.channels < 32768 ? 1 : std::min<int64_t>(threads, pixels);
    parallel_for(threads, parts, [&](int64_t part) {
        const int64_t first = part * pixels / parts, last = (part + 1) * pixels / parts;
        body(first * shape.channels, last - first);
    });
}

// What a plan that somebody altered may have wrong; that layers take their images' channels is Python's to
// see.
void adds(const Shape& residual, const Shape& out) {
    if (!(residual == out))
        throw std::invalid_argument("a residual must have the shape of what it is added to");
}
void gates(const Shape& gate, const Shape& x) {
    if (gate.pixels() != 1 || gate.batch != x.batch || gate.channels != x.channels)
        throw std::invalid_argument("a gate has one number per image and channel");
}

template <class Layer>
class Windowed : public Operation {
public:
    Windowed(const Layer& layer, Padding padding) : layer_(layer), padding_(padding) {}
    Shape shape(const std::vector<Shape>& x) const override {
        const Window& window = layer_.window();
        window.check(x[0].height, x[0].width, std::max(x[0].channels, layer_.out_channels()), padding_);
        const Shape out{x[0].batch, window.output_height(x[0].height, padding_),
                        window.output_width(x[0].width, padding_), layer_.out_channels()};
        if (out.height < 1 || out.width < 1)
            throw std::invalid_argument("a kernel is larger than its padded image");
        if (x.size() > 1) adds(x[1], out);
        return out;
    }
    void run(const std::vector<Image>& x, const Shape& shape, Result out, int threads) const override {
        if constexpr (std::is_same_v<Layer, Conv2d>)
            layer_.run(x[0], padding_, out.data, threads);
        else if constexpr (std::is_same_v<Layer, Separable>)
            layer_.run(x[0], padding_, x.size() > 1 ? x[1].data : nullptr, out.data, threads);
        else
            run_with_mean(x, shape, out, nullptr, threads);
    }
    bool gives_mean() const override {
        if constexpr (std::is_same_v<Layer, Inverted>)
            return !layer_.projects();
        else
            return std::is_same_v<Layer, Depthwise>;
    }
    void run_with_mean(const std::vector<Image>& x, const Shape&, Result out, float* mean,
                       int threads) const override {
        if constexpr (std::is_same_v<Layer, Depthwise>)
            layer_.run(x[0], padding_, out, threads, mean);
        else if constexpr (std::is_same_v<Layer, Inverted>)
            layer_.run(x[0], padding_, x.size() > 1 ? x[1].data : nullptr, out.data, threads, mean);
    }
    bool writes_part() const override { return std::is_same_v<Layer, Depthwise>; }
    bool reads_part() const override { return std::is_same_v<Layer, Depthwise>; }
    bool asks_ahead() const override { return std::is_same_v<Layer, Separable>; }
    std::optional<Windowing> windowing() const override { return Windowing{layer_.window(), padding_}; }
    void run_rows(const Image& some, Padding around, float* out) const override {
        if constexpr (std::is_same_v<Layer, Depthwise>)
            layer_.run(some, around, {out, layer_.out_channels()}, 1);
        else if constexpr (std::is_same_v<Layer, Conv2d>)
            layer_.run(some, around, out, 1);
        else
            layer_.run(some, around, nullptr, out, 1);
    }

private:
    const Layer& layer_;
    Padding padding_;
};

class PointwiseStep : public Operation {
public:
    PointwiseStep(const Pointwise& layer, bool gated) : layer_(layer), gated_(gated) {}
    Shape shape(const std::vector<Shape>& x) const override {
        const Shape out{x[0].batch, x[0].height, x[0].width, layer_.out_channels()};
        if (gated_) gates(x.back(), x[0]);
        if (x.size() > (gated_ ? 2 : 1)) adds(x[1], out);
        return out;
    }
    void run(const std::vector<Image>& x, const Shape& shape, Result out, int threads) const override {
        const float* residual = x.size() > (gated_ ? 2 : 1) ? x[1].data : nullptr;
        if (!gated_) {
            layer_.run(x[0].data, x[0].stride, shape.batch * shape.pixels(), nullptr, residual, out, threads);
            return;
        }
        const Image& gate = x.back();
        for (int64_t n = 0; n < shape.batch; n++) {
            const int64_t first = n * shape.pixels();
            layer_.run(x[0].row(n, 0), x[0].stride, shape.pixels(), gate.data + n * gate.channels,
                       residual ? residual + first * shape.channels : nullptr,
                       {out.data + first * out.stride, out.stride}, threads);
        }
    }
    bool writes_part() const override { return true; }
    bool reads_part() const override { return true; }

private:
    const Pointwise& layer_;
    const bool gated_; // whether the last operand multiplies the first, channel by channel
};

class AddStep : public Operation {
public:
    Shape shape(const std::vector<Shape>& x) const override {
        if (!(x[0] == x[1])) throw std::invalid_argument("images of two shapes cannot be added");
        return x[0];
    }
    void run(const std::vector<Image>& x, const Shape& shape, Result out, int threads) const override {
        const Kernels& kernels = current();
        by_pixels(shape, threads, [&](int64_t first, int64_t pixels) {
            const int64_t n = pixels * shape.channels;
            Buffer a(x[0].data + first, {{0, n, 1}, {0, 1, n}}), b(x[1].data + first, {{0, n, 1}, {0, 1, n}});
            Buffer sum(out.data + first, {{0, n, 1}, {0, 1, n}});
            check(kernels.add(a, b, sum));
        });
    }
};

class ScaleStep : public Operation {
public:
    Shape shape(const std::vector<Shape>& x) const override {
        gates(x[1], x[0]);
        return x[0];
    }
    void run(const std::vector<Image>& x, const Shape& shape, Result out, int threads) const override {
        const Kernels& kernels = current();
        const int64_t c = shape.channels, one = shape.pixels() * c;
        for (int64_t n = 0; n < shape.batch; n++)
            by_pixels({1, shape.height, shape.width, c}, threads, [&](int64_t first, int64_t pixels) {
                Buffer image(x[0].data + n * one + first, {{0, c, 1}, {0, pixels, c}});
                Buffer gate(x[1].data + n * c, {{0, c, 1}});
                Buffer scaled(out.data + n * one + first, {{0, c, 1}, {0, pixels, c}});
                check(kernels.scale(image, gate, scaled));
            });
    }
};

class ShuffleStep : public Operation {
public:
    explicit ShuffleStep(int64_t groups) : groups_(groups) {}
    Shape shape(const std::vector<Shape>& x) const override {
        if (groups_ < 1 || x[0].channels % groups_)
            throw std::invalid_argument("channels are not shuffled in such groups");
        return x[0];
    }
    void run(const std::vector<Image>& x, const Shape& shape, Result out, int threads) const override {
        const int64_t each = shape.channels / groups_;
        by_pixels(shape, threads, [&](int64_t first, int64_t pixels) {
            const float* from = x[0].data + first;
            float* to = out.data + first;
            for (int64_t p = 0; p < pixels; p++, from += shape.channels, to += shape.channels)
                for (int64_t i = 0; i < groups_; i++)
                    for (int64_t j = 0; j < each; j++)
                        to[j * groups_ + i] = from[i * each + j];
        });
    }

private:
    const int64_t groups_;
};

class ActivationStep : public Operation {
public:
    explicit ActivationStep(const std::string& name) : activation_(current(), name) {}
    Shape shape(const std::vector<Shape>& x) const override { return x[0]; }
    void run(const std::vector<Image>& x, const Shape& shape, Result out, int threads) const override {
        by_pixels(shape, threads, [&](int64_t first, int64_t pixels) {
            activation_.apply(x[0].data + first, out.data + first, pixels * shape.channels);
        });
    }

private:
    Activation activation_;
};

class LayerNormStep : public Operation {
public:
    LayerNormStep(std::vector<float> gain, std::vector<float> offset, float epsilon)
        : gain_(std::move(gain)), offset_(std::move(offset)), epsilon_(epsilon) {}
    Shape shape(const std::vector<Shape>& x) const override {
        if (x[0].channels != int64_t(gain_.size()) || gain_.size() != offset_.size())
            throw std::invalid_argument("a layer norm has one gain and offset per channel");
        return x[0];
    }
    void run(const std::vector<Image>& x, const Shape& shape, Result out, int threads) const override {
        const Kernels& kernels = current();
        const int64_t c = shape.channels;
        by_pixels(shape, threads, [&](int64_t first, int64_t pixels) {
            Buffer image(x[0].data + first, {{0, c, 1}, {0, pixels, c}});
            Buffer gain(gain_.data(), {{0, c, 1}}), offset(offset_.data(), {{0, c, 1}});
            Buffer normal(out.data + first, {{0, c, 1}, {0, pixels, c}});
            check(kernels.layer_norm(image, gain, offset, epsilon_, normal));
        });
    }

private:
    std::vector<float> gain_, offset_;
    float epsilon_;
};

// A loop rather than a call of memmove: a pixel's channels are few, and the call costs more than they do.
inline void copy(const float* from, int64_t count, float* to) {
    int64_t i = 0;
    for (; i + 4 <= count; i += 4)
        std::memcpy(to + i, from + i, 4 * sizeof(float));
    for (; i < count; i++)
        to[i] = from[i];
}

class ConcatenationStep : public Operation {
public:
    Shape shape(const std::vector<Shape>& x) const override {
        if (x.empty()) throw std::invalid_argument("a concatenation has one image at least");
        Shape all = x[0];
        for (size_t i = 1; i < x.size(); i++) {
            if (x[i].batch != all.batch || x[i].height != all.height || x[i].width != all.width)
                throw std::invalid_argument("images of two sizes cannot be concatenated");
            all.channels += x[i].channels;
        }
        return all;
    }
    void run(const std::vector<Image>& x, const Shape& shape, Result out, int threads) const override {
        std::vector<std::pair<Image, int64_t>>
            apart; // images that do not lie in the result yet, their channel
        int64_t channel = 0;
        for (const Image& image : x) {
            if (image.data != out.data + channel) apart.push_back({image, channel});
            channel += image.channels;
        }
        if (apart.empty()) return;
        by_pixels(shape, threads, [&](int64_t first, int64_t pixels) {
            const int64_t start = first / shape.channels;
            for (int64_t p = start; p < start + pixels; p++) {
                float* to = out.data + p * shape.channels;
                for (const auto& [image, channel] : apart)
                    copy(image.data + p * image.channels, image.channels, to + channel);
            }
        });
    }
    bool gathers() const override { return true; }
};

class ChannelsStep : public Operation {
public:
    ChannelsStep(int64_t first, int64_t last) : first_(first), last_(last) {}
    Shape shape(const std::vector<Shape>& x) const override {
        if (first_ < 0 || first_ >= last_ || last_ > x[0].channels)
            throw std::invalid_argument("an image has no such channels");
        return {x[0].batch, x[0].height, x[0].width, last_ - first_};
    }
    void run(const std::vector<Image>& x, const Shape& shape, Result out, int threads) const override {
        by_pixels(shape, threads, [&](int64_t first, int64_t pixels) {
            const float* from = x[0].data + first / shape.channels * x[0].channels + first_;
            for (int64_t p = 0; p < pixels; p++)
                copy(from + p * x[0].channels, shape.channels, out.data + first + p * shape.channels);
        });
    }

private:
    int64_t first_, last_;
};

} // namespace

std::unique_ptr<Operation> layer_norm_step(std::vector<float> gain, std::vector<float> offset,
                                           float epsilon) {
    return std::make_unique<LayerNormStep>(std::move(gain), std::move(offset), epsilon);
}
std::unique_ptr<Operation> concatenation_step() {
    return std::make_unique<ConcatenationStep>();
}
std::unique_ptr<Operation> channels_step(int64_t first, int64_t last) {
    return std::make_unique<ChannelsStep>(first, last);
}
std::unique_ptr<Operation> depthwise_step(const Depthwise& layer, Padding padding) {
    return std::make_unique<Windowed<Depthwise>>(layer, padding);
}
std::unique_ptr<Operation> conv2d_step(const Conv2d& layer, Padding padding) {
    return std::make_unique<Windowed<Conv2d>>(layer, padding);
}
std::unique_ptr<Operation> separable_step(const Separable& layer, Padding padding) {
    return std::make_unique<Windowed<Separable>>(layer, padding);
}
std::unique_ptr<Operation> inverted_step(const Inverted& layer, Padding padding) {
    return std::make_unique<Windowed<Inverted>>(layer, padding);
}
std::unique_ptr<Operation> pointwise_step(const Pointwise& layer, bool gated) {
    return std::make_unique<PointwiseStep>(layer, gated);
}
std::unique_ptr<Operation> add_step() {
    return std::make_unique<AddStep>();
}
std::unique_ptr<Operation> scale_step() {
    return std::make_unique<ScaleStep>();
}
std::unique_ptr<Operation> shuffle_step(int64_t groups) {
    return std::make_unique<ShuffleStep>(groups);
}
std::unique_ptr<Operation> activation_step(const std::string& name) {
    return std::make_unique<ActivationStep>(name);
}

} // namespace ninefold
