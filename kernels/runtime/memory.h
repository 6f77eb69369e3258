// Memory that starts at a cache line, scratch that a thread keeps between calls, and weights that stay.
#pragma once

#include <cstddef>
#include <memory>

namespace ninefold {

using Floats = std::shared_ptr<float[]>;

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

// Memory for an image between two convolutions that train, on 2 MB pages. What is done with is kept for the
// next that is as large or at most a fifth smaller: glibc maps each array of more than 32 MB anew, and the
// system clears it first. mobilenetv2_100's step was up to 1.1 times as fast for it with glibc's own
// settings, 1.01 where a benchmark had told glibc to keep the rest. What none of the next 64 asked for goes
// back to the system, and all that is kept at `release_images`.
Floats allocate_image(size_t count);
void release_images();

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
