// Two steps whose image between them is made and used up a few rows at a time.
#include <algorithm>
#include <chrono>
#include <cstring>

#include "parallel.h"
#include "plan.h"

namespace ninefold {

namespace {

// The rows of an image that some rows of a result are made of, and what lies around those.
struct Needed {
    Range rows;
    Padding around;
};

Needed needed(const Windowing& by, int64_t height, Range y) {
    const int64_t reach = int64_t(by.window.dilation_h) * (by.window.kernel_h - 1) + 1;
    const int64_t above = y.first * by.window.stride_h - by.padding.top,
                  below = (y.last - 1) * by.window.stride_h - by.padding.top + reach;
    const Range rows{std::clamp<int64_t>(above, 0, height), std::clamp<int64_t>(below, 0, height)};
    return {rows, {by.padding.left, by.padding.right, int(rows.first - above), int(below - rows.last)}};
}

} // namespace

void run_by_rows(const Operation& first, const Operation& second, const Image& image, const Shape& between,
                 const Shape& result, float* out, int threads, double* spent) {
    const Windowing one = *first.windowing(), two = *second.windowing();
    const int64_t line = between.width * between.channels, stride = two.window.stride_h;
    const int64_t reach = int64_t(two.window.dilation_h) * (two.window.kernel_h - 1) + 1;
    // Half the cache, with as much of what the second step makes inside.
    const int64_t room = second_level_cache() / 2 / int64_t(sizeof(float)),
                  inside = result.width * std::max(between.channels, result.channels);
    // In fours, which are whole tiles of a convolution with fewer multiplications.
    const int64_t most = std::max<int64_t>(2, (room - reach * line) / (stride * line + inside)),
                  step = most < 4 ? most : most / 4 * 4;
    parallel_for(threads, image.batch * threads, [&](int64_t task) {
        const int64_t n = task / threads, part = task % threads;
        const Range y{part * result.height / threads, (part + 1) * result.height / threads};
        const Scratch rows(((step - 1) * stride + reach) * line);
        Range held{0, 0};
        for (int64_t y0 = y.first; y0 < y.last; y0 += step) {
            const Range some{y0, std::min(y0 + step, y.last)};
            const auto start = std::chrono::steady_clock::now();
            const auto [wanted, around] = needed(two, between.height, some);
            const int64_t kept = std::max<int64_t>(0, held.last - wanted.first);
            std::memmove(rows, rows + (wanted.first - held.first) * line, kept * line * sizeof(float));
            const Range fresh{wanted.first + kept, wanted.last};
            if (fresh.size() > 0) {
                const auto [read, beside] = needed(one, image.height, fresh);
                first.run_rows(
                    {image.row(n, read.first), 1, read.size(), image.width, image.channels, image.stride},
                    beside, rows + kept * line);
            }
            held = wanted;
            const auto middle = std::chrono::steady_clock::now();
            second.run_rows({rows, 1, wanted.size(), between.width, between.channels}, around,
                            out + (n * result.height + y0) * result.width * result.channels);
            if (!spent || part != 0) continue;
            spent[0] += std::chrono::duration<double>(middle - start).count();
            spent[1] += std::chrono::duration<double>(std::chrono::steady_clock::now() - middle).count();
        }
    });
}

} // namespace ninefold
