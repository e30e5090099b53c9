// Phases a second of a pool. Arguments: threads, seconds. A call is like a decode step of one row:
// phases of one item between phases of several, each item a microsecond of arithmetic.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "pool.h"

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    const double seconds = std::atof(argv[2]);
    Pool pool(std::atoi(argv[1]));
    constexpr int kSizes[] = {1, 24, 1, 8, 1, 48, 2, 24};
    const auto start = std::chrono::steady_clock::now();
    double elapsed = 0;
    int64_t phases = 0;
    while (elapsed < seconds) {
        pool.run([&](Worker& worker) {
            for (int layer = 0; layer < 30; ++layer) {
                for (int size : kSizes) {
                    worker.for_each(size, [&](int i) {
                        volatile float sum = static_cast<float>(i);
                        for (int k = 0; k < 300; ++k) sum = sum * 0.5f + 1.0f;
                    });
                }
            }
        });
        phases += 30 * 8;
        elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
    std::printf("%.0f\n", static_cast<double>(phases) / elapsed);
}
