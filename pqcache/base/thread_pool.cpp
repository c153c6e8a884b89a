#include "pqcache/base/thread_pool.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "pqcache/base/check.h"
#include "pqcache/base/single_thread.h"

namespace pqcache {

struct ThreadPool::Impl {
  std::mutex mutex;
  std::condition_variable wake;
  std::condition_variable finished;
  std::vector<std::thread> workers;
  const std::function<void(int64_t, int)>* job = nullptr;
  int64_t job_size = 0;
  std::atomic<int64_t> next{0};
  uint64_t generation = 0;
  int running = 0;
  bool stop = false;

  void Work(int worker) {
    const SingleThreadScope one_thread;
    uint64_t seen = 0;
    std::unique_lock lock(mutex);
    while (true) {
      wake.wait(lock, [&] { return stop || generation != seen; });
      if (stop) return;
      seen = generation;
      lock.unlock();
      for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < job_size;) {
        (*job)(i, worker);
      }
      lock.lock();
      if (--running == 0) finished.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int threads) : impl_(std::make_unique<Impl>()) {
  PQCACHE_CHECK(threads >= 1, "a pool needs at least one thread");
  if (threads == 1) return;
  for (int w = 0; w < threads; ++w) {
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

int ThreadPool::threads() const {
  return impl_->workers.empty() ? 1 : static_cast<int>(impl_->workers.size());
}

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
  if (impl_->workers.empty() || n == 1) {
    const SingleThreadScope one_thread;
    for (int64_t i = 0; i < n; ++i) fn(i, 0);
    return;
  }
  std::unique_lock lock(impl_->mutex);
  impl_->job = &fn;
  impl_->job_size = n;
  impl_->next.store(0, std::memory_order_relaxed);
  impl_->running = threads();
  ++impl_->generation;
  impl_->wake.notify_all();
  impl_->finished.wait(lock, [&] { return impl_->running == 0; });
}

}  // namespace pqcache
