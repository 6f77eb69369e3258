// What the sanitizers' cases are made of: integers, convolutions as plain loops, and what came out wrong.
#pragma once

#include <functional>
#include <random>
#include <string>
#include <vector>

#include "layers.h"
#include "plan.h"

namespace ninefold {

using Numbers = std::vector<float>;

struct Random {
    std::mt19937_64 engine;
    int64_t below(int64_t n) { return int64_t(engine() % uint64_t(n)); }
    int64_t between(int64_t low, int64_t high) { return low + below(high - low + 1); }
    template <class T>
    T of(std::initializer_list<T> choices) {
        return choices.begin()[below(int64_t(choices.size()))];
    }
    Numbers integers(int64_t count) {
        Numbers made(count);
        for (float& number : made)
            number = float(between(-3, 3));
        return made;
    }
};

struct Convolution { // NHWC in, NHWC out; weights as PyTorch has them
    int64_t in_channels, out_channels;
    int groups;
    Window window;
    Padding padding;
    Numbers weight, bias;
    std::string activation;
};

struct Picture {
    Shape shape;
    Numbers data;
    Image image() const { return {data.data(), shape.batch, shape.height, shape.width, shape.channels}; }
};

Numbers poisoned(int64_t count);

Picture naive(const Picture& x, const Convolution& c);
Convolution convolution(Random& random, int64_t in_channels, int64_t out_channels, int groups, bool windowed);
Depthwise depthwise(const Convolution& c);
Pointwise pointwise(const Convolution& c, int threads);
bool fits(const Shape& x, const Convolution& c);
int64_t channels(Random& random);
Picture picture(Random& random, int64_t batch, int64_t height, int64_t width, int64_t c);

// Results that were not what they should be, or raised.
extern int64_t failures;
void same(const Numbers& got, const Numbers& want, const std::string& what);

// One layer of each kind on one image; a plan of every step; training's passes: each under the kernels in
// use. They return how many calls they made.
int layers(Random& random, int threads, const std::string& where);
int plans(Random& random, int threads, const std::string& where);
int training(Random& random, int threads, const std::string& where);
// Eight threads that share one plan and layers.
int shared(int64_t rounds);
void refused();

} // namespace ninefold
