#include "attention/torch/threads.h"

#include <ATen/Parallel.h>
#include <omp.h>
#include <torch/version.h>

namespace pqcache::attention {

void UseOneTorchThread() {
  at::set_num_threads(1);
  omp_set_num_threads(1);
}

std::string TorchVersion() { return TORCH_VERSION; }

}  // namespace pqcache::attention
