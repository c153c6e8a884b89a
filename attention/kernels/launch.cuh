#pragma once

// What every .cu of this folder does around its kernels.

#include <cuda_runtime.h>

#include <string>

#include "pqcache/base/status.h"

namespace pqcache::attention {

inline Status CudaStatus(const char* action, cudaError_t error) {
  if (error == cudaSuccess) return Status::Ok();
  cudaGetLastError();  // the next launch would report it once more
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

// Whether a kernel may begin while the one before it on the stream still runs (compute capability
// 9.0).
inline bool CanOverlap() {
  static const bool can = [] {
    int device = 0, major = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) ==
               cudaSuccess &&
           major >= 9;
  }();
  return can;
}

struct LaunchShape {
  dim3 grid;
  int threads = 0;
  size_t shared_bytes = 0;
};

// Launches a kernel that may begin before the one before it has ended: it calls WaitForPrevious
// before it reads or writes what others write, and AllowNext after that.
template <typename... Params>
Status LaunchOverlapping(const char* name, void (*kernel)(Params...), const LaunchShape& shape,
                         cudaStream_t stream, const Params&... params) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = CanOverlap() ? 1 : 0;
  return CudaStatus(name, cudaLaunchKernelEx(&config, kernel, params...));
}

#ifdef __CUDACC__
__device__ inline void WaitForPrevious() {
#if __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
#endif
}
__device__ inline void AllowNext() {
#if __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}
#endif

}  // namespace pqcache::attention
