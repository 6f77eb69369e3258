#include "errors.h"

#include <new>
#include <stdexcept>
#include <string>

#include "HalideRuntime.h"

namespace ninefold {

namespace {

thread_local std::string message;

} // namespace

void catch_kernel_errors() {
    halide_set_error_handler([](void*, const char* text) { message = text; });
}

void check(int status) {
    if (status == 0) return;
    if (status == halide_error_code_out_of_memory) throw std::bad_alloc();
    throw std::runtime_error("a kernel refused its arguments (" + std::to_string(status) + "): " + message);
}

} // namespace ninefold
