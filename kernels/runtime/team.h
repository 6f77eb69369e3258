// Threads that stay together while a whole plan runs: between its loops they wait for one another awake.
//
// To open an OpenMP region and close it again takes 2.4 µs on two Zen 4 cores, and a network has some 50 to
// 200 loops: 2 to 12 % of its time. One region around them all, in which the first thread runs the steps and
// the others take their parts of each loop, costs a cache line there and one back.
//
// Each thread begins with its own run of neighbours, as OpenMP's static schedule has it, and helps the others
// when it is through. Nobody waits for a thread that has not begun: a core may be somebody else's for a
// while, or two threads be on one.
#pragma once

#ifdef __linux__
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "denormals.h"

namespace ninefold {

class Team {
public:
    explicit Team(int size) : claims_(size) {}

    // The team that this thread leads, or null.
    static Team*& led() {
        static thread_local Team* team = nullptr;
        return team;
    }

    // Calls body(i) for every i in [0, count), shared out among `threads` of the team; rethrows one of the
    // exceptions, if any. For the leader.
    template <class Body>
    void share(int threads, int64_t count, Body& body) {
        call_ = [](const void* body, int64_t i) { (*static_cast<Body*>(const_cast<void*>(body)))(i); };
        body_ = &body;
        count_ = count;
        each_ = std::max<int64_t>(1, (count + kMost - 1) / kMost);
        done_.store(0, std::memory_order_relaxed);
        const int64_t turn = turn_.load(std::memory_order_relaxed) + 1, runs = (count + each_ - 1) / each_;
        const int64_t sharers = std::min<int64_t>(threads, claims_.size());
        for (int64_t s = 0; s < int64_t(claims_.size()); s++) {
            const int64_t first = std::min(s, sharers) * runs / sharers,
                          last = std::min(s + 1, sharers) * runs / sharers;
            claims_[s].left.store(Left{turn, first, last}.packed(), std::memory_order_release);
        }
#ifdef __linux__
        core_.store(sched_getcpu(), std::memory_order_relaxed);
#endif
        turn_.store(turn, std::memory_order_release);
        turn_.notify_all();
        work(0, turn);
        wait(done_, nullptr, [&](int done) { return done == runs; });
        if (!failure_) return;
        const std::exception_ptr failure = failure_;
        failure_ = nullptr;
        std::rethrow_exception(failure);
    }

    // Leads the others through work(), which does not throw.
    template <class Work>
    void lead(Work&& work) {
        led() = this;
        work();
        led() = nullptr;
        turn_.store(kEnd, std::memory_order_release);
        turn_.notify_all();
    }

    // Takes part until the leader is through.
    void follow(int number) {
        for (int turn = 0;;) {
            wait(turn_, &core_, [&](int now) { return now != turn; });
            turn = turn_.load(std::memory_order_acquire);
            if (turn == kEnd) return;
            work(number, turn);
        }
    }

private:
    static constexpr int kBits = 20;
    static constexpr int64_t kMost = (int64_t(1) << kBits) - 1;
    static constexpr int kEnd = -1;

    // What is left to begin of a thread's share of a turn. In one word, so that whoever takes one of it knows
    // the turn is not over: it cannot be before that one is done.
    struct Left {
        int64_t turn, first, last;
        uint64_t packed() const { return uint64_t(turn) << 2 * kBits | uint64_t(first) << kBits | last; }
        static Left of(uint64_t word) {
            return {int64_t(word >> 2 * kBits), int64_t(word >> kBits) & kMost, int64_t(word) & kMost};
        }
    };
    struct alignas(128) Claim {
        std::atomic<uint64_t> left{0};
    };

    // What this thread's share has left, and then what the others' have.
    void work(int number, int64_t turn) {
        int finished = 0;
        for (size_t k = 0; k < claims_.size(); k++) {
            std::atomic<uint64_t>& claim = claims_[(number + k) % claims_.size()].left;
            uint64_t word = claim.load(std::memory_order_acquire);
            for (Left left = Left::of(word); left.turn == turn && left.first < left.last;
                 left = Left::of(word)) {
                const uint64_t taken = Left{turn, left.first + 1, left.last}.packed();
                if (!claim.compare_exchange_weak(word, taken, std::memory_order_acquire)) continue;
                run(left.first * each_, std::min((left.first + 1) * each_, count_));
                finished++;
                word = claim.load(std::memory_order_acquire);
            }
        }
        if (finished == 0) return;
        done_.fetch_add(finished, std::memory_order_release);
        if (number > 0) done_.notify_one();
    }

    void run(int64_t first, int64_t last) {
        try {
            for (int64_t i = first; i < last; i++)
                call_(body_, i);
        } catch (...) {
            std::lock_guard<std::mutex> guard(lock_);
            failure_ = std::current_exception();
        }
    }

    // Until `value` is no longer, or becomes, what `ready` waits for: awake for some 20 µs, then asleep. To
    // yield is not enough: with two threads on one core of this kernel's (Linux 6.18), who yielded went on
    // for the rest of its 4 ms. Who shares its core with the thread it waits for sleeps sooner, and is woken
    // on another, if there is one.
    template <class Ready>
    static void wait(const std::atomic<int>& value, const std::atomic<int>* core, Ready&& ready) {
        for (int looks = 1;; looks++) {
            const int seen = value.load(std::memory_order_acquire);
            if (ready(seen)) return;
            if (looks > 1000 || (looks % 128 == 0 && core && on(core->load(std::memory_order_relaxed)))) {
                value.wait(seen, std::memory_order_acquire);
                looks = 0;
                continue;
            }
#if defined(__x86_64__)
            __builtin_ia32_pause();
#elif defined(__aarch64__)
            asm volatile("yield");
#endif
        }
    }

    static bool on([[maybe_unused]] int core) {
#ifdef __linux__
        return core >= 0 && sched_getcpu() == core;
#else
        return false;
#endif
    }

    // What the leader writes and the others read lies in one cache line, what they answer in another.
    alignas(128) std::atomic<int> turn_{0};
    std::atomic<int> core_{-1}; // the leader's
    void (*call_)(const void*, int64_t) = nullptr;
    const void* body_ = nullptr;
    int64_t count_ = 0, each_ = 1; // `each_` neighbours are taken at once
    alignas(128) std::atomic<int> done_{0};
    std::mutex lock_;
    std::exception_ptr failure_;
    std::vector<Claim> claims_;
};

// Counted as the extension is loaded: for a thread that was bound to one core since then, as a benchmark's or
// a server's may be, OpenMP counts one, and the other threads have theirs.
#ifdef _OPENMP
inline const int cores = omp_get_num_procs();
#else
inline const int cores = 1;
#endif

// Calls work() on this thread, with `threads` of them together for the loops in it where there are cores
// enough.
template <class Work>
void in_team(int threads, Work&& work) {
#ifdef _OPENMP
    if (threads > 1 && threads <= cores && !Team::led()) {
        Team team(threads);
        std::exception_ptr failure;
#pragma omp parallel num_threads(threads)
        {
            const DenormalsAreZero flushed;
            if (omp_get_thread_num() > 0)
                team.follow(omp_get_thread_num());
            else
                team.lead([&] {
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
