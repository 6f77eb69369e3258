// Backward, in training: in one pass over its bands a convolution takes the gradient of its output, makes
// those of its weights and of its input, and the two sums that the batch-norm before it needs.
#include <cstring>
#include <stdexcept>

#include "ahead.h"
#include "bands.h"
#include "buffer.h"
#include "errors.h"
#include "gathered.h"

namespace ninefold {

namespace {

// A depthwise convolution's gradients.
class Depthwisely {
public:
    Depthwisely(const float* weight, const Window& window, Padding padding, const Gradient& dz,
                const Operand& x, const Wanted& wanted)
        : kernels_(current_for(x.z().channels)), window_(window), padding_(padding), dz_(dz), x_(x),
          wanted_(wanted), channels_(x.z().channels), apart_(spread(channels_)),
          taps_(int64_t(window.kernel_h) * window.kernel_w) {
        reach_h_ = int64_t(window.dilation_h) * (window.kernel_h - 1);
        reach_w_ = int64_t(window.dilation_w) * (window.kernel_w - 1);
        flat_ = window.stride_h == 1 && window.stride_w == 1;
        // Small images, and pixels that collide in the cache, are quicker copied: 512 channels at 14×14 took
        // 0.26 ms bare and 0.18 copied, 128 at 56×56 1.07 and 1.63.
        bare_ = x.plain() && dz.plain() && apart_ == channels_ && dz.z().width >= 12;
        past_ = wanted.input && outgrows_caches(x.pixels() * channels_);
        turned_ = allocate(channels_ * taps_); // (C, 1, kh, kw), each filter turned by 180°
        by_tap_ = allocate(channels_ * taps_); // (kh, kw, C)
        for (int64_t c = 0; c < channels_; c++)
            for (int64_t t = 0; t < taps_; t++) {
                turned_[c * taps_ + taps_ - 1 - t] = weight[c * taps_ + t];
                by_tap_[t * channels_ + c] = weight[c * taps_ + t];
            }
        const bool square =
            window.kernel_h == window.kernel_w && window.dilation_h == 1 && window.dilation_w == 1;
        weight_kernel_ = kernels_.depthwise_weight_any;
        for (const WeightSize& row : kernels_.depthwise_weight)
            if (square && row.size == window.kernel_h) weight_kernel_ = row.run;
        for (const ParitySize& row : kernels_.depthwise_parity)
            if (square && row.size == window.kernel_h && window.stride_h == 2 && window.stride_w == 2)
                parity_ = row.run;
    }

    void run(int threads) {
        const Image &in = x_.z(), &out = dz_.z();
        const int64_t lines = flat_ ? in.height : out.height;
        const int64_t line = (flat_ ? in.width + reach_w_ : out.width) * apart_;
        const int64_t other = (flat_ ? in.width : 2 * in.width) * apart_;
        // The bands of both images, and what they are made of, in most of the cache; a few rows at least, for
        // those around a band are made again for the next.
        const int64_t room = second_level_cache() * 3 / 4 / int64_t(sizeof(float)), least = flat_ ? 4 : 2;
        const int64_t most = std::max(std::min(lines, least), std::min(room / (line + 3 * other), lines));
        const int64_t bands = (lines + most - 1) / most;
        std::vector<Gathered> found(threads);
        const Window once{window_.kernel_h, window_.kernel_w, 1, 1, window_.dilation_h, window_.dilation_w};
        const Depthwise back(turned_.get(), nullptr, channels_, 1, once, "");
        in_parts(threads, in.batch * bands, [&](int64_t part, Range tasks) {
            Gathered& gathered = found[part];
            if (wanted_.weight) gathered.weight.resize(channels_ * taps_);
            if (wanted_.sums) gathered.sums.resize(2 * channels_);
            for (int64_t task = tasks.first; task < tasks.last; task++) {
                const int64_t n = task / bands, band = task % bands;
                const Range rows{band * lines / bands, (band + 1) * lines / bands};
                const Soon soon = task + 1 < tasks.last ? next(task + 1, bands) : Soon{};
                if (flat_) {
                    // The weights' gradient goes by rows of the output, the input's by those of the input.
                    const int64_t height = dz_.z().height;
                    if (bare_ && wanted_.weight)
                        weigh_bare(n, {band * height / bands, (band + 1) * height / bands}, gathered);
                    flat(n, rows, back, soon, gathered);
                } else
                    strided(n, rows, soon, gathered);
            }
        });
        if (wanted_.weight) {
            std::vector<double> sum(channels_ * taps_);
            merge(found, &Gathered::weight, sum);
            for (int64_t c = 0; c < channels_; c++)
                for (int64_t t = 0; t < taps_; t++)
                    wanted_.weight[c * taps_ + t] =
                        float(sum[(flat_ && !bare_ ? taps_ - 1 - t : t) * channels_ + c]);
        }
        if (wanted_.sums) {
            std::vector<double> sum(2 * channels_);
            merge(found, &Gathered::sums, sum);
            std::copy(sum.begin(), sum.end(), wanted_.sums);
        }
    }

private:
    // What the next band reads, asked for while this one's sums are taken; nothing behind the last. Of what
    // mobilenetv2_100's layers take that is 3 %.
    struct Soon {
        Stretch image{nullptr, 0}, gradient{nullptr, 0}, z{nullptr, 0};
    };
    Soon next(int64_t task, int64_t bands) const {
        const auto rows = [&](const float* data, const Image& image) {
            const int64_t band = task % bands, line = image.width * channels_;
            const int64_t first = band * image.height / bands, last = (band + 1) * image.height / bands;
            return Stretch{data + (task / bands * image.height + first) * line, (last - first) * line};
        };
        return {rows(x_.z().data, x_.z()), rows(dz_.data(), dz_.z()),
                dz_.plain() ? Stretch{nullptr, 0} : rows(dz_.z().data, dz_.z())};
    }
    // Pixels of the input's gradient: in their place, or in scratch on their way past the caches.
    struct Made {
        Made(const Depthwisely& layer, int64_t pixel, int64_t count)
            : pixel(pixel), count(count), scratch(layer.past_ ? count * layer.channels_ : 0),
              data(layer.past_ ? scratch : layer.wanted_.input + pixel * layer.channels_) {}

        int64_t pixel, count;
        Scratch scratch;
        float* data;
    };
    void finish(const Made& made, const Soon& soon, Gathered& gathered) const {
        const Ahead ahead(soon.image, soon.gradient, steps(made.count) / 2);
        Wanted wanted = wanted_;
        wanted.input = made.data - made.pixel * channels_; // as if all of it lay there
        ninefold::finish(x_, wanted, made.pixel, made.count, gathered);
        if (past_)
            write_past_caches(made.data, made.count * channels_, wanted_.input + made.pixel * channels_);
    }

    // Rows of the input at stride 1. Input and output change places: the output's gradient has the zeros
    // around it, and both gradients are sums over it, the weights' with its taps turned.
    void flat(int64_t n, Range rows, const Depthwise& back, const Soon& soon, Gathered& gathered) const {
        const Image& in = x_.z();
        const int64_t c = channels_, tall = rows.size() + reach_h_, wide = in.width + reach_w_;
        const int64_t top = rows.first + padding_.top - reach_h_, left = padding_.left - reach_w_;
        const int64_t start = (n * in.height + rows.first) * in.width;
        const Padding around{int(reach_w_) - padding_.left, int(reach_w_) - padding_.right,
                             int(reach_h_) - padding_.top, int(reach_h_) - padding_.bottom};
        if (bare_ && std::min({around.left, around.right, around.top, around.bottom}) >= 0) {
            if (!wanted_.input) return;
            Image gradient = dz_.z(); // its shape: where the gradient is plain, z itself may be anything
            gradient.data = dz_.data();
            const Made made(*this, start, rows.size() * in.width);
            back.rows(gradient, n, around, rows.first, rows.last, 0, c, made.data, c);
            finish(made, soon, gathered);
            return;
        }
        const Scratch turned(tall * wide * apart_);
        fill(dz_, n, {top, top + tall}, {left, left + wide}, turned, apart_);
        const int64_t first = (n * in.height + rows.first) * in.width;
        if (wanted_.weight && !bare_) {
            const float* read = in.data + first * c;
            int64_t between = c;
            const Scratch made(x_.plain() ? 0 : rows.size() * in.width * apart_);
            if (!x_.plain()) {
                between = apart_;
                x_.make(first, in.width, rows.size(), in.width, made, apart_, in.width * apart_);
                read = made;
            }
            const Ahead ahead(asked(first, rows.size() * in.width, soon), {}, steps(in.width * rows.size()));
            weigh({turned, apart_, wide, tall}, {read, between, in.width}, in.width, rows.size(), 1, 1,
                  gathered);
        }
        if (!wanted_.input) return;
        const Made made(*this, first, rows.size() * in.width);
        back.filter({turned, tall, wide, apart_}, {0, 0, 0, 0}, {0, rows.size()}, in.width, {0, c}, made.data,
                    c);
        finish(made, soon, gathered);
    }

    // Rows of the output, and the rows of the input that end before the next band's first tap.
    void strided(int64_t n, Range rows, const Soon& soon, Gathered& gathered) const {
        const Image &in = x_.z(), &out = dz_.z();
        const int64_t c = channels_, sh = window_.stride_h, sw = window_.stride_w;
        // Places of the output whose taps may reach this band's input, its own and those above.
        const int64_t above = parity_ ? (window_.kernel_h - 1) / 2 : std::min(rows.first, reach_h_ / sh);
        const int64_t before = parity_ ? (window_.kernel_w - 1) / 2 : 0;
        const int64_t places = parity_ ? padding_.left / 2 + (in.width + 1) / 2 + 1 : out.width;
        const int64_t wide = before + std::max(places, out.width);
        const bool ends = rows.last == out.height;
        const int64_t from =
            rows.first == 0 ? 0 : std::clamp<int64_t>(rows.first * sh - padding_.top, 0, in.height);
        const int64_t to =
            ends ? in.height : std::clamp<int64_t>(rows.last * sh - padding_.top, 0, in.height);
        // Below the last row of the output the last band's input goes on.
        const int64_t below =
            ends && parity_ ? std::max<int64_t>(0, (to + padding_.top + 1) / 2 - rows.last) : 0;
        const int64_t tall = above + rows.size() + below;
        const Scratch turned(tall * wide * apart_);
        if (bare_ && wanted_.weight) weigh_bare(n, rows, gathered);
        if (bare_ && !wanted_.input) return;
        fill(dz_, n, {rows.first - above, rows.last + below}, {-before, wide - before}, turned, apart_);
        if (wanted_.weight && !bare_) {
            const int64_t width = (out.width - 1) * sw + reach_w_ + 1,
                          height = (rows.size() - 1) * sh + reach_h_ + 1;
            const int64_t top = rows.first * sh - padding_.top;
            const Scratch read(height * width * apart_);
            fill(x_, n, {top, top + height}, {-padding_.left, width - padding_.left}, read, apart_);
            const Ahead ahead(asked((n * in.height + from) * in.width, (to - from) * in.width, soon), {},
                              steps(out.width * rows.size()));
            weigh({read, apart_, width, height}, {turned + (above * wide + before) * apart_, apart_, wide},
                  out.width, rows.size(), sw, sh, gathered);
        }
        if (!wanted_.input || to <= from) return;
        const int64_t first = (n * in.height + from) * in.width;
        const Made made(*this, first, (to - from) * in.width);
        Buffer weight(by_tap_.get(),
                      {{0, c, 1}, {0, window_.kernel_w, c}, {0, window_.kernel_h, c * window_.kernel_w}});
        if (parity_)
            by_parity(turned, wide, tall, weight, from + padding_.top - rows.first * 2, to - from, made.data);
        else {
            Buffer gradient(turned, {{0, c, 1}, {0, out.width, apart_}, {0, tall, wide * apart_}});
            Buffer target(made.data,
                          {{0, c, 1},
                           {padding_.left, in.width, c},
                           {from + padding_.top - (rows.first - above) * sh, to - from, in.width * c}});
            check(kernels_.depthwise_input_any(gradient, weight, int32_t(sw), int32_t(sh), window_.dilation_w,
                                               window_.dilation_h, target));
        }
        finish(made, soon, gathered);
    }

    // The input's gradient at stride 2, two columns and two rows at a time. Where there are as many, it goes
    // straight to its place, else by way of scratch. `skip` rows of it lie above the image.
    void by_parity(const float* turned, int64_t wide, int64_t tall, Buffer& weight, int64_t skip,
                   int64_t height, float* input) const {
        const int64_t c = channels_, width = x_.z().width;
        const int64_t across = (width + 1) / 2, down = (skip + height + 1) / 2;
        const bool straight = width % 2 == 0 && height % 2 == 0 && skip == 0;
        const Scratch parities(straight ? 0 : 4 * across * down * c);
        float* made = straight ? input : parities;
        Buffer gradient(turned + padding_.left / 2 * apart_,
                        {{0, c, 1}, {0, wide - padding_.left / 2, apart_}, {0, tall, wide * apart_}});
        Buffer target(
            made,
            {{0, c, 1}, {0, 2, c}, {0, across, 2 * c}, {0, 2, 2 * across * c}, {0, down, 4 * across * c}});
        check(parity_(gradient, weight, padding_.left % 2 == 1, target));
        if (straight) return;
        for (int64_t y = 0; y < height; y++)
            std::memcpy(input + y * width * c, made + (skip + y) * 2 * across * c, width * c * sizeof(float));
    }

    // What is asked for while the weights' gradient is summed: where the input's of these pixels will be
    // written, or, where that goes past the caches, what the next band is turned by.
    Stretch asked(int64_t pixel, int64_t count, const Soon& soon) const {
        if (past_) return soon.z;
        return {wanted_.input + pixel * channels_, wanted_.input ? count * channels_ : 0};
    }
    // About how many steps the innermost loops of the weights' gradient make for so many outputs.
    int64_t steps(int64_t outputs) const {
        return outputs * std::max<int64_t>(1, channels_ / kernels_.lanes);
    }

    struct Source { // an image whose pixels lie `apart` numbers apart
        const float* first;
        int64_t apart, width, height;
    };
    struct Arrived { // a window of a gradient, its rows `pitch` pixels apart
        const float* first;
        int64_t apart, pitch;
    };
    // Adds the weights' gradient of width × height outputs.
    void weigh(const Source& image, const Arrived& gradient, int64_t width, int64_t height, int64_t stride_x,
               int64_t stride_y, Gathered& gathered) const {
        const int64_t c = channels_, kw = window_.kernel_w, kh = window_.kernel_h;
        const Scratch band(c * taps_);
        Buffer source(
            image.first,
            {{0, c, 1}, {0, image.width, image.apart}, {0, image.height, image.width * image.apart}});
        Buffer arrived(gradient.first,
                       {{0, c, 1}, {0, width, gradient.apart}, {0, height, gradient.pitch * gradient.apart}});
        Buffer target(band, {{0, c, 1}, {0, kw, c}, {0, kh, kw * c}});
        check(weight_kernel_(source, arrived, int32_t(stride_x), int32_t(stride_y), window_.dilation_w,
                             window_.dilation_h, target));
        for (int64_t k = 0; k < c * taps_; k++)
            gathered.weight[k] += double(band[k]);
    }

    // The weights' gradient of rows of the output where both images are as they are: straight from them where
    // no tap leaves the image, and around that from a copy with its zeros.
    void weigh_bare(int64_t n, Range rows, Gathered& gathered) const {
        const Image &in = x_.z(), &out = dz_.z();
        const int64_t c = channels_, sh = window_.stride_h, sw = window_.stride_w;
        const Range every = window_.inner_rows(in.height, padding_);
        const Range x = window_.inner_columns(in.width, padding_);
        const Range y{std::clamp(every.first, rows.first, rows.last),
                      std::clamp(every.last, rows.first, rows.last)};
        const auto arrived = [&](Range v, Range u) {
            return Arrived{dz_.data() + ((n * out.height + v.first) * out.width + u.first) * c, c, out.width};
        };
        const auto border = [&](Range v, Range u) {
            if (v.size() <= 0 || u.size() <= 0) return;
            const int64_t width = (u.size() - 1) * sw + reach_w_ + 1,
                          height = (v.size() - 1) * sh + reach_h_ + 1;
            const int64_t top = v.first * sh - padding_.top, left = u.first * sw - padding_.left;
            const Scratch read(height * width * apart_);
            fill(x_, n, {top, top + height}, {left, left + width}, read, apart_);
            weigh({read, apart_, width, height}, arrived(v, u), u.size(), v.size(), sw, sh, gathered);
        };
        border({rows.first, y.first}, {0, out.width});
        border({y.last, rows.last}, {0, out.width});
        border(y, {0, x.first});
        border(y, {x.last, out.width});
        if (y.size() <= 0 || x.size() <= 0) return;
        const int64_t top = y.first * sh - padding_.top, left = x.first * sw - padding_.left;
        // A row of the image from its first tap on; what follows its last column is never read.
        const Source image{in.row(n, top) + left * c, c, in.width, (y.size() - 1) * sh + reach_h_ + 1};
        weigh(image, arrived(y, x), x.size(), y.size(), sw, sh, gathered);
    }

    const Kernels& kernels_;
    Window window_;
    Padding padding_;
    const Gradient& dz_;
    const Operand& x_;
    Wanted wanted_;
    int64_t channels_, apart_, taps_, reach_h_, reach_w_;
    bool flat_; // stride 1
    bool bare_; // both images are as they are
    bool past_; // the input's gradient is written past the caches
    Floats turned_, by_tap_;
    DepthwiseWeightKernel* weight_kernel_;
    ParityKernel* parity_ = nullptr;
};

} // namespace

void train_backward(const float* weight, const Window& window, Padding padding, const Gradient& dz,
                    const Operand& x, const Wanted& wanted, int threads) {
    expect_writes(wanted.input, x.pixels() * x.z().channels);
    Depthwisely(weight, window, padding, dz, x, wanted).run(threads);
}

} // namespace ninefold
