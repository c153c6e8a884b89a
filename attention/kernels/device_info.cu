#include <cuda_runtime_api.h>

#include "attention/kernels/device_info.h"
#include "attention/kernels/launch.cuh"

namespace pqcache::attention {
bool HasCuda() { return true; }

Result<std::vector<GpuInfo>> ListGpus() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver) {
    return std::vector<GpuInfo>();
  }
  if (error != cudaSuccess) return CudaStatus("count devices", error);
  std::vector<GpuInfo> gpus;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    if (const cudaError_t e = cudaGetDeviceProperties(&properties, i); e != cudaSuccess) {
      return CudaStatus("read device properties", e);
    }
    gpus.push_back(
        {properties.name, properties.major, properties.minor, properties.totalGlobalMem});
  }
  return gpus;
}

}  // namespace pqcache::attention
