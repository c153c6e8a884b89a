#include "pqcache/base/single_thread.h"

#include <omp.h>

namespace pqcache {

SingleThreadScope::SingleThreadScope() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }

SingleThreadScope::~SingleThreadScope() { omp_set_num_threads(before_); }

}  // namespace pqcache
