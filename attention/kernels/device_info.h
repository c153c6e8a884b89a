#pragma once

// The GPUs of this machine. Thread-safe.

#include <cstdint>
#include <string>
#include <vector>

#include "pqcache/base/status.h"

namespace pqcache::attention {

struct GpuInfo {
  std::string name;
  int compute_major = 0, compute_minor = 0;
  uint64_t memory_bytes = 0;
};

// True when this build has CUDA code.
bool HasCuda();

// kUnsupported in builds without CUDA; otherwise what the driver reports, an empty list when it
// reports no device. Errors of the driver are kInternal.
Result<std::vector<GpuInfo>> ListGpus();

}  // namespace pqcache::attention
