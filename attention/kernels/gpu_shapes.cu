#include <string>

#include "attention/kernels/dispatch.cuh"
#include "attention/kernels/gpu_shapes.h"
#include "attention/kernels/gpu_types.h"

namespace pqcache::attention {

Status CheckGpuShapes(int dim, int bytes_per_key, int group) {
  if (group < 1 || group > kMaxGpuGroup) {
    return Status::InvalidArgument(std::to_string(group) + " query heads share a KV head, " +
                                   "expected 1 to " + std::to_string(kMaxGpuGroup) + " on a GPU");
  }
  PQCACHE_RETURN_IF_ERROR(DispatchDim(dim, [](auto) { return Status::Ok(); }));
  if (bytes_per_key == 0) return Status::Ok();
  return DispatchCodes(8, bytes_per_key, 1, [](auto...) { return Status::Ok(); });
}

}  // namespace pqcache::attention
