// Training: convolutions of images that are normalised as they are read, and their gradients, a band at a
// time in the cache. See kernels/batchnorm.py for the formulas and ARCHITECTURE.md for the passes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "layers.h"

namespace ninefold {

// A convolution's output z as the next convolution reads it: activation(scale·(z - mean) + shift). `numbers`
// are four rows of one number per channel: mean, variance, scale, shift. Null: z as it is.
class Operand {
public:
    Operand(const Image& z, const float* numbers, const std::string& activation);

    // A window of `width` × `height` pixels whose first is `pixel` and whose rows lie `pitch` pixels apart,
    // into `out`, whose pixels lie `apart` numbers and whose rows `row` numbers apart. `near`: the cache has
    // z, for it was asked for.
    void make(int64_t pixel, int64_t width, int64_t height, int64_t pitch, float* out, int64_t apart,
              int64_t row, bool near = false) const;

    bool plain() const { return !numbers_; }
    bool has_slope() const { return slope_ >= 0; }
    const Image& z() const { return z_; }
    int64_t pixels() const { return z_.batch * z_.height * z_.width; }

private:
    friend class Gradient;
    const float* row(int k) const { return numbers_ + k * z_.channels; }

    const Kernels* kernels_;
    Image z_;
    const float* numbers_;
    std::string activation_;
    float low_, high_; // where the gradient passes, NaN for no bound
    int slope_ = -1;   // the activation's place among the slopes
};

// The gradient that arrives at an operand, and from it the gradient of z. `turn` are three rows of one number
// per channel: p, q, r. Null: the gradient as it is. An activation that is no clip has been multiplied in
// already (`slope`).
class Gradient {
public:
    Gradient(const Operand& operand, const float* gradient, const float* turn);

    // As Operand::make: the gradient of z.
    void make(int64_t pixel, int64_t width, int64_t height, int64_t pitch, float* out, int64_t apart,
              int64_t row, bool near = false) const;

    // Of `count` pixels: multiply the activation's derivative in, into `out` (which may be the gradient).
    void slope(int64_t pixel, int64_t count, float* out) const;

    // Of `count` pixels, behind an operand that normalises nothing (mean 0, scale 1): the gradient where a
    // clip let z pass, 0 elsewhere, into `out` (which may be the gradient).
    void clip(int64_t pixel, int64_t count, float* out) const;

    // Of `count` pixels: add Σ g and Σ g·(z - mean) to the two rows of `sums`.
    void reduce(int64_t pixel, int64_t count, double* sums) const;

    bool plain() const { return !turn_; }
    const Operand& operand() const { return operand_; }
    const Image& z() const { return operand_.z_; }
    const float* data() const { return gradient_; }

private:
    Operand operand_;
    const float *gradient_, *turn_;
};

// Mean and variance of each channel, gathered tile by tile and merged by the formula of Chan, Golub and
// LeVeque (1979), in float64.
class Moments {
public:
    explicit Moments(int64_t channels);
    void add(const Kernels& kernels, const float* z, int64_t pixels);
    void add(const Moments& other);
    void write(float* mean, float* variance) const; // the biased variance

private:
    void merge(double count, int64_t c, double mean, double spread);

    double count_ = 0;
    std::vector<double> mean_, spread_;
    std::vector<float> pivot_, first_, second_;
};

// scale and shift of an operand's numbers from its mean and variance; gamma and beta may be null (1 and 0).
void train_normalisation(float* numbers, const float* gamma, const float* beta, double epsilon,
                         int64_t channels);

// The turn of a gradient from its two sums over `count` pixels, and the gradients of gamma and beta (or
// null). Without `batch` the statistics are constants.
void train_normalisation_gradient(const float* numbers, const float* gamma, double epsilon,
                                  const double* sums, double count, bool batch, int64_t channels, float* turn,
                                  float* gamma_gradient, float* beta_gradient);

// out: the convolution of the operand, raw; moments (or null): two rows of numbers, mean and biased variance.
void train_forward(const Depthwise& layer, const Operand& x, Padding padding, float* out, float* moments,
                   int threads);
void train_forward(const Pointwise& layer, const Operand& x, float* out, float* moments, int threads);
void train_forward(const Conv2d& layer, const Operand& x, Padding padding, float* out, float* moments,
                   int threads);

// The gradients of a convolution: `dz` what arrives at its output, x what it read. weight_gradient, in the
// weight's own layout, and input_gradient may be null; sums (or null): x's two reductions. With them
// input_gradient is the one at x's activation; without them x's numbers must be those of no normalisation,
// and it is the one ahead of the activation. added (or null): what a pointwise convolution adds to
// input_gradient, where x is read as it is.
struct Wanted {
    float* weight;
    float* input;
    double* sums;
    const float* added = nullptr;
};
void train_backward(const float* weight, const Window& window, Padding padding, const Gradient& dz,
                    const Operand& x, const Wanted& wanted, int threads);
void train_backward(const float* weight, const Gradient& dz, const Operand& x, const Wanted& wanted,
                    int threads);
// Of a standard convolution in one group; throws std::invalid_argument where the gradient of an input is
// wanted at a stride.
void train_conv2d_backward(const float* weight, const Window& window, Padding padding, const Gradient& dz,
                           const Operand& x, const Wanted& wanted, int threads);

// The whole image of an operand, with the residual (or null) added; its moments; its gradient's two
// reductions, with a slope multiplied into `out`; the gradient of z.
void train_apply(const Operand& x, const float* residual, float* out, int threads);
void train_moments(const Image& z, float* moments, int threads);
void train_reduce(const Gradient& gradient, float* out, double* sums, int threads);
void train_turn(const Gradient& gradient, float* out, int threads);

} // namespace ninefold
