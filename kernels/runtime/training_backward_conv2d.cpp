// Backward, in training, through a standard convolution: see training_backward.cpp. Its weights' gradient is
// a product of matrices for each row of taps: the windows of neighbouring pixels lie in the image as they
// are, overlapping, so nothing is copied side by side. Its input's gradient, at stride 1, is the convolution
// with every filter turned and inputs and outputs exchanged.
#include <stdexcept>

#include "ahead.h"
#include "bands.h"
#include "gathered.h"
#include "matrix.h"

namespace ninefold {

namespace {

class Standardly {
public:
    Standardly(const Window& window, Padding padding, const Gradient& dz, const Operand& x,
               const Wanted& wanted)
        : window_(window), padding_(padding), dz_(dz), x_(x), wanted_(wanted), inputs_(x.z().channels),
          outputs_(dz.z().channels), taps_(int64_t(window.kernel_h) * window.kernel_w),
          at_once_(window.dilation_w == 1 ? window.kernel_w : 1), matrix_(at_once_ * inputs_, outputs_) {
        reach_h_ = int64_t(window.dilation_h) * (window.kernel_h - 1);
        reach_w_ = int64_t(window.dilation_w) * (window.kernel_w - 1);
    }

    void weights(int threads) const {
        const Image& out = dz_.z();
        const int64_t products = taps_ / at_once_, size = matrix_.size();
        const int64_t apart = spread(matrix_.gradient_numbers());
        const int64_t wide = (out.width - 1) * window_.stride_w + reach_w_ + 1, line = wide * inputs_;
        // Half the cache for a band of both images; the other for the next one's, asked for early.
        const int64_t room = second_level_cache() / 2 / int64_t(sizeof(float));
        const int64_t most = std::clamp<int64_t>(
            (room - reach_h_ * line) / (window_.stride_h * line + out.width * apart), 1, out.height);
        const int64_t bands = (out.height + most - 1) / most;
        const Floats sums = allocate(threads * products * size);
        std::fill_n(sums.get(), threads * products * size, 0.0f);
        in_parts(threads, out.batch * bands, [&](int64_t part, Range tasks) {
            for (int64_t task = tasks.first; task < tasks.last; task++) {
                const int64_t n = task / bands, band = task % bands;
                const Range y{band * out.height / bands, (band + 1) * out.height / bands};
                add({n, y}, task + 1 < tasks.last, wide, apart, sums.get() + part * products * size);
            }
        });
        for (int64_t o = 0; o < outputs_; o++)
            for (int64_t i = 0; i < inputs_; i++)
                for (int64_t t = 0; t < taps_; t++) {
                    const int64_t place = t / at_once_ * size + matrix_.place(t % at_once_ * inputs_ + i, o);
                    float sum = 0;
                    for (int64_t part = 0; part < threads; part++)
                        sum += sums[part * products * size + place];
                    wanted_.weight[(o * inputs_ + i) * taps_ + t] = sum;
                }
    }

    void input(const float* weight, int threads) const {
        if (window_.stride_h != 1 || window_.stride_w != 1)
            throw std::invalid_argument("the gradient of an input at a stride has no kernel");
        const Image &in = x_.z(), &out = dz_.z();
        const Floats turned = allocate(inputs_ * outputs_ * taps_);
        for (int64_t o = 0; o < outputs_; o++)
            for (int64_t i = 0; i < inputs_; i++)
                for (int64_t t = 0; t < taps_; t++)
                    turned[(i * outputs_ + o) * taps_ + taps_ - 1 - t] =
                        weight[(o * inputs_ + i) * taps_ + t];
        const Conv2d back({turned.get()}, nullptr, outputs_, inputs_, 1, window_, "", threads, false);
        const Range columns{padding_.left - reach_w_, padding_.left + in.width};
        const int64_t line = columns.size() * outputs_;
        const int64_t room = second_level_cache() / 2 / int64_t(sizeof(float));
        const int64_t most = std::clamp<int64_t>((room - reach_h_ * line) / (line + in.width * inputs_),
                                                 std::min<int64_t>(4, in.height), in.height);
        const int64_t bands = (in.height + most - 1) / most;
        std::vector<Gathered> found(threads);
        in_parts(threads, out.batch * bands, [&](int64_t part, Range tasks) {
            if (wanted_.sums) found[part].sums.resize(2 * inputs_);
            for (int64_t task = tasks.first; task < tasks.last; task++) {
                const int64_t n = task / bands, band = task % bands;
                const Range y{band * in.height / bands, (band + 1) * in.height / bands};
                const int64_t top = y.first + padding_.top - reach_h_, tall = y.size() + reach_h_;
                const Scratch arrived(tall * line);
                fill(dz_, n, {top, top + tall}, columns, arrived, outputs_);
                const int64_t first = (n * in.height + y.first) * in.width;
                back.rows({arrived, 1, tall, columns.size(), outputs_}, 0, {0, 0, 0, 0}, {0, y.size()},
                          wanted_.input + first * inputs_);
                finish(x_, wanted_, first, y.size() * in.width, found[part]);
            }
        });
        if (wanted_.sums) {
            std::vector<double> sum(2 * inputs_);
            merge(found, &Gathered::sums, sum);
            std::copy(sum.begin(), sum.end(), wanted_.sums);
        }
    }

private:
    struct Band { // rows of an image of the output
        int64_t image;
        Range y;
    };

    // Adds a band's part, one matrix for each of the products, to `sums`.
    void add(Band band, bool more, int64_t wide, int64_t apart, float* sums) const {
        const Image& out = dz_.z();
        const int64_t rows = band.y.size(), first = (band.image * out.height + band.y.first) * out.width;
        const int64_t tall = (rows - 1) * window_.stride_h + reach_h_ + 1, count = rows * out.width;
        const int64_t top = band.y.first * window_.stride_h - padding_.top, left = -padding_.left;
        // The last window is read as far as whole tiles go.
        const Scratch read(tall * wide * inputs_ + matrix_.image_numbers());
        fill(x_, band.image, {top, top + tall}, {left, left + wide}, read, inputs_);
        std::fill_n(read + tall * wide * inputs_, matrix_.image_numbers(), 0.0f);
        const bool makes = !dz_.plain() || apart != outputs_;
        const Scratch made(makes ? count * apart : 0);
        const float* arrived = makes ? made : dz_.data() + first * outputs_;
        if (makes)
            as_rows(first, count, outputs_, count, [&](int64_t at, int64_t across, int64_t down) {
                dz_.make(at, across, down, across, made + (at - first) * apart, apart, across * apart);
            });
        // The next band is about as large and begins where this one ends.
        const int64_t next = (first + count) * outputs_, asked = more ? count * outputs_ : 0;
        const int64_t products = taps_ / at_once_;
        const Ahead ahead({dz_.data() + next, asked}, {dz_.z().data + next, dz_.plain() ? 0 : asked},
                          products * rows * matrix_.steps(out.width));
        for (int64_t v = 0; v < rows; v++)
            for (int64_t p = 0; p < products; p++) {
                const int64_t t = p * at_once_, down = t / window_.kernel_w * window_.dilation_h,
                              across = t % window_.kernel_w * window_.dilation_w;
                const float* window = read + ((v * window_.stride_h + down) * wide + across) * inputs_;
                matrix_.sum(window, window_.stride_w * inputs_, arrived + v * out.width * apart, apart,
                            out.width, true, sums + p * matrix_.size());
            }
    }

    Window window_;
    Padding padding_;
    const Gradient& dz_;
    const Operand& x_;
    Wanted wanted_;
    int64_t inputs_, outputs_, taps_;
    int64_t at_once_; // taps of a row that lie side by side, and so are one product's
    Matrix matrix_;
    int64_t reach_h_, reach_w_;
};

} // namespace

void train_conv2d_backward(const float* weight, const Window& window, Padding padding, const Gradient& dz,
                           const Operand& x, const Wanted& wanted, int threads) {
    expect_writes(wanted.input, x.pixels() * x.z().channels);
    const Standardly layer(window, padding, dz, x, wanted);
    if (wanted.weight) layer.weights(threads);
    if (wanted.input) layer.input(weight, threads);
}

} // namespace ninefold
