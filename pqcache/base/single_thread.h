#pragma once

// While it lives, OpenMP regions started by this thread (BLAS, LAPACK, FAISS, torch) run on it
// alone. The setting is the thread's own: other threads are not affected.

namespace pqcache {

class SingleThreadScope {
 public:
  SingleThreadScope();
  ~SingleThreadScope();
  SingleThreadScope(const SingleThreadScope&) = delete;
  SingleThreadScope& operator=(const SingleThreadScope&) = delete;

 private:
  int before_;
};

}  // namespace pqcache
