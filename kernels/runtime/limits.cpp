// The machine's two limits, measured with kernels of the instruction set in use.
#include <algorithm>
#include <chrono>

#include "buffer.h"
#include "errors.h"
#include "layers.h"
#include "parallel.h"

namespace ninefold {

namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

// Work per second of the best of several short runs: a shared machine only ever takes time away.
template <class Body>
double best_rate(int threads, double seconds, double work, Body&& body) {
    double best = 0;
    const Clock::time_point begin = Clock::now();
    do {
        const Clock::time_point start = Clock::now();
        parallel_for(threads, threads, body);
        best = std::max(best, work / since(start));
    } while (since(begin) < seconds);
    return best;
}

} // namespace

double fma_peak(int threads, double seconds) {
    const Kernels& kernels = current();
    const int64_t factors = 2048, repeats = 400, numbers = kernels.fma_numbers;
    Floats factor = allocate(factors);
    std::fill_n(factor.get(), factors, 0.999f);
    return best_rate(threads, seconds, 2.0 * threads * repeats * factors * numbers, [&](int64_t) {
        Floats sums = allocate(numbers);
        for (int64_t i = 0; i < repeats; i++) {
            Buffer in(factor.get(), {{0, factors, 1}}), out(sums.get(), {{0, numbers, 1}});
            check(kernels.fma(in, 0.001f, out));
        }
    });
}

double copy_bandwidth(int64_t bytes, int threads, double seconds) {
    const Kernels& kernels = current();
    const int64_t numbers = std::max<int64_t>(bytes / 8, 1024),
                  repeats = std::max<int64_t>(1, 4000000 / numbers);
    Floats all = allocate(2 * numbers * threads);
    std::fill_n(all.get(), 2 * numbers * threads, 1.0f);
    return best_rate(threads, seconds, 8.0 * threads * repeats * numbers, [&](int64_t part) {
        float* mine = all.get() + 2 * numbers * part;
        for (int64_t i = 0; i < repeats; i++) {
            Buffer in(mine, {{0, numbers, 1}}), out(mine + numbers, {{0, numbers, 1}});
            check(kernels.copy(in, out));
        }
    });
}

} // namespace ninefold
