#include "pool.h"

#include <immintrin.h>
#include <sched.h>

#include <chrono>
#include <cstdlib>
#include <new>

namespace {

// A waiting thread spins this often before it offers its core: whom it waits for may need it.
constexpr int kSpinsBeforeYield = 1000;
// An idle thread watches for the next call this long, then sleeps in the kernel.
constexpr auto kIdleSpin = std::chrono::microseconds(60);

template <typename Condition>
void spin_until(Condition&& is_over) {
    for (int spins = 0; !is_over(); ++spins) {
        if (spins < kSpinsBeforeYield) {
            _mm_pause();
        } else {
            sched_yield();
        }
    }
}

}  // namespace

int Worker::count() const { return pool_->num_threads_; }

uint8_t* Worker::scratch(size_t bytes) {
    if (bytes > scratch_bytes_) {
        std::free(scratch_);
        scratch_bytes_ = (bytes + 4095) / 4096 * 4096;
        scratch_ = static_cast<uint8_t*>(std::aligned_alloc(4096, scratch_bytes_));
        if (scratch_ == nullptr) throw std::bad_alloc();
    }
    return scratch_;
}

void Worker::wait_for_phase_end() {
    const uint32_t mine = phase_ - 1;
    spin_until([&] {
        return static_cast<uint32_t>(pool_->ticket_.load(std::memory_order_acquire) >> 32) != mine;
    });
}

Pool::Pool(int num_threads) : num_threads_(num_threads < 1 ? 1 : num_threads) {
    workers_.resize(static_cast<size_t>(num_threads_));
    for (int i = 0; i < num_threads_; ++i) {
        workers_[static_cast<size_t>(i)].pool_ = this;
        workers_[static_cast<size_t>(i)].id_ = i;
    }
    for (int i = 1; i < num_threads_; ++i) threads_.emplace_back([this, i] { serve(i); });
}

Pool::~Pool() {
    stopping_.store(true);
    generation_.fetch_add(1);
    generation_.notify_all();
    for (auto& thread : threads_) thread.join();
    for (auto& worker : workers_) std::free(worker.scratch_);
}

void Pool::start(Entry entry, void* argument) {
    entry_ = entry;
    argument_ = argument;
    first_phase_ = static_cast<uint32_t>(ticket_.load(std::memory_order_relaxed) >> 32);
    members_.store(0, std::memory_order_release);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    workers_[0].phase_ = first_phase_;
    entry(argument, workers_[0]);
    // Close the door, then wait for those inside: they still hold pointers into the caller's frame.
    int nobody = 0;
    spin_until([&] {
        nobody = 0;
        return members_.compare_exchange_weak(nobody, -1, std::memory_order_acq_rel);
    });
}

bool Pool::join() {
    int members = members_.load(std::memory_order_acquire);
    while (members >= 0) {
        if (members_.compare_exchange_weak(members, members + 1, std::memory_order_acq_rel)) return true;
    }
    return false;
}

void Pool::serve(int id) {
    Worker& worker = workers_[static_cast<size_t>(id)];
    int seen = 0;
    for (;;) {
        const auto deadline = std::chrono::steady_clock::now() + kIdleSpin;
        int current = generation_.load(std::memory_order_acquire);
        for (int spins = 0; current == seen; ++spins) {
            _mm_pause();
            if (spins % 64 == 63 && std::chrono::steady_clock::now() > deadline) {
                generation_.wait(seen, std::memory_order_acquire);
            }
            current = generation_.load(std::memory_order_acquire);
        }
        seen = current;
        if (stopping_.load()) return;
        if (!join()) continue;
        worker.phase_ = first_phase_;
        entry_(argument_, worker);
        members_.fetch_sub(1, std::memory_order_acq_rel);
    }
}
