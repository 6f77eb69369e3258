// Images as training reads them: normalised, turned, summed; and the passes that are no convolution.
#include "training.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "bands.h"
#include "buffer.h"
#include "errors.h"

namespace ninefold {

namespace {

const int64_t kTile = 256; // pixels whose sum is taken in float32

Buffer numbers(const float* row, int64_t channels) {
    return Buffer(row, {{0, channels, 1}});
}

// A dense window as it is; pixel by pixel only where they will lie further apart.
void copy(const float* from, int64_t channels, int64_t width, int64_t height, int64_t pitch, float* out,
          int64_t apart, int64_t row) {
    const int64_t run = apart == channels ? width * channels : channels, runs = width * channels / run;
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < runs; x++)
            std::memcpy(out + y * row + x * apart, from + y * pitch + x * channels, run * sizeof(float));
}

} // namespace

Operand::Operand(const Image& z, const float* numbers, const std::string& activation)
    : kernels_(&current_for(z.channels)), z_(z), numbers_(numbers), activation_(activation) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    // The bounds themselves stop the gradient; a denormal would not, for whoever flushes those.
    low_ = activation == "relu" || activation == "relu6" ? std::numeric_limits<float>::min() : nan;
    high_ = activation == "relu6" ? std::nextafter(6.0f, 0.0f) : nan;
    if (activation.empty() || activation == "relu" || activation == "relu6") return;
    for (size_t k = 0; k < kernels_->slopes.size(); k++)
        if (kernels_->slopes[k] == activation) slope_ = int(k);
    if (slope_ < 0) throw std::invalid_argument("no gradient kernel for the activation " + activation);
}

void Operand::make(int64_t pixel, int64_t width, int64_t height, int64_t pitch, float* out, int64_t apart,
                   int64_t row, bool near) const {
    const int64_t c = z_.channels;
    const float* from = z_.data + pixel * c;
    if (!numbers_) {
        copy(from, c, width, height, pitch * c, out, apart, row);
        return;
    }
    const Activation clip(*kernels_, activation_);
    Buffer z(from, {{0, c, 1}, {0, width, c}, {0, height, pitch * c}});
    Buffer target(out, {{0, c, 1}, {0, width, apart}, {0, height, row}});
    Buffer mean = numbers(this->row(0), c), scale = numbers(this->row(2), c),
           shift = numbers(this->row(3), c);
    check(kernels_->apply(z, mean, scale, shift, clip.low, clip.high, near, target));
    if (clip.follows())
        for (int64_t y = 0; y < height; y++)
            clip.apply(out + y * row, c, width, apart);
}

Gradient::Gradient(const Operand& operand, const float* gradient, const float* turn)
    : operand_(operand), gradient_(gradient), turn_(turn) {
    if (turn && operand.plain()) throw std::invalid_argument("a gradient is turned by an operand's numbers");
}

void Gradient::make(int64_t pixel, int64_t width, int64_t height, int64_t pitch, float* out, int64_t apart,
                    int64_t row, bool near) const {
    const Operand& o = operand_;
    const int64_t c = o.z_.channels;
    const float* from = gradient_ + pixel * c;
    if (!turn_) {
        copy(from, c, width, height, pitch * c, out, apart, row);
        return;
    }
    Buffer gradient(from, {{0, c, 1}, {0, width, c}, {0, height, pitch * c}});
    Buffer z(o.z_.data + pixel * c, {{0, c, 1}, {0, width, c}, {0, height, pitch * c}});
    Buffer target(out, {{0, c, 1}, {0, width, apart}, {0, height, row}});
    Buffer mean = numbers(o.row(0), c), scale = numbers(o.row(2), c), shift = numbers(o.row(3), c);
    Buffer p = numbers(turn_, c), q = numbers(turn_ + c, c), r = numbers(turn_ + 2 * c, c);
    check(o.kernels_->turn(gradient, z, mean, scale, shift, p, q, r, o.low_, o.high_, near, target));
}

void Gradient::slope(int64_t pixel, int64_t count, float* out) const {
    const Operand& o = operand_;
    const int64_t c = o.z_.channels;
    Buffer mean = numbers(o.row(0), c), scale = numbers(o.row(2), c), shift = numbers(o.row(3), c);
    as_rows(pixel, count, c, count, [&](int64_t at, int64_t width, int64_t height) {
        Buffer gradient(gradient_ + at * c, {{0, c, 1}, {0, width, c}, {0, height, width * c}});
        Buffer z(o.z_.data + at * c, {{0, c, 1}, {0, width, c}, {0, height, width * c}});
        Buffer target(out + at * c, {{0, c, 1}, {0, width, c}, {0, height, width * c}});
        check(o.kernels_->slope(gradient, z, mean, scale, shift, o.slope_, target));
    });
}

void Gradient::clip(int64_t pixel, int64_t count, float* out) const {
    const Operand& o = operand_;
    const int64_t c = o.z_.channels;
    // As a turn: z's mean is 0 and its scale 1, so they are its three numbers, too. A vector that is made
    // twice, the last of a row, is the same the second time.
    Buffer zero = numbers(o.row(0), c), one = numbers(o.row(2), c);
    as_rows(pixel, count, c, count, [&](int64_t at, int64_t width, int64_t height) {
        Buffer gradient(gradient_ + at * c, {{0, c, 1}, {0, width, c}, {0, height, width * c}});
        Buffer z(o.z_.data + at * c, {{0, c, 1}, {0, width, c}, {0, height, width * c}});
        Buffer target(out + at * c, {{0, c, 1}, {0, width, c}, {0, height, width * c}});
        check(o.kernels_->turn(gradient, z, zero, one, zero, one, zero, zero, o.low_, o.high_, true, target));
    });
}

void Gradient::reduce(int64_t pixel, int64_t count, double* sums) const {
    const Operand& o = operand_;
    const int64_t c = o.z_.channels;
    const Scratch tile(2 * c);
    Buffer mean = numbers(o.row(0), c), scale = numbers(o.row(2), c), shift = numbers(o.row(3), c);
    Buffer first = numbers(tile, c), second = numbers(tile + c, c);
    as_rows(pixel, count, c, kTile, [&](int64_t at, int64_t width, int64_t height) {
        Buffer gradient(gradient_ + at * c, {{0, c, 1}, {0, width, c}, {0, height, width * c}});
        Buffer z(o.z_.data + at * c, {{0, c, 1}, {0, width, c}, {0, height, width * c}});
        check(o.kernels_->sums(gradient, z, mean, scale, shift, o.low_, o.high_, first, second));
        for (int64_t k = 0; k < 2 * c; k++)
            sums[k] += double(tile[k]);
    });
}

Moments::Moments(int64_t channels)
    : mean_(channels), spread_(channels), pivot_(channels), first_(channels), second_(channels) {}

void Moments::merge(double count, int64_t c, double mean, double spread) {
    const double all = count_ + count, apart = mean - mean_[c];
    mean_[c] += apart * (count / all);
    spread_[c] += spread + apart * apart * (count_ * count / all);
}

void Moments::add(const Kernels& kernels, const float* z, int64_t pixels) {
    const int64_t c = int64_t(mean_.size());
    Buffer pivot = numbers(pivot_.data(), c), first = numbers(first_.data(), c),
           second = numbers(second_.data(), c);
    as_rows(0, pixels, c, kTile, [&](int64_t at, int64_t width, int64_t height) {
        // The mean so far, so that a tile's sums lose nothing to it; the first tile finds its own first.
        const double n = double(width * height);
        Buffer tile(z + at * c, {{0, c, 1}, {0, width, c}, {0, height, width * c}});
        for (int64_t k = 0; k < c; k++)
            pivot_[k] = count_ > 0 ? float(mean_[k]) : z[at * c + k];
        if (count_ == 0) {
            check(kernels.statistics(tile, pivot, first, second));
            for (int64_t k = 0; k < c; k++)
                pivot_[k] += float(first_[k] / n);
        }
        check(kernels.statistics(tile, pivot, first, second));
        for (int64_t k = 0; k < c; k++) {
            const double sum = first_[k], squares = second_[k];
            merge(n, k, pivot_[k] + sum / n, std::max(squares - sum * sum / n, squares - squares));
        }
        count_ += n;
    });
}

void Moments::add(const Moments& other) {
    if (other.count_ == 0) return;
    for (size_t c = 0; c < mean_.size(); c++)
        merge(other.count_, int64_t(c), other.mean_[c], other.spread_[c]);
    count_ += other.count_;
}

void Moments::write(float* mean, float* variance) const {
    for (size_t c = 0; c < mean_.size(); c++) {
        mean[c] = float(mean_[c]);
        variance[c] = float(spread_[c] / count_);
    }
}

void train_normalisation(float* numbers, const float* gamma, const float* beta, double epsilon,
                         int64_t channels) {
    for (int64_t c = 0; c < channels; c++) {
        const double deviation = std::sqrt(double(numbers[channels + c]) + epsilon);
        numbers[2 * channels + c] = float((gamma ? double(gamma[c]) : 1.0) / deviation);
        numbers[3 * channels + c] = beta ? beta[c] : 0.0f;
    }
}

void train_normalisation_gradient(const float* numbers, const float* gamma, double epsilon,
                                  const double* sums, double count, bool batch, int64_t channels, float* turn,
                                  float* gamma_gradient, float* beta_gradient) {
    for (int64_t c = 0; c < channels; c++) {
        const double inverse = 1 / std::sqrt(double(numbers[channels + c]) + epsilon);
        const double along = sums[channels + c] * inverse, scale = (gamma ? double(gamma[c]) : 1.0) * inverse;
        turn[c] = float(scale);
        turn[channels + c] = batch ? float(-inverse * along / count) : 0.0f;
        turn[2 * channels + c] = batch ? float(-sums[c] / count) : 0.0f;
        if (gamma_gradient) gamma_gradient[c] = float(along);
        if (beta_gradient) beta_gradient[c] = float(sums[c]);
    }
}

void train_apply(const Operand& x, const float* residual, float* out, int threads) {
    const int64_t c = x.z().channels, step = std::max<int64_t>(64, 65536 / c);
    const int64_t bands = (x.pixels() + step - 1) / step;
    const Kernels& kernels = current_for(c);
    expect_writes(out, x.pixels() * c);
    parallel_for(threads, bands, [&](int64_t band) {
        const int64_t first = band * step, count = std::min(step, x.pixels() - first);
        as_rows(first, count, c, count, [&](int64_t at, int64_t width, int64_t height) {
            x.make(at, width, height, width, out + at * c, c, width * c);
        });
        if (!residual) return;
        Buffer sum(out + first * c, {{0, count * c, 1}, {0, 1, count * c}});
        Buffer same(out + first * c, {{0, count * c, 1}, {0, 1, count * c}});
        Buffer other(residual + first * c, {{0, count * c, 1}, {0, 1, count * c}});
        check(kernels.add(same, other, sum));
    });
}

void train_moments(const Image& z, float* moments, int threads) {
    const int64_t pixels = z.batch * z.height * z.width;
    std::vector<Moments> found(threads, Moments(z.channels));
    const Kernels& kernels = current_for(z.channels);
    in_parts(threads, (pixels + kTile - 1) / kTile, [&](int64_t part, Range tiles) {
        const int64_t first = tiles.first * kTile, last = std::min(tiles.last * kTile, pixels);
        found[part].add(kernels, z.data + first * z.channels, last - first);
    });
    for (int part = 1; part < threads; part++)
        found[0].add(found[part]);
    found[0].write(moments, moments + z.channels);
}

void train_reduce(const Gradient& gradient, float* out, double* sums, int threads) {
    const Operand& x = gradient.operand();
    const int64_t c = x.z().channels, pixels = x.pixels(), step = std::max<int64_t>(64, 65536 / c);
    if (x.has_slope()) expect_writes(out, pixels * c);
    std::vector<std::vector<double>> found(threads, std::vector<double>(2 * c));
    in_parts(threads, (pixels + step - 1) / step, [&](int64_t part, Range bands) {
        for (int64_t band = bands.first; band < bands.last; band++) {
            const int64_t first = band * step, count = std::min(step, pixels - first);
            if (x.has_slope()) gradient.slope(first, count, out);
            const Gradient through(x, x.has_slope() ? out : gradient.data(), nullptr);
            through.reduce(first, count, found[part].data());
        }
    });
    for (int64_t k = 0; k < 2 * c; k++) {
        double sum = 0;
        for (const auto& thread : found)
            sum += thread[k];
        sums[k] = sum;
    }
}

void train_turn(const Gradient& gradient, float* out, int threads) {
    const Operand& x = gradient.operand();
    const int64_t c = x.z().channels, step = std::max<int64_t>(64, 65536 / c);
    expect_writes(out, x.pixels() * c);
    parallel_for(threads, (x.pixels() + step - 1) / step, [&](int64_t band) {
        const int64_t first = band * step, count = std::min(step, x.pixels() - first);
        as_rows(first, count, c, count, [&](int64_t at, int64_t width, int64_t height) {
            gradient.make(at, width, height, width, out + at * c, c, width * c);
        });
    });
}

} // namespace ninefold
