// The C++ runtime and the kernels without Python, for sanitizers to watch: integers against plain loops.
//
//   driver cases COUNT SEED     random layers and plans on every instruction set, on 1, 2 and 5 threads
//   driver threads ROUNDS       eight threads share layers and one plan, for ThreadSanitizer
//   driver fault                a kernel reads past an end, and two write one array: the sanitizer must say
//   so
//
// Every array is an allocation of its own and of its exact size.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "buffer.h"
#include "errors.h"
#include "layers.h"
#include "plan.h"

using namespace ninefold;

#ifdef __SANITIZE_THREAD__
// LLVM's names, which the kernels ask for and gcc's runtime lacks: its interceptors watch the plain ones.
extern "C" void* __tsan_memset(void* to, int value, size_t bytes) {
    return std::memset(to, value, bytes);
}
extern "C" void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
    return std::memcpy(to, from, bytes);
}
extern "C" void* __tsan_memmove(void* to, const void* from, size_t bytes) {
    return std::memmove(to, from, bytes);
}
#endif

namespace {

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

Numbers poisoned(int64_t count) {
    return Numbers(count, std::numeric_limits<float>::quiet_NaN());
}

Picture naive(const Picture& x, const Convolution& c) {
    const Window& w = c.window;
    const Shape s{x.shape.batch, w.output_height(x.shape.height, c.padding),
                  w.output_width(x.shape.width, c.padding), c.out_channels};
    Picture out{s, poisoned(s.numbers())};
    const int64_t inputs = c.in_channels / c.groups, outputs = c.out_channels / c.groups;
    float* to = out.data.data();
    for (int64_t n = 0; n < s.batch; n++)
        for (int64_t oy = 0; oy < s.height; oy++)
            for (int64_t ox = 0; ox < s.width; ox++)
                for (int64_t o = 0; o < c.out_channels; o++) {
                    double sum = c.bias[o];
                    for (int i = 0; i < w.kernel_h; i++)
                        for (int j = 0; j < w.kernel_w; j++) {
                            const int64_t y = oy * w.stride_h + i * w.dilation_h - c.padding.top;
                            const int64_t xx = ox * w.stride_w + j * w.dilation_w - c.padding.left;
                            if (y < 0 || y >= x.shape.height || xx < 0 || xx >= x.shape.width) continue;
                            const float* pixel =
                                &x.data[((n * x.shape.height + y) * x.shape.width + xx) * x.shape.channels];
                            const float* weight = &c.weight[o * inputs * w.kernel_h * w.kernel_w];
                            for (int64_t m = 0; m < inputs; m++)
                                sum += double(weight[(m * w.kernel_h + i) * w.kernel_w + j]) *
                                       pixel[o / outputs * inputs + m];
                        }
                    if (c.activation == "relu" || c.activation == "relu6") sum = std::max(sum, 0.0);
                    if (c.activation == "relu6") sum = std::min(sum, 6.0);
                    *to++ = float(sum);
                }
    return out;
}

Convolution convolution(Random& random, int64_t in_channels, int64_t out_channels, int groups,
                        bool windowed) {
    const int k = windowed ? int(random.of({1, 2, 3, 3, 3, 5, 7})) : 1,
              d = windowed ? random.of({1, 1, 1, 2}) : 1, s = windowed ? random.of({1, 1, 2, 2, 3}) : 1,
              odd = windowed ? int(random.below(2)) : 0;
    const Window window{k, k + odd, s, s, d, d};
    const auto side = [&](int kernel) { return windowed ? int(random.below((kernel - 1) * d + 4)) : 0; };
    const bool same = windowed && random.below(2);
    const int half = (k - 1) * d / 2;
    const Padding padding =
        same ? Padding{half, half, half, half} : Padding{side(k + odd), side(k + odd), side(k), side(k)};
    return {in_channels,
            out_channels,
            groups,
            window,
            padding,
            random.integers(out_channels * (in_channels / groups) * k * (k + odd)),
            random.integers(out_channels),
            random.of<std::string>({"", "relu", "relu6"})};
}

Depthwise depthwise(const Convolution& c) {
    return {c.weight.data(), c.bias.data(), c.in_channels, int(c.out_channels / c.in_channels),
            c.window,        c.activation};
}
Pointwise pointwise(const Convolution& c, int threads) {
    return {c.weight.data(), c.bias.data(), c.in_channels, c.out_channels, c.activation, threads};
}

bool fits(const Shape& x, const Convolution& c) {
    return c.window.output_height(x.height, c.padding) > 0 && c.window.output_width(x.width, c.padding) > 0;
}

int64_t failures = 0;

void same(const Numbers& got, const Numbers& want, const std::string& what) {
    for (size_t i = 0; i < want.size(); i++)
        if (!(got[i] == want[i])) {
            std::printf("FAILED %s: number %zu of %zu is %g, not %g\n", what.c_str(), i, want.size(), got[i],
                        want[i]);
            failures++;
            return;
        }
}

int64_t channels(Random& random) {
    return random.of<int64_t>(
        {1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48, 63, 65, 72, random.between(1, 80)});
}

Picture picture(Random& random, int64_t batch, int64_t height, int64_t width, int64_t c) {
    const Shape shape{batch, height, width, c};
    return {shape, random.integers(shape.numbers())};
}

// One layer of each kind on one image, under the kernels in use.
int layers(Random& random, int threads, const std::string& where) {
    const Picture x =
        picture(random, random.of({1, 1, 2}), random.between(1, 17), random.between(1, 17), channels(random));
    const int64_t c = x.shape.channels, wide = channels(random);
    const Convolution standard = convolution(random, c, wide, 1, true),
                      grouped = convolution(random, c, c * 2, int(c), true), // as Conv2d: one input a group
        expand = convolution(random, c, wide, 1, false),
                      filter = convolution(random, wide, wide * random.of({1, 1, 2}), int(wide), true),
                      project = convolution(random, filter.out_channels, channels(random), 1, false);
    int done = 0;
    const auto run = [&](const char* name, const Picture& want, const std::function<void(float*)>& compute) {
        Numbers out = poisoned(want.shape.numbers());
        try {
            compute(out.data());
        } catch (const std::exception& error) {
            std::printf("FAILED %s%s: %s\n", name, where.c_str(), error.what());
            failures++;
            return;
        }
        same(out, want.data, std::string(name) + where);
        done++;
    };
    for (const Convolution* one : {&standard, &grouped})
        if (fits(x.shape, *one)) {
            const Conv2d layer(one->weight.data(), one->bias.data(), c, one->out_channels, one->groups,
                               one->window, one->activation);
            run("conv2d", naive(x, *one),
                [&](float* out) { layer.run(x.image(), one->padding, out, threads); });
        }
    const Picture expanded = naive(x, expand);
    const Pointwise expansion = pointwise(expand, threads);
    run("pointwise", expanded, [&](float* out) {
        expansion.run(x.data.data(), x.shape.batch * x.shape.pixels(), nullptr, out, threads);
    });
    if (!fits(x.shape, filter)) return done;
    const Picture filtered = naive(expanded, filter);
    Picture projected = naive(filtered, project);
    const Numbers residual = random.integers(projected.shape.numbers());
    for (size_t i = 0; i < residual.size(); i++)
        projected.data[i] += residual[i];
    const Depthwise filtering = depthwise(filter);
    const Pointwise projection = pointwise(project, threads);
    run("depthwise", filtered,
        [&](float* out) { filtering.run(expanded.image(), filter.padding, out, threads); });
    const Separable separable(filtering, projection);
    run("separable", projected,
        [&](float* out) { separable.run(expanded.image(), filter.padding, residual.data(), out, threads); });
    const Inverted inverted(expansion, filtering, projection);
    run("inverted", projected,
        [&](float* out) { inverted.run(x.image(), filter.padding, residual.data(), out, threads); });
    return done;
}

// A plan of every step there is: expansion, filter, gate, addition, activations, norm, concatenation, a part.
struct Stretch {
    Convolution expand, filter, project;
    Pointwise expansion, projection;
    Depthwise filtering;
    Plan plan{1};

    Stretch(Random& random, int64_t c, int64_t wide, int threads)
        : expand(convolution(random, c, wide, 1, false)),
          filter(convolution(random, wide, wide, int(wide), true)),
          project(convolution(random, wide, c, 1, false)), expansion(pointwise(expand, threads)),
          projection(pointwise(project, threads)), filtering((settle(), depthwise(filter))) {
        const int e = plan.add(pointwise_step(expansion), {0});
        const int f = plan.add(depthwise_step(filtering, filter.padding), {e});
        const int gate = plan.add(activation_step("hardsigmoid"), {plan.add(mean_step(), {f})});
        const int p = plan.add(pointwise_step(projection), {plan.add(scale_step(), {f, gate})});
        const int sum = plan.add(add_step(), {p, 0});
        const int activated = plan.add(activation_step("silu"), {sum});
        const int normal =
            plan.add(layer_norm_step(random.integers(c), random.integers(c), 1e-3f), {activated});
        const int both = plan.add(concatenation_step(), {normal, sum});
        const int part = plan.add(channels_step(c / 2, c + c / 2 + 1), {both});
        plan.finish({part, activated});
    }
    void settle() { // the image keeps its size: the sum asks for it
        filter.window = {3, 3, 1, 1, 1, 1};
        filter.padding = {1, 1, 1, 1};
        filter.weight.resize(filter.out_channels * 9);
    }
    std::vector<Numbers> run(const Picture& x, int threads, bool poison) {
        std::vector<Numbers> results;
        std::vector<float*> at;
        for (const Shape& shape : plan.shapes({x.shape}))
            results.push_back(poisoned(shape.numbers()));
        for (Numbers& numbers : results)
            at.push_back(numbers.data());
        plan.run({x.image()}, at, threads, poison);
        return results;
    }
};

int plans(Random& random, int threads, const std::string& where) {
    const int64_t c = channels(random);
    Stretch stretch(random, c, channels(random), threads);
    const Picture x = picture(random, random.of({1, 2}), random.between(1, 12), random.between(1, 12), c);
    const auto plain = stretch.run(x, threads, false), poisoned = stretch.run(x, threads, true);
    for (size_t i = 0; i < plain.size(); i++)
        same(plain[i], poisoned[i], "plan" + where);
    return 2;
}

// A wrong bound is an exception, here as in Python.
void refused() {
    const Numbers numbers(64);
    Numbers sums(64);
    Buffer in(numbers.data(), {{0, 64, 1}}), out(sums.data(), {{0, 128, 1}});
    try {
        check(current().copy(in, out));
    } catch (const std::runtime_error&) {
        return;
    }
    std::printf("FAILED a wrong bound was not refused\n");
    failures++;
}

int cases(int64_t count, uint64_t seed) {
    int64_t done = 0;
    for (int64_t index = 0; index < count; index++)
        for (const Kernels* row : available()) {
            use(row->name);
            for (int threads : {1, 2, 5}) {
                Random random{std::mt19937_64(seed * 1000003 + index)}; // the same case each time
                const std::string where = " on " + row->name + ", " + std::to_string(threads) +
                                          " threads, case " + std::to_string(index) + " of seed " +
                                          std::to_string(seed);
                done += layers(random, threads, where);
                done += plans(random, threads, where);
            }
            refused();
        }
    std::printf("%lld calls, %lld failed\n", (long long)done, (long long)failures);
    return failures ? 1 : 0;
}

int shared(int64_t rounds) {
    int64_t calls = 0;
    for (int64_t round = 0; round < rounds; round++)
        for (const Kernels* row : available()) {
            use(row->name);
            Random random{std::mt19937_64(round)};
            const int64_t c = random.between(2, 40);
            Stretch stretch(random, c, random.between(2, 60), 1);
            std::vector<Picture> inputs;
            for (int64_t size : {3, 5, 8})
                inputs.push_back(picture(random, 1, size, size + 1, c));
            std::vector<std::vector<Numbers>> wanted; // by a plan of its own: the shared one starts empty
            Random again{std::mt19937_64(round)};
            again.between(2, 40);
            Stretch alone(again, c, again.between(2, 60), 1);
            for (const Picture& x : inputs)
                wanted.push_back(alone.run(x, 1, false));
            std::vector<std::thread> workers;
            std::vector<int64_t> wrong(8, 0);
            for (int worker = 0; worker < 8; worker++)
                workers.emplace_back([&, worker] {
                    for (int turn = 0; turn < 6; turn++) {
                        const size_t k = (worker + turn) % inputs.size();
                        const auto got = stretch.run(inputs[k], 2, false);
                        for (size_t i = 0; i < got.size(); i++)
                            wrong[worker] += got[i] != wanted[k][i];
                        refused();
                        Random own{std::mt19937_64(worker)};
                        const Pointwise fresh = pointwise(convolution(own, 20, 33, 1, false), 2);
                        Numbers out(inputs[k].shape.pixels() * 33),
                            in = own.integers(inputs[k].shape.pixels() * 20);
                        fresh.run(in.data(), inputs[k].shape.pixels(), nullptr, out.data(), 2);
                    }
                });
            for (std::thread& worker : workers)
                worker.join();
            for (int64_t count : wrong)
                failures += count;
            calls += 8 * 6;
        }
    std::printf("%lld calls from eight threads, %lld failed\n", (long long)calls, (long long)failures);
    return failures ? 1 : 0;
}

// What a sanitizer that watches must stop.
int fault() {
#ifdef __SANITIZE_THREAD__
    Numbers out(64);
    const auto write = [&] {
        const Numbers numbers(64);
        for (int turn = 0; turn < 1000; turn++) {
            Buffer in(numbers.data(), {{0, 64, 1}, {0, 1, 64}}), to(out.data(), {{0, 64, 1}, {0, 1, 64}});
            check(current().clip(in, 0.0f, 6.0f, to));
        }
    };
    std::thread other(write);
    write();
    other.join();
#else
    const Numbers numbers(64);
    Numbers out(80);
    Buffer in(numbers.data(), {{0, 80, 1}, {0, 1, 80}}), to(out.data(), {{0, 80, 1}, {0, 1, 80}});
    check(current().clip(in, 0.0f, 6.0f, to));
#endif
    return 0;
}

} // namespace

int main(int count, char** words) {
    catch_kernel_errors();
    const std::string what = count > 1 ? words[1] : "";
    if (what == "cases" && count == 4)
        return cases(std::atoll(words[2]), std::strtoull(words[3], nullptr, 10));
    if (what == "threads" && count == 3) return shared(std::atoll(words[2]));
    if (what == "fault") return fault();
    std::fprintf(stderr, "driver cases COUNT SEED | driver threads ROUNDS | driver fault\n");
    return 2;
}
