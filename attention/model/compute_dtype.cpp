#include "attention/model/compute_dtype.h"

#include <string>

namespace pqcache::attention {

Result<ComputeDType> ParseComputeDType(std::string_view name) {
  if (name == "auto") return ComputeDType::kAuto;
  if (name == "float32") return ComputeDType::kFloat32;
  if (name == "bfloat16") return ComputeDType::kBFloat16;
  return Status::InvalidArgument("dtype is '" + std::string(name) +
                                 "', expected auto, float32 or bfloat16");
}

DType ComputeDTypeFor(const ModelSpec& spec, ComputeDType compute, bool native_bfloat16) {
  const bool half = spec.checkpoint_dtype == "bfloat16" || spec.checkpoint_dtype == "float16";
  const bool use_bfloat16 = compute == ComputeDType::kBFloat16 ||
                            (compute == ComputeDType::kAuto && half && native_bfloat16);
  return use_bfloat16 ? DType::kBF16 : DType::kF32;
}

}  // namespace pqcache::attention
