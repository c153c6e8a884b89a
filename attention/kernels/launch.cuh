#pragma once

// What every .cu of this folder does around its kernels.

#include <cuda_runtime_api.h>

#include <string>

#include "pqcache/base/status.h"

namespace pqcache::attention {

inline Status CudaStatus(const char* action, cudaError_t error) {
  if (error == cudaSuccess) return Status::Ok();
  return Status::Internal(std::string("CUDA: ") + action + ": " + cudaGetErrorString(error));
}

// After a launch: what was wrong with it. Failures while it runs surface at WaitFor.
inline Status LaunchStatus(const char* kernel) { return CudaStatus(kernel, cudaGetLastError()); }

// Lets a kernel have more than 48 KB of shared memory for each block.
template <typename Kernel>
Status AllowSharedMemory(Kernel* kernel, size_t bytes) {
  return CudaStatus("ask for shared memory",
                    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         static_cast<int>(bytes)));
}

inline Result<int> MultiprocessorCount() {
  int device = 0, count = 0;
  PQCACHE_RETURN_IF_ERROR(CudaStatus("find the device", cudaGetDevice(&device)));
  PQCACHE_RETURN_IF_ERROR(CudaStatus(
      "read device properties",
      cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device)));
  return count;
}

}  // namespace pqcache::attention
