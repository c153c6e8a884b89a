#pragma once

// While it lives, OpenMP regions started by this thread (BLAS, LAPACK, FAISS) run on it alone. The
// setting is the thread's own: other threads are not affected.

#include <omp.h>

namespace pqcache::train {

class SingleThreadScope {
 public:
  SingleThreadScope() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~SingleThreadScope() { omp_set_num_threads(before_); }
  SingleThreadScope(const SingleThreadScope&) = delete;
  SingleThreadScope& operator=(const SingleThreadScope&) = delete;

 private:
  int before_;
};

}  // namespace pqcache::train
