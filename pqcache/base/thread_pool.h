#pragma once

// A fixed set of threads that run the iterations of a loop. Results must not depend on which
// thread ran an iteration, so callers give every iteration its own output.
//
// Run may be called from one thread at a time and not from inside an iteration; the caller works,
// too. Each worker sets its OpenMP thread count to one, so that BLAS, FAISS and torch calls inside
// stay on it. Waiting threads stay awake for some tens of microseconds, if each has a core.

#include <cstdint>
#include <functional>
#include <memory>

#include "pqcache/base/status.h"

namespace pqcache {

class ThreadPool {
 public:
  // `threads` >= 1. With one thread, Run executes on the caller's.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;

  // Calls fn(i) once for every i in [0, n), in any order, and returns when all are done.
  void Run(int64_t n, const std::function<void(int64_t)>& fn);
  // As Run; fn(i, worker) with worker in [0, threads()), for scratch memory per worker.
  void RunWithWorker(int64_t n, const std::function<void(int64_t, int)>& fn);

  // As Run, for iterations that may fail: all of them run, and the lowest one's failure is
  // returned.
  Status RunChecked(int64_t n, const std::function<Status(int64_t)>& fn);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace pqcache
