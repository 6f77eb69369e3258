// The C++ runtime and the kernels without Python, for sanitizers to watch: integers against plain loops.
//
//   driver cases COUNT SEED     random layers, plans and training passes on every instruction set, on 1, 2
//                               and 5 threads
//   driver threads ROUNDS       eight threads share layers and one plan, for ThreadSanitizer
//   driver fault                a kernel reads past an end, or two write one array: the sanitizer must say so
//
// Every array is an allocation of its own and of its exact size.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

#include "buffer.h"
#include "cases.h"
#include "errors.h"

using namespace ninefold;

#ifdef __SANITIZE_THREAD__
// LLVM's names, which the kernels ask for and gcc's runtime lacks: its interceptors watch the plain ones.
extern "C" void* __tsan_memset(void* to, int value, size_t bytes) {
    return std::memset(to, value, bytes);
}
extern "C" void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
    return std::memcpy(to, from, bytes);
}
extern "C" void* __tsan_memmove(void* to, const void* from, size_t bytes) {
    return std::memmove(to, from, bytes);
}
#endif

namespace {

int cases(int64_t count, uint64_t seed) {
    int64_t done = 0;
    for (int64_t index = 0; index < count; index++)
        for (const Kernels* row : available()) {
            use(row->name);
            for (int threads : {1, 2, 5}) {
                Random random{std::mt19937_64(seed * 1000003 + index)}; // the same case each time
                const std::string where = " on " + row->name + ", " + std::to_string(threads) +
                                          " threads, case " + std::to_string(index) + " of seed " +
                                          std::to_string(seed);
                done += layers(random, threads, where);
                done += plans(random, threads, where);
                done += training(random, threads, where);
            }
            refused();
        }
    std::printf("%lld calls, %lld failed\n", (long long)done, (long long)failures);
    return failures ? 1 : 0;
}

// What a sanitizer that watches must stop.
int fault() {
#ifdef __SANITIZE_THREAD__
    Numbers out(64);
    const auto write = [&] {
        const Numbers numbers(64);
        for (int turn = 0; turn < 1000; turn++) {
            Buffer in(numbers.data(), {{0, 64, 1}, {0, 1, 64}}), to(out.data(), {{0, 64, 1}, {0, 1, 64}});
            check(current().clip(in, 0.0f, 6.0f, to));
        }
    };
    std::thread other(write);
    write();
    other.join();
#else
    const Numbers numbers(64);
    Numbers out(80);
    Buffer in(numbers.data(), {{0, 80, 1}, {0, 1, 80}}), to(out.data(), {{0, 80, 1}, {0, 1, 80}});
    check(current().clip(in, 0.0f, 6.0f, to));
#endif
    return 0;
}

} // namespace

int main(int count, char** words) {
    catch_kernel_errors();
    const std::string what = count > 1 ? words[1] : "";
    if (what == "cases" && count == 4)
        return cases(std::atoll(words[2]), std::strtoull(words[3], nullptr, 10));
    if (what == "threads" && count == 3) return shared(std::atoll(words[2]));
    if (what == "fault") return fault();
    std::fprintf(stderr, "driver cases COUNT SEED | driver threads ROUNDS | driver fault\n");
    return 2;
}
