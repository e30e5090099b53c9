// A persistent thread pool. One call runs one function on every thread; inside it, phases are
// `for_each` loops whose items are handed out dynamically.
//
// A phase is over when its items are done, not when all threads have come by: a thread that the
// system took off its core holds back nothing but the item in its hands, and skips the phases that
// ended without it. On a machine that also runs the event loop and its clients this is the
// difference between losing a share of the speed and losing a time slice at every barrier.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

class Pool;

// One thread's view of the running call.
class Worker {
   public:
    int id() const { return id_; }
    int count() const;
    // Calls body(i) for each i in [0, num_items), shared out `chunk` at a time, and returns when all
    // of them are done. Every thread makes the same for_each calls in the same order; outside the
    // bodies it may touch nothing that is shared and written.
    template <typename Body>
    void for_each(int num_items, int chunk, Body&& body);
    // At least `bytes` of page-aligned memory of this thread, contents undefined.
    uint8_t* scratch(size_t bytes);

   private:
    friend class Pool;
    void wait_for_phase_end();

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
    void start(Entry entry, void* argument);
    void serve(int id);
    bool join();

    const int num_threads_;
    std::mutex call_mutex_;
    std::vector<Worker> workers_;
    std::vector<std::thread> threads_;
    Entry entry_ = nullptr;
    void* argument_ = nullptr;
    uint32_t first_phase_ = 0;
    std::atomic<bool> stopping_{false};
    alignas(64) std::atomic<int> generation_{0};  // counts calls; idle threads sleep on it
    alignas(64) std::atomic<int> members_{-1};    // threads inside the call besides the caller, -1: closed
    alignas(64) std::atomic<uint64_t> ticket_{0};  // phase << 32 | next item
    alignas(64) std::atomic<int> done_{0};         // items finished in this phase
};

template <typename Body>
void Worker::for_each(int num_items, int chunk, Body&& body) {
    if (num_items == 0) return;
    Pool& pool = *pool_;
    if (pool.num_threads_ == 1) {
        for (int i = 0; i < num_items; ++i) body(i);
        return;
    }
    const uint32_t phase = phase_++;
    uint64_t ticket = pool.ticket_.load(std::memory_order_acquire);
    for (;;) {
        if (static_cast<uint32_t>(ticket >> 32) != phase) return;
        const int begin = static_cast<int>(static_cast<uint32_t>(ticket));
        if (begin >= num_items) return wait_for_phase_end();
        const int end = num_items - begin > chunk ? begin + chunk : num_items;
        const uint64_t next = (ticket & ~uint64_t{0xFFFFFFFF}) | static_cast<uint32_t>(end);
        if (!pool.ticket_.compare_exchange_weak(ticket, next, std::memory_order_acq_rel)) continue;
        for (int i = begin; i < end; ++i) body(i);
        if (pool.done_.fetch_add(end - begin, std::memory_order_acq_rel) + end - begin == num_items) {
            pool.done_.store(0, std::memory_order_relaxed);
            pool.ticket_.store(static_cast<uint64_t>(phase + 1) << 32, std::memory_order_release);
            return;
        }
        ticket = pool.ticket_.load(std::memory_order_acquire);
    }
}
