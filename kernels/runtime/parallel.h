// Parallel loops on the OpenMP runtime that PyTorch has loaded (both ask for libgomp.so.1), with PyTorch's
// count.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <mutex>

#include "denormals.h"
#include "team.h"

namespace ninefold {

// Into how many parts of at most `most` to divide each of `images` times `count`, so that all threads get the
// same number of parts: 196 pixels in blocks of 96, 96 and 4 kept one of two threads waiting.
inline int64_t even_parts(int64_t images, int64_t count, int64_t most, int threads) {
    int64_t parts = std::max<int64_t>(1, (count + most - 1) / most);
    while (images * parts % threads != 0 && parts < count)
        parts++;
    return parts;
}

// Calls body(i) for every i in [0, count) on up to `threads` threads, where denormals are zero meanwhile;
// rethrows one of the exceptions, if any.
template <class Body>
void parallel_for(int threads, int64_t count, Body&& body) {
    threads = int(std::min<int64_t>(threads, count));
    if (threads <= 1) {
        const DenormalsAreZero flushed;
        for (int64_t i = 0; i < count; i++)
            body(i);
        return;
    }
    if (Team* team = Team::led()) {
        team->share(threads, count, body);
        return;
    }
    std::exception_ptr failure;
    std::mutex lock;
    // num_threads is given each time: OpenMP's own default is per thread, and wrong in a fresh Python thread.
    // The schedule is static, so that the same count gives the same result and each thread finds its own data
    // in its cache.
#pragma omp parallel num_threads(threads)
    {
        const DenormalsAreZero flushed;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < count; i++) {
            try {
                body(i);
            } catch (...) {
                std::lock_guard<std::mutex> guard(lock);
                failure = std::current_exception();
            }
        }
    }
    if (failure) std::rethrow_exception(failure);
}

} // namespace ninefold
