// A persistent thread pool. One call runs one function on every thread; inside it, phases are
// separated by spinning barriers and items are handed out dynamically, so that a thread that the
// system took off its core doesn't hold the others' share.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

class Pool;

// One thread's view of the running call.
class Worker {
   public:
    int id() const { return id_; }
    int count() const;
    // All threads have passed what came before. Also rearms `for_each`.
    void barrier();
    // Calls body(i) for each i in [0, num_items), shared out `chunk` at a time. At most one
    // for_each between two barriers.
    template <typename Body>
    void for_each(int num_items, int chunk, Body&& body);
    // At least `bytes` of 64-byte aligned memory of this thread, contents undefined.
    uint8_t* scratch(size_t bytes);

   private:
    friend class Pool;
    Pool* pool_ = nullptr;
    int id_ = 0;
    uint8_t* scratch_ = nullptr;
    size_t scratch_bytes_ = 0;
    int seen_epoch_ = 0;
};

class Pool {
   public:
    explicit Pool(int num_threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int num_threads() const { return num_threads_; }
    // Runs body(worker) on every thread, the caller's included; returns when all are done.
    // Calls from several threads take turns.
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

    const int num_threads_;
    std::mutex call_mutex_;
    std::vector<Worker> workers_;
    std::vector<std::thread> threads_;
    Entry entry_ = nullptr;
    void* argument_ = nullptr;
    alignas(64) std::atomic<int> generation_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<int> epoch_{0};
    alignas(64) std::atomic<int> next_item_{0};
    alignas(64) std::atomic<bool> stopping_{false};
};

template <typename Body>
void Worker::for_each(int num_items, int chunk, Body&& body) {
    if (pool_->num_threads_ == 1) {
        for (int i = 0; i < num_items; ++i) body(i);
        return;
    }
    for (;;) {
        const int begin = pool_->next_item_.fetch_add(chunk, std::memory_order_relaxed);
        if (begin >= num_items) return;
        const int end = begin + chunk < num_items ? begin + chunk : num_items;
        for (int i = begin; i < end; ++i) body(i);
    }
}
