#include "attention/torch/threads.h"

#include <ATen/Parallel.h>
#include <omp.h>

namespace pqcache::attention {

void UseOneTorchThread() {
  at::set_num_threads(1);
  omp_set_num_threads(1);
}

}  // namespace pqcache::attention
