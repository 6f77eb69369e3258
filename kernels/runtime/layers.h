// The convolutions with their weights packed for one instruction set, and the loops around the kernels.
//
// Images are NHWC: (batch, height, width, channels). Pointers and shapes are the caller's to check.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernels.h"
#include "memory.h"

namespace ninefold {

struct Image {
    const float* data;
    int64_t batch, height, width, channels;
    int64_t stride = channels; // from pixel to pixel; more than its channels in part of a wider image
    const float* row(int64_t n, int64_t y) const { return data + (n * height + y) * width * stride; }
};

// Where a result goes: dense rows of pixels that lie `stride` apart.
struct Result {
    float* data;
    int64_t stride;
};

// What lies around the image, as torch.nn.functional.pad has it.
struct Padding {
    int left, right, top, bottom;
};

// clip bounds inside the kernel, and what is applied afterwards while the tile is in the cache.
class Activation {
public:
    Activation(const Kernels& kernels, const std::string& name);

    float low, high;
    bool follows() const { return which_ >= 0; }

    // What follows, in place, on `pixels` rows of `channels` numbers that lie `stride` apart.
    void apply(float* tile, int64_t channels, int64_t pixels, int64_t stride) const;
    // All of it, on numbers that lie side by side.
    void apply(const float* from, float* to, int64_t count) const;

private:
    const Kernels* kernels_;
    int which_ = -1; // the epilogue's number
};

struct Range {
    int64_t first, last; // the last is not in it
    int64_t size() const { return last - first; }
};

struct Window {
    int kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
    int64_t output_height(int64_t height, Padding p) const {
        return (height + p.top + p.bottom - int64_t(dilation_h) * (kernel_h - 1) - 1) / stride_h + 1;
    }
    int64_t output_width(int64_t width, Padding p) const {
        return (width + p.left + p.right - int64_t(dilation_w) * (kernel_w - 1) - 1) / stride_w + 1;
    }
    // Throws std::length_error where a position in the padded image leaves 32 bits: the kernels count so.
    void check(int64_t height, int64_t width, int64_t channels, Padding p) const {
        const double tall = double(height) + p.top + p.bottom, wide = double(width) + p.left + p.right;
        const int step = std::max({stride_h, stride_w, dilation_h, dilation_w});
        if (std::max(tall * wide, double(step)) * double(channels) > 2147483647.0)
            throw std::length_error(
                "a padded image of more than 2^31 - 1 numbers is too large for the kernels");
    }
    // The output columns, and rows, none of whose taps leaves the image.
    Range inner_columns(int64_t width, Padding p) const;
    Range inner_rows(int64_t height, Padding p) const;
};

// How far apart to lay pixels of so many channels. A stride of a multiple of 2 KB puts the pixels of one tile
// on the same few sets of the first cache: 1024→1024 at 7×7 ran at 84 GFLOP/s instead of 108.
inline int64_t spread(int64_t channels) {
    return channels % 512 == 0 ? channels + 16 : channels;
}

// The means over the pixels of images that are made a few rows at a time, summed while the cache has them:
// row by row and then the rows, so that it is the same however many were made at once, and by whom.
class Means {
public:
    // mean: (images, channels), or null where nobody asks.
    Means(const Kernels& kernels, float* mean, int64_t images, int64_t height, int64_t width,
          int64_t channels);
    // Rows of an image, dense, the first of them given.
    void add(int64_t image, Range rows, const float* first);
    void write();

private:
    const Kernels& kernels_;
    float* const mean_;
    const int64_t images_, height_, width_, channels_;
    const Scratch sums_; // (images, height, channels)
};

class Depthwise {
public:
    // weight: (channels · multiplier, 1, kernel_h, kernel_w); bias: channels · multiplier numbers or null.
    Depthwise(const float* weight, const float* bias, int64_t channels, int multiplier, Window window,
              const std::string& activation);

    // out: (batch, output height, output width, channels · multiplier); mean: (batch, channels · multiplier)
    // or null, for a dense result only.
    void run(const Image& image, Padding padding, Result out, int threads, float* mean = nullptr) const;

    // Output rows [y0, y1) of image n, channels [c0, c1), into `out`, whose pixels lie out_stride apart.
    void rows(const Image& image, int64_t n, Padding padding, int64_t y0, int64_t y1, int64_t c0, int64_t c1,
              float* out, int64_t out_stride) const;

    struct Plane { // one image from its first channel in use; its pixels lie `stride` apart
        const float* data;
        int64_t height, width, stride;
    };
    // Output rows and channels of a plane, into `out`: rows of `width` pixels that lie out_stride apart.
    void filter(const Plane& plane, Padding padding, Range rows, int64_t width, Range channels, float* out,
                int64_t out_stride) const;

    int64_t in_channels() const { return channels_; }
    int64_t out_channels() const { return channels_ * multiplier_; }
    const Window& window() const { return window_; }

private:
    struct Source { // as a plane, its rows `line` apart
        const float* data;
        int64_t height, width, stride, line;
    };
    struct Target { // pixels and rows that lie so far apart, from the first of both in use
        float* data;
        int64_t stride, line;
    };
    void filter(const Source& source, const Window& window, Padding padding, Range rows, int64_t width,
                Range channels, Target out) const;
    void flat(const Source& source, const Window& window, Padding padding, Range rows, int64_t width,
              Range channels, Target out) const;

    bool flat_; // fewer channels than a vector has lanes, or handled like those
    const Kernels& kernels_;
    int64_t channels_;
    int multiplier_;
    Window window_;
    Activation activation_;
    const DepthwiseSized* sized_ = nullptr; // of the filter itself, or of the undilated one it is made of
    int apart_ = 1; // one of so many rows, and columns, of the result belongs to the same undilated filter
    Floats weight_, bias_;
};

class Pointwise {
public:
    // weight: (out_channels, in_channels), or `turned` the other way; bias: out_channels numbers or null.
    Pointwise(const float* weight, const float* bias, int64_t in_channels, int64_t out_channels,
              const std::string& activation, int threads, bool turned = false);
    // Without weights and bias: for `panels`, which are given some.
    Pointwise(int64_t in_channels, int64_t out_channels);

    // image: (pixels, in_channels), image_stride apart; residual (or null, dense) and out: (pixels,
    // out_channels). gate (or null): in_channels numbers that every pixel is multiplied by first.
    void run(const float* image, int64_t image_stride, int64_t pixels, const float* gate,
             const float* residual, Result out, int threads) const;

    // The panels [first, last) of output channels, on one thread; the pixels of the image lie image_stride
    // apart. `weights` (or null: the layer's own) are packed like the layer's.
    void panels(const float* image, int64_t image_stride, int64_t pixels, const float* residual, Result out,
                int first, int last, const float* weights = nullptr) const;

    // One of `parts` equal shares of all panels, on one thread. A share may begin and end within a panel, at
    // a tile of pixels: of five panels two threads would have two and three.
    void share(const float* image, int64_t image_stride, int64_t pixels, const float* residual, Result out,
               int64_t part, int64_t parts, const float* weights = nullptr) const;

    int64_t in_channels() const { return in_channels_; }
    int64_t out_channels() const { return out_channels_; }
    const Kernels& kernels() const { return kernels_; }
    int panel_count() const { return int(blocks_.size()); }
    int panel_width(int panel) const { return blocks_[panel].panel->width; }
    int64_t weight_bytes() const { return packed_ * int64_t(sizeof(float)); }
    // About how many steps the kernels' innermost loops make for so many pixels.
    int64_t steps(int64_t pixels) const {
        return pixels / blocks_.front().panel->tiles.front().pixels * panel_count() * in_channels_;
    }

private:
    struct Block { // one panel of output channels
        const PointwisePanel* panel;
        int64_t first, valid; // its first output channel, and how many of its channels are not padding
        int64_t offset;       // its weights
        int64_t bias;
    };
    void divide();
    // Instead of all that follows, for few filters: their sums along each pixel.
    void few(const float* image, int64_t image_stride, int64_t pixels, Result out, int threads) const;
    void tiles(const Block& block, int count, const float* weights, const float* image, int64_t image_stride,
               int64_t pixels, const float* residual, Result out, int64_t channels) const;
    void gated(const float* gate, float* gated, int threads) const;

    const Kernels& kernels_;
    int64_t in_channels_, out_channels_, packed_ = 0;
    Activation activation_;
    std::vector<Block> blocks_;
    Floats weight_, bias_;
    Floats rows_; // the weights as they came, for few filters; else null
};

// The standard 3×3 convolution with fewer multiplications: stride 1 with a quarter of them, stride 2 with 25
// of 36. See kernels/winograd.py.
class Winograd {
public:
    static bool takes(const Window& window, int64_t in_channels, int64_t out_channels);

    // As Conv2d's. Only where takes(…).
    Winograd(const float* weight, const float* bias, int64_t in_channels, int64_t out_channels, Window window,
             const std::string& activation, int threads);

    // Whether it is to be expected that a result of this size is there sooner than by all multiplications.
    bool pays(int64_t height, int64_t width) const;

    void run(const Image& image, Padding padding, float* out, int threads) const;

private:
    struct Stretch;
    struct Sum {
        Pointwise products;
        int64_t first; // of a tile's factors
    };
    template <class Body>
    static void stretches(Range tiles, int64_t down, int64_t across, Body&& body);
    void before(const Image& image, Padding padding, const Stretch& tiles, float* out) const;
    void after(const float* sums, const Stretch& tiles, int64_t height, int64_t width, float* out) const;

    const Kernels& kernels_;
    const Scheme& scheme_;
    Window window_;
    int64_t in_channels_, out_channels_;
    Activation activation_;
    Floats bias_;
    std::vector<Sum> sums_;
    int64_t weight_bytes_ = 0;
};

// A standard convolution's weights: (out_channels, in_channels / groups, kernel_h, kernel_w), in that order
// in memory, or channels_last as a network's are that is so as a whole.
struct Filters {
    const float* data;
    bool channels_last = false;
};

class Conv2d {
public:
    // bias: out_channels numbers or null.
    // `winograd`: with fewer multiplications where that is faster. `once`: how many numbers the images of its
    // only call have, or 0 where there may be more calls. Many weights for small images are then packed
    // panel by panel as the call comes to them, and must stay where they are until then.
    Conv2d(Filters weight, const float* bias, int64_t in_channels, int64_t out_channels, int groups,
           Window window, const std::string& activation, int threads, bool winograd, int64_t once = 0);

    // out: (batch, output height, output width, out_channels).
    void run(const Image& image, Padding padding, float* out, int threads) const;

    // Output rows y of image n, dense, all multiplications made.
    void rows(const Image& image, int64_t n, Padding padding, Range y, float* out) const;

    int64_t out_channels() const { return out_channels_; }
    const Window& window() const { return window_; }

private:
    struct Block { // one panel of a group's output channels
        const Conv2dPanel* panel;
        int64_t group, first, valid; // its first output channel, and how many of its channels are not padding
        int64_t weight, bias;        // where its own begin
    };
    struct Plane { // rows of an image as the kernels see them, and where column x = 0, row y = 0 has its taps
        const float* data;
        int64_t height, line;
        int32_t left, top;
    };
    // The panels [first, last), their weights in `packed` (or null: the layer's own).
    void in_tiles(const Image& image, int64_t n, Padding padding, Range y, Range panels, const float* packed,
                  float* out) const;
    void pack(Filters weight, const Block& block, float* to, int64_t part, int64_t parts) const;
    void panel_by_panel(const Image& image, Padding padding, float* out, int threads) const;
    void sampled(const Image& image, int64_t n, Padding padding, Range y, float* out) const;
    Range seen(const Image& image, Padding padding, Range y) const;
    Plane strip(const Image& image, int64_t n, Padding padding, Range x, Range y, float* memory) const;
    std::pair<int64_t, int64_t> borders(int64_t width, Range inner) const;

    const Kernels& kernels_;
    int64_t in_channels_, out_channels_;
    int groups_;
    Window window_;
    int64_t run_, steps_, hop_; // the sum over a kernel's row: see kernels/conv2d.py
    Activation activation_;
    std::vector<Block> blocks_;
    Filters unpacked_{nullptr}; // the caller's weights, where they are packed panel by panel
    Floats weight_, bias_;
    std::optional<Pointwise> pointwise_; // instead of all that, for a window of one pixel
    std::optional<Winograd> winograd_;   // beside it, where asked for
};

// Convolves once: what a Conv2d would give, sooner where packing its weights outweighs what is done with
// them. bias: out_channels numbers or null.
void convolve(Filters weight, const float* bias, int64_t out_channels, int groups, const Window& window,
              const std::string& activation, const Image& image, Padding padding, float* out, int threads);

// Depthwise, then pointwise, the filtered rows never leaving the cache.
class Separable {
public:
    Separable(const Depthwise& depthwise, const Pointwise& pointwise);

    // residual (or null) and out: (batch, output height, output width, out_channels).
    void run(const Image& image, Padding padding, const float* residual, float* out, int threads) const;

    int64_t out_channels() const { return pointwise_.out_channels(); }
    const Window& window() const { return depthwise_.window(); }

private:
    const Depthwise& depthwise_;
    const Pointwise& pointwise_;
};

// Pointwise (expansion), depthwise, pointwise (projection): MobileNetV2's inverted residual, its wide image
// never leaving the cache. Without the projection (null) it ends with the depthwise stage, as it must where
// a squeeze-and-excitation stands between them.
class Inverted {
public:
    Inverted(const Pointwise& expansion, const Depthwise& depthwise, const Pointwise* projection);

    // residual (or null) and out: (batch, output height, output width, out_channels); mean, where no
    // projection follows: (batch, out_channels) or null.
    void run(const Image& image, Padding padding, const float* residual, float* out, int threads,
             float* mean = nullptr) const;

    bool projects() const { return projection_; }
    int64_t out_channels() const {
        return projection_ ? projection_->out_channels() : depthwise_.out_channels();
    }
    const Window& window() const { return depthwise_.window(); }

private:
    void rows(const Image& image, int64_t n, Padding padding, Range y, const float* residual, float* out,
              Means& means) const;

    const Pointwise& expansion_;
    const Depthwise& depthwise_;
    const Pointwise* projection_;
    std::optional<Separable> separable_;
};

// Bytes of a core's second-level cache, or a guess.
int64_t second_level_cache();

// Bytes of the last-level cache, which the cores share, or a guess.
int64_t last_level_cache();

// The two limits of this machine. Operations a second with every thread busy, and bytes a second read plus
// written over arrays of `bytes` in all per thread.
double fma_peak(int threads, double seconds);
double copy_bandwidth(int64_t bytes, int threads, double seconds);

} // namespace ninefold
