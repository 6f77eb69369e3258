// Denormal numbers are zero while kernels run: a multiplication with one takes up to forty times as long.
#pragma once

#include <cstdint>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace ninefold {

// While one lives, this thread reads and writes denormals as zero; then the thread is as it was found.
// OpenMP's threads are PyTorch's too, so each one that helps needs its own.
class DenormalsAreZero {
public:
    DenormalsAreZero() : before_(mode()) {
        if ((before_ & kFlush) != kFlush) set(before_ | kFlush);
    }
    ~DenormalsAreZero() {
        if ((before_ & kFlush) != kFlush) set(before_);
    }
    DenormalsAreZero(const DenormalsAreZero&) = delete;
    DenormalsAreZero& operator=(const DenormalsAreZero&) = delete;

private:
#if defined(__x86_64__)
    using Mode = unsigned;
    static constexpr Mode kFlush = 0x8040; // results (FTZ) and operands (DAZ)
    static Mode mode() { return _mm_getcsr(); }
    static void set(Mode mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
    using Mode = uint64_t;
    static constexpr Mode kFlush = 1u << 24; // FZ: both
    static Mode mode() {
        Mode found;
        asm volatile("mrs %0, fpcr" : "=r"(found));
        return found;
    }
    static void set(Mode mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
#else
    using Mode = unsigned;
    static constexpr Mode kFlush = 0;
    static Mode mode() { return 0; }
    static void set(Mode) {}
#endif
    const Mode before_;
};

} // namespace ninefold
