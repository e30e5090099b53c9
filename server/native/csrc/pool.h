// A persistent thread pool. One call runs one function on every thread; inside it, phases are
// `for_each` loops.
//
// Each thread owns a share of a phase's items, the same share in every phase of the same size: rows,
// weights and sums stay in the caches of one core (two cores of a virtual machine may be 150 ns
// apart). Who finishes early takes from the others' shares. A phase is over when its items are done,
// not when all threads have come by: a thread that the system took off its core holds back nothing
// but the item in its hands, and skips the phases that ended without it. On a machine that also runs
// the event loop this is the difference between losing a share of the speed and losing a time slice
// at every barrier.
//
// The protocol, and what always holds (tests/unit/server/native/pool_model.cpp tries every interleaving):
//  1. A share's phase only ever rises, to the maximum of what was published for it: who loses its core
//     halfway through opening a phase finds later ones there and must not undo them.
//  2. Phase p + 1 is published for any share only after all items of p are reported and done_ is zero
//     again. One thread alone, the one whose report completed p, resets done_ and publishes.
//  3. Who works in p has seen its own share at p, so p is open: it may publish p for any share that it
//     finds behind. After one look at every share nothing of p is left to claim.
//  4. Who left p has its own share above p. So a worker's own share is never behind its phase.
//  5. When the door is closed nobody is inside, publishers included, and all shares stand at the same
//     phase with nothing taken. The next call starts from there, and only then may entry_, argument_
//     and first_phase_ change.
//  6. Who sleeps has said so before it looked a last time, and who publishes looks for sleepers
//     afterwards: one of the two sees the other.
// Phases are compared by their distance, so that they may wrap around: a call may have 2^31 of them.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

// A stress build defines this as a forced yield (loadtests/native/pool_yields.h). It stands before
// each atomic step.
#ifndef SY_POOL_STEP
#define SY_POOL_STEP() static_cast<void>(0)
#endif

class Pool;

// One thread's view of the running call.
class Worker {
   public:
    int id() const { return id_; }
    int count() const;
    // Calls body(i) for each i in [0, num_items) and returns when all of them are done. Every thread
    // makes the same for_each calls in the same order; outside the bodies it may touch nothing that
    // is shared and written.
    template <typename Body>
    void for_each(int num_items, Body&& body);
    // At least `bytes` of page-aligned memory of this thread, contents undefined.
    uint8_t* scratch(size_t bytes);

   private:
    friend class Pool;
    int claim(int owner, uint32_t phase, int num_items);
    bool report(uint32_t phase, int num_finished, int num_items);
    void raise(int owner, uint32_t phase);
    bool is_over(uint32_t phase) const;
    void wait(uint32_t phase);

    Pool* pool_ = nullptr;
    int id_ = 0;
    uint32_t phase_ = 0;
    uint8_t* scratch_ = nullptr;
    size_t scratch_bytes_ = 0;
};

class Pool {
   public:
    explicit Pool(int num_threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int num_threads() const { return num_threads_; }
    // Runs body(worker) on the caller's thread and on those of the pool that are free in time;
    // returns when all that joined are done. Calls from several threads take turns.
    template <typename Body>
    void run(Body&& body) {
        const std::lock_guard<std::mutex> turn(call_mutex_);
        using Plain = std::remove_reference_t<Body>;
        start([](void* f, Worker& w) { (*static_cast<Plain*>(f))(w); }, &body);
    }

   private:
    friend class Worker;
    using Entry = void (*)(void*, Worker&);
    // What is left of one thread's share: phase << 32 | items taken. Its owner also learns from it
    // that a phase is over, and may sleep until then.
    struct alignas(64) Share {
        std::atomic<uint64_t> ticket{0};
        std::atomic<bool> is_owner_asleep{false};
    };

    void start(Entry entry, void* argument);
    void serve(int id);
    bool join();
    void leave();
    void close();

    const int num_threads_;
    std::mutex call_mutex_;
    std::vector<Worker> workers_;
    std::unique_ptr<Share[]> shares_;
    std::vector<std::thread> threads_;
    Entry entry_ = nullptr;
    void* argument_ = nullptr;
    uint32_t first_phase_ = 0;
    std::atomic<bool> stopping_{false};
    alignas(64) std::atomic<int> generation_{0};  // counts calls; idle threads sleep on it
    alignas(64) std::atomic<int> members_{-1};    // threads inside besides the caller; -1: closed
    alignas(64) std::atomic<int> done_{0};        // items finished in this phase
};

template <typename Body>
void Worker::for_each(int num_items, Body&& body) {
    if (num_items == 0) return;
    const int num_threads = count();
    if (num_threads == 1) {
        for (int i = 0; i < num_items; ++i) body(i);
        return;
    }
    const uint32_t phase = phase_++;
    if (is_over(phase)) return;
    int num_finished = 0;
    for (int k = 0; k < num_threads; ++k) {
        const int owner = (id_ + k) % num_threads;
        for (int i = claim(owner, phase, num_items); i >= 0; i = claim(owner, phase, num_items)) {
            body(i);
            ++num_finished;
        }
    }
    if (num_finished > 0 && report(phase, num_finished, num_items)) return;
    wait(phase);
}
