#pragma once

// The speed of libtorch's scaled_dot_product_attention on the GPU, one of its kernels at a time:
// the exact attention that a user has today, for benches. Random bfloat16 numbers.
// kUnsupported in builds whose libtorch has no CUDA.

#include <cstdint>
#include <vector>

#include "pqcache/base/status.h"

namespace pqcache::attention {

enum class SdpaKernel { kFlash, kCudnn };

struct GpuSdpaShape {
  int batch = 1, heads = 0, kv_heads = 0, dim = 0;  // B, Hq, Hkv, D
  int64_t tokens = 0;                               // of each sequence
};

// Milliseconds of a decode step of one layer, each of `rounds`: a CUDA graph over `layers` layers
// with keys and values of their own, its time divided by them.
Result<std::vector<double>> TimeSdpaDecode(SdpaKernel kernel, const GpuSdpaShape& shape, int layers,
                                           int rounds);

// Milliseconds of the causal attention of a prompt in one layer, each of `rounds`.
Result<std::vector<double>> TimeSdpaPrefill(SdpaKernel kernel, const GpuSdpaShape& shape,
                                            int rounds);

}  // namespace pqcache::attention
