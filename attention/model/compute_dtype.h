#pragma once

// The type that matrix products of a model are computed in.

#include <string_view>

#include "attention/model/model_spec.h"
#include "pqcache/base/dtype.h"
#include "pqcache/base/status.h"

namespace pqcache::attention {

enum class ComputeDType {
  kAuto,  // bfloat16 when the checkpoint is 16-bit and bfloat16 is native here, else float32
  kFloat32,
  kBFloat16,
};

// "auto", "float32", "bfloat16".
Result<ComputeDType> ParseComputeDType(std::string_view name);

// kF32 or kBF16.
DType ComputeDTypeFor(const ModelSpec& spec, ComputeDType compute, bool native_bfloat16);

}  // namespace pqcache::attention
