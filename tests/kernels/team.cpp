// A team of plain threads (gcc's OpenMP runtime is not instrumented): every index of every loop is run once,
// by whoever comes to it, and what throws arrives at the leader.
#include "team.h"

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <thread>

int main(int, char** arguments) {
    const int size = std::atoi(arguments[1]), loops = std::atoi(arguments[2]);
    ninefold::Team team(size);
    std::vector<std::thread> others;
    for (int number = 1; number < size; number++)
        others.emplace_back([&team, number] { team.follow(number); });
    int wrong = 0, caught = 0;
    team.lead([&] {
        for (int loop = 0; loop < loops; loop++) {
            // More than a claim has places for, now and then, and fewer than there are threads.
            const int64_t count = loop % 500 == 7 ? 1500000 : 1 + loop * 7919 % 97;
            std::vector<int> runs(count, 0); // not atomic: an index is one thread's
            auto body = [&](int64_t i) {
                runs[i]++;
                if (loop % 100 == 5 && i == count / 2) throw std::runtime_error("as asked");
            };
            try {
                team.share(1 + loop % size, count, body);
            } catch (const std::runtime_error&) {
                caught++;
            }
            for (int64_t i = 0; i < count; i++)
                // Neighbours that were taken with the one that throws are left.
                wrong += count < 1000000 && runs[i] != 1;
        }
    });
    for (std::thread& other : others)
        other.join();
    std::printf("%d wrong, %d caught\n", wrong, caught);
    return wrong != 0 || caught != (loops + 94) / 100;
}
