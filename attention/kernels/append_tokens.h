#pragma once

// Writes the rows of new tokens into their pages and encodes their keys.
//
// Keys and values are rounded to bfloat16, as the pages store them; codes are those of the rounded
// keys, equal to HeadCodebook::Encode's to the bit.

#include "attention/kernels/gpu_types.h"
#include "pqcache/base/status.h"

namespace pqcache::attention {

struct AppendTokensParams {
  GpuLayer layer;                           // tokens [B] include the new ones
  const GpuCodebooks* codebooks = nullptr;  // host memory; null: no codes are written
  int n = 1;                                // new tokens of each sequence, its last
  const float* keys = nullptr;              // [B, N, Hkv, D]
  const float* values = nullptr;            // [B, N, Hkv, D]
};

// InvalidArgument for shapes that the kernels do not have, naming those they do.
Status AppendTokens(const AppendTokensParams& params, GpuStream stream);

// tokens [B] += n.
Status AdvanceTokens(int32_t* tokens, int batch, int n, GpuStream stream);

}  // namespace pqcache::attention
