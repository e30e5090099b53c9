#include "pool.h"

#include <immintrin.h>
#include <sched.h>

#include <chrono>
#include <cstdlib>
#include <new>

namespace {

// A barrier spins this often before it offers its core: the other thread may be waiting for it.
constexpr int kSpinsBeforeYield = 4000;
// An idle thread watches for the next call this long, then sleeps in the kernel.
constexpr auto kIdleSpin = std::chrono::microseconds(100);

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

void Worker::barrier() {
    Pool& pool = *pool_;
    if (pool.num_threads_ == 1) return;
    const int epoch = seen_epoch_++;
    if (pool.arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == pool.num_threads_) {
        pool.arrived_.store(0, std::memory_order_relaxed);
        pool.next_item_.store(0, std::memory_order_relaxed);
        pool.epoch_.store(epoch + 1, std::memory_order_release);
        return;
    }
    for (int spins = 0; pool.epoch_.load(std::memory_order_acquire) == epoch; ++spins) {
        if (spins < kSpinsBeforeYield) {
            _mm_pause();
        } else {
            sched_yield();
        }
    }
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
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    entry(argument, workers_[0]);
    workers_[0].barrier();
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
        entry_(argument_, worker);
        worker.barrier();
    }
}
