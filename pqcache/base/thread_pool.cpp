#include "pqcache/base/thread_pool.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "pqcache/base/check.h"
#include "pqcache/base/single_thread.h"

namespace pqcache {

namespace {

// Pauses of a waiting thread before it sleeps: some tens of microseconds, the time that a decode
// step takes from one loop to the next. Waking up takes longer than most loops.
constexpr int kPauses = 1000;

void Pause() {
#ifdef __x86_64__
  __builtin_ia32_pause();
#endif
}

}  // namespace

struct ThreadPool::Impl {
  std::mutex mutex;
  std::condition_variable wake;
  std::condition_variable finished;
  std::vector<std::thread> workers;  // beside the caller's thread, which is worker 0
  int pauses = 0;
  const std::function<void(int64_t, int)>* job = nullptr;
  int64_t job_size = 0;
  std::atomic<int64_t> next{0};
  std::atomic<uint64_t> generation{0};  // changed under the mutex
  std::atomic<int> running{0};          // workers that are not done yet
  std::atomic<bool> stop{false};

  void Wait(std::condition_variable* signal, const auto& ready) {
    for (int i = 0; i < pauses; ++i) {
      if (ready()) return;
      Pause();
    }
    std::unique_lock lock(mutex);
    signal->wait(lock, ready);
  }

  // Others may still be at work, so an exception cannot leave.
  void RunIterations(int worker) noexcept {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < job_size;) {
      (*job)(i, worker);
    }
  }

  void Work(int worker) {
    const SingleThreadScope one_thread;
    for (uint64_t seen = 0;;) {
      Wait(&wake, [&] { return stop || generation != seen; });
      if (stop) return;
      seen = generation;
      RunIterations(worker);
      if (--running > 0) continue;
      const std::lock_guard lock(mutex);
      finished.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int threads) : impl_(std::make_unique<Impl>()) {
  PQCACHE_CHECK(threads >= 1, "a pool needs at least one thread");
  // Where threads share a core, one that waits would hold up one that works.
  const bool own_cores = threads <= static_cast<int>(std::thread::hardware_concurrency());
  impl_->pauses = own_cores ? kPauses : 0;
  for (int w = 1; w < threads; ++w) {
    impl_->workers.emplace_back([impl = impl_.get(), w] { impl->Work(w); });
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->stop = true;
  }
  impl_->wake.notify_all();
  for (std::thread& t : impl_->workers) t.join();
}

int ThreadPool::threads() const { return static_cast<int>(impl_->workers.size()) + 1; }

void ThreadPool::Run(int64_t n, const std::function<void(int64_t)>& fn) {
  RunWithWorker(n, [&fn](int64_t i, int) { fn(i); });
}

Status ThreadPool::RunChecked(int64_t n, const std::function<Status(int64_t)>& fn) {
  std::mutex mutex;
  Status failure;
  int64_t failed = n;  // lowest iteration that failed
  Run(n, [&](int64_t i) {
    Status status = fn(i);
    if (status.ok()) return;
    const std::lock_guard lock(mutex);
    if (i >= failed) return;
    failed = i;
    failure = std::move(status);
  });
  return failure;
}

void ThreadPool::RunWithWorker(int64_t n, const std::function<void(int64_t, int)>& fn) {
  if (n <= 0) return;
  const SingleThreadScope one_thread;
  if (impl_->workers.empty() || n == 1) {
    for (int64_t i = 0; i < n; ++i) fn(i, 0);
    return;
  }
  impl_->job = &fn;
  impl_->job_size = n;
  impl_->next.store(0, std::memory_order_relaxed);
  impl_->running = threads() - 1;
  {
    const std::lock_guard lock(impl_->mutex);
    ++impl_->generation;
  }
  impl_->wake.notify_all();
  impl_->RunIterations(0);
  impl_->Wait(&impl_->finished, [&] { return impl_->running == 0; });
}

}  // namespace pqcache
