// What a thread gathers in a backward pass, beside the gradient that it writes.
#pragma once

#include <vector>

#include "training.h"

namespace ninefold {

// What one thread gathers.
struct Gathered {
    std::vector<double> weight, sums;
};

inline void merge(const std::vector<Gathered>& threads, std::vector<double> Gathered::* what,
                  std::vector<double>& all) {
    for (const Gathered& thread : threads)
        for (size_t k = 0; k < (thread.*what).size(); k++)
            all[k] += (thread.*what)[k];
}

// The input's gradient of these pixels has just been written and is still in the cache. Without sums it
// becomes that of z.
inline void finish(const Operand& x, const Wanted& wanted, int64_t pixel, int64_t count, Gathered& gathered) {
    if (x.plain()) return;
    const Gradient arrived(x, wanted.input, nullptr);
    if (x.has_slope()) arrived.slope(pixel, count, wanted.input);
    if (wanted.sums)
        arrived.reduce(pixel, count, gathered.sums.data());
    else if (!x.has_slope())
        arrived.clip(pixel, count, wanted.input);
}

} // namespace ninefold
