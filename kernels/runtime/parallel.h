// Parallel loops on the OpenMP runtime that PyTorch has loaded (both ask for libgomp.so.1), with PyTorch's
// count.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <mutex>

namespace ninefold {

// Calls body(i) for every i in [0, count) on up to `threads` threads; rethrows one of the exceptions, if any.
template <class Body>
void parallel_for(int threads, int64_t count, Body&& body) {
    threads = int(std::min<int64_t>(threads, count));
    if (threads <= 1) {
        for (int64_t i = 0; i < count; i++)
            body(i);
        return;
    }
    std::exception_ptr failure;
    std::mutex lock;
    // num_threads is given each time: OpenMP's own default is per thread, and wrong in a fresh Python thread.
    // The schedule is static, so that the same count gives the same result and each thread finds its own data
    // in its cache.
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < count; i++) {
        try {
            body(i);
        } catch (...) {
            std::lock_guard<std::mutex> guard(lock);
            failure = std::current_exception();
        }
    }
    if (failure) std::rethrow_exception(failure);
}

} // namespace ninefold
