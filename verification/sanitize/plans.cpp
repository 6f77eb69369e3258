// Plans: with freed memory poisoned and without, and by eight threads at once.
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <thread>

#include "buffer.h"
#include "cases.h"
#include "errors.h"

namespace ninefold {

namespace {

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
        const int e = plan.add(pointwise_step(expansion, false), {0});
        const int f = plan.add(depthwise_step(filtering, filter.padding), {e});
        const int gate = plan.add(activation_step("hardsigmoid"), {plan.add(mean_step(), {f})});
        const int p = plan.add(pointwise_step(projection, false), {plan.add(scale_step(), {f, gate})});
        const int gated = plan.add(pointwise_step(projection, true), {f, gate});
        const Window around{3, 3, 1, 1, 1, 1};
        const int largest = plan.add(largest_step(around, {1, 1, 1, 1}, false), {gated});
        const int average = plan.add(average_step(around, {1, 1, 1, 1}, false, true, 0), {largest});
        const int sum = plan.add(add_step(), {plan.add(add_step(), {p, 0}), average});
        const int activated = plan.add(activation_step("silu"), {sum});
        const int normal =
            plan.add(layer_norm_step(random.integers(c), random.integers(c), 1e-3f), {activated});
        const int both = plan.add(shuffle_step(2), {plan.add(concatenation_step(), {normal, sum})});
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

} // namespace

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
                        fresh.run(in.data(), 20, inputs[k].shape.pixels(), nullptr, nullptr, {out.data(), 33},
                                  2);
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

} // namespace ninefold
