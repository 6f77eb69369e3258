// A failure inside a kernel becomes a C++ exception, and that a Python one.
#pragma once

namespace ninefold {

// Takes Halide's error handler over; without this the first wrong bound aborts the process.
void catch_kernel_errors();

// Throws what the kernel said if it returned anything but 0.
void check(int status);

} // namespace ninefold
