#pragma once

// y = x W^T + b with libtorch's matrix products, in float32 or bfloat16. Inputs and outputs are
// float32; bfloat16 rounds x and W, and sums as oneDNN does.
//
// Work is cut into tiles whose size does not depend on the number of threads, each computed by one
// thread, so results do not depend on it either. Immutable after Create; Apply may not run twice
// at once (it occupies the pool).

#include <cstdint>
#include <memory>
#include <vector>

#include "pqcache/base/dtype.h"
#include "pqcache/base/status.h"
#include "pqcache/base/thread_pool.h"

namespace pqcache::attention {

class Linear {
 public:
  // weight: [out, in]; bias: [out] or empty. compute: kF32 or kBF16.
  static Result<Linear> Create(std::vector<float> weight, std::vector<float> bias, int64_t in,
                               int64_t out, DType compute);
  Linear(Linear&&) noexcept;
  Linear& operator=(Linear&&) noexcept;
  ~Linear();

  int64_t in() const;
  int64_t out() const;
  // x: [N, in], y: [N, out].
  Status Apply(int64_t n, const float* x, float* y, ThreadPool* pool) const;
  // Row r of the weight, [in].
  void CopyRow(int64_t r, float* x) const;

 private:
  struct Impl;
  explicit Linear(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// True when bfloat16 products are native here (AVX512_BF16); without it they are slower than
// float32.
bool HasNativeBFloat16();

}  // namespace pqcache::attention
