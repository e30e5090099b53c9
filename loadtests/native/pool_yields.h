// Included before everything of a stress build: at each atomic step of the pool the thread may lose
// its core, now and then for as long as a phase takes.
#pragma once
#include <sched.h>
#include <time.h>

#include <cstdint>

inline void pool_yield() {
    static thread_local uint64_t state = reinterpret_cast<uintptr_t>(&state) * 0x9E3779B97F4A7C15u | 1;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    const uint64_t draw = state >> 40;
    if (draw % 512 == 0) {
        const timespec pause{0, 50'000};
        nanosleep(&pause, nullptr);
    } else if (draw % 32 == 0) {
        sched_yield();
    }
}
#define SY_POOL_STEP() pool_yield()
