// What a product asks for while it multiplies: two stretches of memory, line by line, into the second-level
// cache. kernels/ahead.py says why, and puts it into the kernels' innermost loops.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#define NINEFOLD_AT_A_FIXED_PLACE __attribute__((tls_model("initial-exec")))
#else
#define NINEFOLD_AT_A_FIXED_PLACE // where no kernel looks at it
#endif

extern "C" {
// Two addresses, and how many bytes each moves with a step of a loop; kernels/ahead.py knows the order. Null:
// nothing is asked for.
struct NinefoldAhead {
    const char *one, *other;
    int64_t one_step, other_step;
};
extern __thread NinefoldAhead ninefold_ahead NINEFOLD_AT_A_FIXED_PLACE;
}

namespace ninefold {

// Numbers that lie side by side; none, where there is nothing to ask for.
struct Stretch {
    const float* first;
    int64_t count;
};

// For as long as it lives the products of this thread ask for two stretches, evenly over `steps` of their
// innermost loops.
class Ahead {
public:
    Ahead(const Stretch& one, const Stretch& other, int64_t steps);
    ~Ahead();
    Ahead(const Ahead&) = delete;
    Ahead& operator=(const Ahead&) = delete;
};

} // namespace ninefold
