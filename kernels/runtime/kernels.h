// What the Halide kernels look like from C++: their types, and the table of one instruction set.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "HalideRuntime.h"

namespace ninefold {

// Arguments in the order of the kernels' Python sources; the last buffer is the output.
using B = halide_buffer_t*;
using DepthwiseSizedKernel = int(B image, B weight, B bias, int32_t left, int32_t top, float low, float high,
                                 B out);
using DepthwiseAnywhereKernel = int(B image, B weight, B bias, int32_t stride_x, int32_t stride_y,
                                    int32_t dilation_x, int32_t dilation_y, int32_t left, int32_t top,
                                    float low, float high, B out);
using DepthwiseFlatKernel = int(B image, B weight, B bias, B offsets, int32_t channels, int32_t first,
                                int32_t reach, float low, float high, B out);
using PointwiseKernel = int(B image, B weight, B bias, B residual, bool add_residual, float low, float high,
                            B out);
using PointwiseFewKernel = int(B image, B weight, B bias, float low, float high, B out);
using Conv2dKernel = int(B image, B weight, B bias, int32_t stride_x, int32_t left, int32_t hop,
                         int32_t stride_y, int32_t top, int32_t dilation_y, float low, float high, B out);
using BeforeKernel = int(B image, B out);
using AfterKernel = int(B sums, B bias, float low, float high, B out);
using EpilogueKernel = int(B image, int32_t which, B out);
using AddKernel = int(B image, B residual, B out);
using ClipKernel = int(B image, float low, float high, B out);
using MeanKernel = int(B image, float share, B out);
using LayerNormKernel = int(B image, B gain, B offset, float epsilon, B out);
using ApplyKernel = int(B z, B mean, B scale, B shift, float low, float high, bool near, B out);
using TurnKernel = int(B gradient, B z, B mean, B scale, B shift, B p, B q, B r, float low, float high,
                       bool near, B out);
using StatisticsKernel = int(B z, B pivot, B first, B second);
using SumsKernel = int(B gradient, B z, B mean, B scale, B shift, float low, float high, B first, B second);
using SlopeKernel = int(B gradient, B z, B mean, B scale, B shift, int32_t which, B out);
using DepthwiseWeightKernel = int(B image, B gradient, int32_t stride_x, int32_t stride_y, int32_t dilation_x,
                                  int32_t dilation_y, B out);
using ParityKernel = int(B gradient, B weight, bool odd, B out);
using DepthwiseInputKernel = int(B gradient, B weight, int32_t stride_x, int32_t stride_y, int32_t dilation_x,
                                 int32_t dilation_y, B out);
using PointwiseWeightKernel = int(B image, B gradient, B init, B out);
using CopyKernel = int(B image, B out);
using FmaKernel = int(B factor, float b, B out);

struct DepthwiseSized {
    int size, stride;
    // All but `border` may be null. wide: inner with more columns; narrow: border with fewer.
    DepthwiseSizedKernel *inner, *wide, *border, *narrow;
};

template <class Kernel>
struct Tile {
    int pixels;
    Kernel* run;
};

// How many tiles of each height make each number of pixels below four of the tallest, in the least time: not
// always the tallest first. 49 pixels are seven tiles of 7; as four of 12 and one of 1 they take 52 pixels'
// time, since fewer than 4 pixels wait for their own sums.
template <class Kernel>
std::vector<std::vector<int>> mixes(const std::vector<Tile<Kernel>>& tiles) {
    const int most = 4 * tiles.front().pixels;
    std::vector<std::vector<int>> best(most);
    std::vector<int> least(most, 1 << 30), counts(tiles.size());
    const auto take = [&](const auto& self, size_t t, int pixels, int cost) -> void {
        if (t == tiles.size()) {
            if (cost < least[pixels]) least[pixels] = cost, best[pixels] = counts;
            return;
        }
        const int height = tiles[t].pixels, price = 8 * std::max(height, 4) + 1;
        for (int n = 0; pixels + n * height < most && (height > 1 || n < tiles.front().pixels); n++) {
            counts[t] = n;
            self(self, t + 1, pixels + n * height, cost + n * price + (n ? 4 : 0)); // 4: a call
        }
        counts[t] = 0;
    };
    take(take, 0, 0, 0);
    return best;
}

template <class Kernel>
struct Panel {
    int width;                       // output channels
    std::vector<Tile<Kernel>> tiles; // tallest first, the last of one pixel
    std::vector<std::vector<int>> mix;

    Panel(int width, std::vector<Tile<Kernel>> tiles) : width(width), tiles(tiles), mix(mixes(tiles)) {}

    // How many tiles of each height to take for so many pixels.
    std::vector<int> counts(int64_t pixels) const {
        const int64_t tallest = tiles.front().pixels;
        const int64_t whole = std::max<int64_t>(0, pixels / tallest - 3);
        std::vector<int> counts = mix[pixels - whole * tallest];
        counts.front() += int(whole);
        return counts;
    }
};
using PointwisePanel = Panel<PointwiseKernel>;
using Conv2dPanel = Panel<Conv2dKernel>; // its tile of one pixel may lie anywhere

// A 3×3 convolution with fewer multiplications, one dimension of it: see kernels/winograd.py.
struct Scheme {
    int stride, results;     // of a tile
    std::vector<int> groups; // how many products go into each sum
    BeforeKernel* before;
    AfterKernel* after;

    int sums() const { return int(groups.size()); }
    int products() const { return std::accumulate(groups.begin(), groups.end(), 0); }
};

struct WeightSize {
    int size;
    DepthwiseWeightKernel* run;
};

struct ParitySize {
    int size;
    ParityKernel* run;
};

struct MatrixTile {
    int rows; // output channels
    PointwiseWeightKernel* run;
};

struct MatrixTiles {
    int width;                     // input channels
    std::vector<MatrixTile> tiles; // most rows first
};

// One row per instruction set; build.py writes it.
struct Kernels {
    std::string name;
    int lanes;
    // The fewest that the sized depthwise kernels take: `inner` and `narrow`, `wide`, all of these, `border`.
    int depthwise_columns, depthwise_wide_columns, depthwise_rows, depthwise_border_columns;
    int depthwise_wide; // fewest channels of depthwise_wide
    std::vector<DepthwiseSized> depthwise_sized;
    DepthwiseAnywhereKernel *depthwise_wide_kernel, *depthwise_narrow;
    DepthwiseFlatKernel* depthwise_flat;
    std::vector<PointwisePanel> pointwise; // narrowest first
    PointwiseFewKernel* pointwise_few;
    std::vector<Conv2dPanel> conv2d;
    std::vector<Scheme> schemes;
    EpilogueKernel* epilogue;
    std::vector<std::string> epilogues; // its activations, in the order of their numbers
    AddKernel* add;
    ClipKernel* clip;
    MeanKernel* mean;
    AddKernel* scale;
    MeanKernel *largest, *average;
    LayerNormKernel* layer_norm;
    ApplyKernel* apply;
    TurnKernel* turn;
    StatisticsKernel* statistics;
    SumsKernel* sums;
    SlopeKernel* slope;
    std::vector<std::string> slopes; // its activations, in the order of their numbers
    std::vector<WeightSize> depthwise_weight;
    DepthwiseWeightKernel* depthwise_weight_any;
    std::vector<ParitySize> depthwise_parity;
    DepthwiseInputKernel* depthwise_input_any;
    std::vector<MatrixTiles> matrices; // narrowest first
    FmaKernel* fma;
    CopyKernel* copy;
    int fma_numbers; // accumulators of `fma`
};

// Every instruction set that was compiled, best first.
const std::vector<Kernels>& compiled();

// Those this processor has, best first.
std::vector<const Kernels*> available();

// The one in use: the best, or the one chosen by `use`.
const Kernels& current();

// The one in use, or a lesser one if its vectors are wider than so many channels: 8 channels on AVX-512 ran
// one by one, a hundredth of the speed.
const Kernels& current_for(int64_t channels);
void use(const std::string& name);

} // namespace ninefold
