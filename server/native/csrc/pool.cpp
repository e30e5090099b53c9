#include "pool.h"

#include <immintrin.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bit>
#include <chrono>
#include <cstdlib>
#include <new>

namespace {

// A waiting thread spins this often before it offers its core: whom it waits for may need it.
constexpr int kSpinsBeforeYield = 1000;
// It offers its core this often before it sleeps in the kernel: a wake-up costs tens of microseconds.
constexpr int kYieldsBeforeSleep = 200;
// An idle thread watches for the next call this long, then sleeps in the kernel.
constexpr auto kIdleSpin = std::chrono::microseconds(60);

uint32_t phase_of(uint64_t ticket) { return static_cast<uint32_t>(ticket >> 32); }

// Positive where phase `a` comes after `b`; right across the wrap-around.
int32_t distance(uint32_t a, uint32_t b) { return static_cast<int32_t>(a - b); }

// The half of a ticket that holds the phase: what the kernel compares before it lets a thread sleep.
void* phase_address(std::atomic<uint64_t>& ticket) {
    static_assert(std::endian::native == std::endian::little && sizeof(ticket) == 8);
    return reinterpret_cast<char*>(&ticket) + 4;
}

// Spins, then offers the core, a bounded number of times; true as soon as `is_done` is.
template <typename IsDone>
bool poll(IsDone&& is_done) {
    for (int i = 0; i < kSpinsBeforeYield; ++i) {
        if (is_done()) return true;
        _mm_pause();
    }
    for (int i = 0; i < kYieldsBeforeSleep; ++i) {
        if (is_done()) return true;
        sched_yield();
    }
    return false;
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

// The next item of `owner`'s share in `phase`, now this thread's to do, or -1 when there is none.
int Worker::claim(int owner, uint32_t phase, int num_items) {
    std::atomic<uint64_t>& share = pool_->shares_[static_cast<size_t>(owner)].ticket;
    const int64_t n = num_items, threads = pool_->num_threads_;
    const int begin = static_cast<int>(n * owner / threads);
    const int end = static_cast<int>(n * (owner + 1) / threads);
    SY_POOL_STEP();
    uint64_t ticket = share.load(std::memory_order_acquire);
    for (;;) {
        const int32_t ahead = distance(phase_of(ticket), phase);
        if (ahead > 0) return -1;
        if (ahead < 0) {  // whoever opens this phase has not come to it yet
            raise(owner, phase);
            SY_POOL_STEP();
            ticket = share.load(std::memory_order_acquire);
            continue;
        }
        const int item = begin + static_cast<int>(static_cast<uint32_t>(ticket));
        if (item >= end) return -1;
        SY_POOL_STEP();
        if (share.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) return item;
    }
}

// Adds to the phase's count; true for the thread that completed it, which opens the next phase.
bool Worker::report(uint32_t phase, int num_finished, int num_items) {
    SY_POOL_STEP();
    if (pool_->done_.fetch_add(num_finished, std::memory_order_acq_rel) + num_finished < num_items) return false;
    SY_POOL_STEP();
    pool_->done_.store(0, std::memory_order_relaxed);
    for (int k = 1; k <= pool_->num_threads_; ++k) raise((id_ + k) % pool_->num_threads_, phase + 1);  // own last
    return true;
}

// Publishes `phase` for `owner`, unless it or a later one is already there.
void Worker::raise(int owner, uint32_t phase) {
    Pool::Share& share = pool_->shares_[static_cast<size_t>(owner)];
    const uint64_t opened = static_cast<uint64_t>(phase) << 32;
    SY_POOL_STEP();
    uint64_t ticket = share.ticket.load(std::memory_order_relaxed);
    do {
        if (distance(phase_of(ticket), phase) >= 0) return;
        SY_POOL_STEP();
    } while (!share.ticket.compare_exchange_weak(ticket, opened, std::memory_order_seq_cst));
    SY_POOL_STEP();
    if (share.is_owner_asleep.load(std::memory_order_seq_cst)) {
        syscall(SYS_futex, phase_address(share.ticket), FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
    }
}

bool Worker::is_over(uint32_t phase) const {
    SY_POOL_STEP();
    const uint64_t ticket = pool_->shares_[static_cast<size_t>(id_)].ticket.load(std::memory_order_seq_cst);
    return distance(phase_of(ticket), phase) > 0;
}

// Returns when `phase` is over. The kernel lets the thread sleep only while its share is in `phase`.
void Worker::wait(uint32_t phase) {
    if (poll([&] { return is_over(phase); })) return;
    Pool::Share& share = pool_->shares_[static_cast<size_t>(id_)];
    SY_POOL_STEP();
    share.is_owner_asleep.store(true, std::memory_order_seq_cst);
    while (!is_over(phase)) {
        SY_POOL_STEP();
        syscall(SYS_futex, phase_address(share.ticket), FUTEX_WAIT_PRIVATE, phase, nullptr, nullptr, 0);
    }
    SY_POOL_STEP();
    share.is_owner_asleep.store(false, std::memory_order_relaxed);
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
    first_phase_ = phase_of(shares_[0].ticket.load(std::memory_order_relaxed));
    SY_POOL_STEP();
    members_.store(0, std::memory_order_release);
    SY_POOL_STEP();
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    workers_[0].phase_ = first_phase_;
    entry(argument, workers_[0]);
    close();
}

// Closes the door once nobody is inside: those still hold pointers into the caller's frame.
void Pool::close() {
    const auto is_closed = [this] {
        int nobody = 0;
        SY_POOL_STEP();
        return members_.compare_exchange_strong(nobody, -1, std::memory_order_acq_rel);
    };
    while (!poll(is_closed)) {
        SY_POOL_STEP();
        const int members = members_.load(std::memory_order_relaxed);
        if (members > 0) members_.wait(members, std::memory_order_relaxed);
    }
}

bool Pool::join() {
    SY_POOL_STEP();
    int members = members_.load(std::memory_order_acquire);
    while (members >= 0) {
        SY_POOL_STEP();
        if (members_.compare_exchange_weak(members, members + 1, std::memory_order_acq_rel)) return true;
    }
    return false;
}

void Pool::leave() {
    SY_POOL_STEP();
    if (members_.fetch_sub(1, std::memory_order_acq_rel) == 1) members_.notify_one();
}

void Pool::serve(int id) {
    Worker& worker = workers_[static_cast<size_t>(id)];
    int seen = 0;
    for (;;) {
        SY_POOL_STEP();
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
        leave();
    }
}
