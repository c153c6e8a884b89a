// What builds without CUDA answer.

#include "attention/kernels/device_info.h"

namespace pqcache::attention {

bool HasCuda() { return false; }

Result<std::vector<GpuInfo>> ListGpus() {
  return Status::Unsupported("this build has no CUDA code; configure with PQCACHE_CUDA=ON");
}

}  // namespace pqcache::attention
