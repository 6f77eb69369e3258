// Memory that starts at a cache line, scratch that a thread keeps between calls, and weights that stay.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace ninefold {

using Floats = std::shared_ptr<float[]>;

// The fewest whole units that hold so many bytes, or numbers, or reach an address: in those.
inline size_t whole(size_t bytes, size_t unit) {
    return (bytes + unit - 1) / unit * unit;
}

#ifdef __SANITIZE_ADDRESS__
constexpr bool together = false; // each array by itself, so that what is written past its end is seen
#else
constexpr bool together = true;
#endif

// Both throw std::bad_alloc. What is kept between calls is on 2 MB pages from 1 MB on; what is not, is not:
// the system clears a page before it gives it away, and the heap has pages that need no clearing.
Floats allocate(size_t count);
Floats allocate_kept(size_t count);

// Memory for packed weights: where this thread says that they last, side by side on 2 MB pages. Reading 64 MB
// once, on one Zen 4 core, goes at 27 instead of 18 GB/s there, and a network's weights are read once a call.
// A part is given back to the system when all that lies beside it has gone too.
// What does not last is the heap's, and from 2 MB on kept for the next, as images are.
Floats allocate_weights(size_t count);
void weights_last(bool yes);

// Asks for large pages in an array that nobody has touched yet, from 4 MB on. 73 MB of fresh memory, written
// once, took 51 ms on small pages and 11 on large ones (one Zen 4 core, a virtual machine).
void expect_writes(const float* first, size_t count);

// Memory for an image between two convolutions that train, or for what lives as long: all of it in one range
// of addresses, where what is done with joins what is free beside it and is kept for the next. Glibc's heap
// leaves pieces: of xception41's 828 MB in it, 331 lay free, and the largest images fitted nowhere; what it
// maps anew, from 32 MB on, the system clears first. The end that images have not reached while the whole was
// asked for sixteen times goes back to the system, and all that is free at `release_images`.
Floats allocate_image(size_t count);
void release_images();

// Whether so many floats are gone from every cache by the time that somebody comes for them.
bool outgrows_caches(size_t count);
// From how many bytes on that is so; less than 0: from half the last cache on.
void caches_hold(int64_t bytes);
// A copy whose target no cache fetches first: one Zen 4 core writes 26 instead of 16 GB/s so, two at once 45
// instead of 19.
void write_past_caches(const float* from, size_t count, float* to);

// So many floats until the end of the scope, which must be one function's on one thread: of all that a thread
// has so, the last goes first. It is one stretch of memory, kept between calls, so that a layer finds in the
// cache what the one before it worked in. With a stretch for each purpose, cold when a network first came to
// it, MnasNet took 1.02 times as long.
class Scratch {
public:
    explicit Scratch(size_t count);
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    operator float*() const { return first_; }

private:
    size_t count_;
    float* first_;
    Floats own_; // where the stretch is too short yet
};

} // namespace ninefold
