// Threads that stay together while a whole plan runs: between its loops they wait for one another awake.
//
// To open an OpenMP region and close it again takes 2.4 µs on two Zen 4 cores, and a network has some 50 to
// 200 loops: 2 to 12 % of its time. One region around them all, in which the first thread runs the steps and
// the others take their parts of each loop, costs a cache line there and one back.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "denormals.h"

namespace ninefold {

class Team {
public:
    // The team that this thread leads, or null.
    static Team*& led() {
        static thread_local Team* team = nullptr;
        return team;
    }

    // Calls body(i) for every i in [0, count) on up to `threads` of the team, each its own run of neighbours;
    // rethrows one of the exceptions, if any. For the leader.
    template <class Body>
    void share(int threads, int64_t count, Body& body) {
        call_ = [](const void* body, int64_t i) { (*static_cast<Body*>(const_cast<void*>(body)))(i); };
        body_ = &body;
        count_ = count;
        sharers_ = std::min(threads, size_);
        busy_.store(size_ - 1, std::memory_order_relaxed);
        turn_.fetch_add(1, std::memory_order_release);
        work(0);
        wait([&] { return busy_.load(std::memory_order_acquire) == 0; });
        if (!failure_) return;
        const std::exception_ptr failure = failure_;
        failure_ = nullptr;
        std::rethrow_exception(failure);
    }

    // Leads `size` threads through work(), which does not throw.
    template <class Work>
    void lead(int size, Work&& work) {
        size_ = size;
        led() = this;
        work();
        led() = nullptr;
        call_ = nullptr;
        turn_.fetch_add(1, std::memory_order_release);
    }

    // Takes part until the leader is through.
    void follow(int number) {
        for (int64_t turn = 1;; turn++) {
            wait([&] { return turn_.load(std::memory_order_acquire) >= turn; });
            if (!call_) return;
            work(number);
            busy_.fetch_sub(1, std::memory_order_release);
        }
    }

private:
    // As OpenMP's static schedule divides a loop: each thread finds its own data in its cache.
    void work(int number) {
        if (number >= sharers_) return;
        const int64_t each = count_ / sharers_, more = count_ % sharers_;
        const int64_t first = number * each + std::min<int64_t>(number, more);
        const int64_t last = first + each + (number < more ? 1 : 0);
        try {
            for (int64_t i = first; i < last; i++)
                call_(body_, i);
        } catch (...) {
            std::lock_guard<std::mutex> guard(lock_);
            failure_ = std::current_exception();
        }
    }

    // Awake for some 20 µs, then letting others run between two looks: there may be more threads than cores.
    template <class Ready>
    static void wait(Ready&& ready) {
        for (int looks = 0; !ready(); looks++) {
            if (looks >= 1000) {
                std::this_thread::yield();
                continue;
            }
#if defined(__x86_64__)
            __builtin_ia32_pause();
#elif defined(__aarch64__)
            asm volatile("yield");
#endif
        }
    }

    // What the leader writes and the others read lies in one cache line, what they answer in another.
    alignas(128) std::atomic<int64_t> turn_{0};
    void (*call_)(const void*, int64_t) = nullptr;
    const void* body_ = nullptr;
    int64_t count_ = 0;
    int size_ = 1, sharers_ = 1;
    alignas(128) std::atomic<int> busy_{0};
    std::mutex lock_;
    std::exception_ptr failure_;
};

// Calls work() on this thread, with `threads` of them together for the loops in it where there are cores
// enough.
template <class Work>
void in_team(int threads, Work&& work) {
#ifdef _OPENMP
    if (threads > 1 && threads <= omp_get_num_procs() && !Team::led()) {
        Team team;
        std::exception_ptr failure;
#pragma omp parallel num_threads(threads)
        {
            const DenormalsAreZero flushed;
            if (omp_get_thread_num() > 0)
                team.follow(omp_get_thread_num());
            else
                team.lead(omp_get_num_threads(), [&] {
                    try {
                        work();
                    } catch (...) {
                        failure = std::current_exception();
                    }
                });
        }
        if (failure) std::rethrow_exception(failure);
        return;
    }
#endif
    work();
}

} // namespace ninefold
