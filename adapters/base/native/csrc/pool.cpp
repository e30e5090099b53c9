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

// The next item of `owner`'s share in `phase`, now this thread's to do, or -1 when there is none.
int Worker::claim(int owner, uint32_t phase, int num_items) {
    std::atomic<uint64_t>& share = pool_->shares_[static_cast<size_t>(owner)].ticket;
    const int64_t n = num_items, threads = pool_->num_threads_;
    const int begin = static_cast<int>(n * owner / threads);
    const int end = static_cast<int>(n * (owner + 1) / threads);
    uint64_t ticket = share.load(std::memory_order_acquire);
    while (static_cast<uint32_t>(ticket >> 32) == phase) {
        const int item = begin + static_cast<int>(static_cast<uint32_t>(ticket));
        if (item >= end) return -1;
        if (share.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) return item;
    }
    return -1;
}

// Adds to the phase's count; true for the thread that completed it, which opens the next phase.
bool Worker::report(uint32_t phase, int num_finished, int num_items) {
    if (pool_->done_.fetch_add(num_finished, std::memory_order_acq_rel) + num_finished < num_items) return false;
    pool_->done_.store(0, std::memory_order_relaxed);
    const uint64_t next = static_cast<uint64_t>(phase + 1) << 32;
    for (int k = 1; k <= pool_->num_threads_; ++k) {  // the others first
        const int owner = (id_ + k) % pool_->num_threads_;
        pool_->shares_[static_cast<size_t>(owner)].ticket.store(next, std::memory_order_release);
    }
    return true;
}

bool Worker::is_over(uint32_t phase) const {
    const uint64_t ticket = pool_->shares_[static_cast<size_t>(id_)].ticket.load(std::memory_order_acquire);
    return static_cast<uint32_t>(ticket >> 32) != phase;
}

void Worker::relax(int spins) {
    if (spins < kSpinsBeforeYield) {
        _mm_pause();
    } else {
        sched_yield();
    }
}

Pool::Pool(int num_threads) : num_threads_(num_threads < 1 ? 1 : num_threads) {
    workers_.resize(static_cast<size_t>(num_threads_));
    shares_ = std::make_unique<Share[]>(static_cast<size_t>(num_threads_));
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
    first_phase_ = static_cast<uint32_t>(shares_[0].ticket.load(std::memory_order_relaxed) >> 32);
    members_.store(0, std::memory_order_release);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    workers_[0].phase_ = first_phase_;
    entry(argument, workers_[0]);
    // Close the door, then wait for those inside: they still hold pointers into the caller's frame.
    for (int spins = 0;; Worker::relax(spins++)) {
        int nobody = 0;
        if (members_.compare_exchange_weak(nobody, -1, std::memory_order_acq_rel)) return;
    }
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
