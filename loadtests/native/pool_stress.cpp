// Calls of the pool with phases of 0 to threads + 1 items, every item counted. Arguments: threads,
// seconds. Prints "calls phases". A call that takes 4 to 8 seconds, or an item that was done not once but
// twice or never, ends it with status 1.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "pool.h"

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    const int num_threads = std::atoi(argv[1]);
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(std::atof(argv[2]));
    constexpr int kMaxPhases = 16;
    const int stride = num_threads + 1;
    std::atomic<int64_t> beat{0};
    std::thread([&] {
        for (int64_t last = -1;;) {
            std::this_thread::sleep_for(std::chrono::seconds(4));
            const int64_t now = beat.load();
            if (now == last) {
                std::printf("HANG after %lld calls\n", static_cast<long long>(now));
                std::fflush(stdout);
                _exit(1);
            }
            last = now;
        }
    }).detach();

    Pool pool(num_threads);
    std::mt19937 random(static_cast<unsigned>(num_threads));
    std::vector<int> counts(static_cast<size_t>(kMaxPhases * stride));  // plain: a race is a TSan report
    int64_t calls = 0, phases = 0;
    while (std::chrono::steady_clock::now() < end) {
        std::vector<int> sizes(1 + random() % kMaxPhases);
        for (int& size : sizes) size = static_cast<int>(random() % static_cast<unsigned>(num_threads + 2));
        std::fill(counts.begin(), counts.end(), 0);
        std::atomic<bool> is_early{false};
        pool.run([&](Worker& worker) {
            for (size_t p = 0; p < sizes.size(); ++p) {
                worker.for_each(sizes[p], [&](int i) {
                    counts[p * static_cast<size_t>(stride) + static_cast<size_t>(i)] += 1;
                    // What phases before wrote is there, whoever wrote it.
                    for (int k = 0; p > 0 && k < sizes[p - 1]; ++k) {
                        if (counts[(p - 1) * static_cast<size_t>(stride) + static_cast<size_t>(k)] != 1) is_early = true;
                    }
                });
            }
        });
        for (size_t p = 0; p < sizes.size(); ++p) {
            for (int i = 0; i < sizes[p]; ++i) {
                if (counts[p * static_cast<size_t>(stride) + static_cast<size_t>(i)] != 1 || is_early) {
                    std::printf("WRONG in call %lld\n", static_cast<long long>(calls));
                    std::fflush(stdout);
                    _exit(1);
                }
            }
        }
        phases += static_cast<int64_t>(sizes.size());
        beat.store(++calls);
    }
    std::printf("%lld %lld\n", static_cast<long long>(calls), static_cast<long long>(phases));
    std::fflush(stdout);
    _exit(0);
}
