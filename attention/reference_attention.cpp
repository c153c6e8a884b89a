#include "attention/reference_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "attention/sdpa_reference.h"

namespace pqcache::attention {

double LargerDeviation(double a, double b) {
  if (std::isnan(a) || std::isnan(b)) return std::numeric_limits<double>::quiet_NaN();
  return std::max(a, b);
}

Status ReferenceAttention::Attend(const AttentionInput& input, float* out) {
  PQCACHE_RETURN_IF_ERROR(inner_->Attend(input, out));
  const int64_t tokens = cache_->tokens(input.layer);
  const int kv_heads = cache_->options().kv_heads;
  const int dim = cache_->options().page.dim;
  const int group = heads_ / kv_heads;
  const int64_t last = (input.n - 1) * heads_ * dim;
  std::vector<float> keys(static_cast<size_t>(tokens * dim)), values(keys.size());
  for (int h = 0; h < kv_heads; ++h) {
    PQCACHE_RETURN_IF_ERROR(
        cache_->ReadRows(input.layer, h, 0, tokens, keys.data(), values.data()));
    const SdpaShape shape{.n = 1,
                          .t = tokens,
                          .heads = group,
                          .kv_heads = 1,
                          .dim = dim,
                          .sliding_window = sliding_window_};
    const int64_t offset = last + int64_t{h} * group * dim;
    const SdpaResult exact =
        SdpaReference(shape, input.queries + offset, keys.data(), values.data());
    double largest = 0, difference = 0;
    for (size_t i = 0; i < exact.out.size(); ++i) {
      largest = std::max(largest, std::abs(exact.out[i]));
      const double error = std::abs(out[offset + static_cast<int64_t>(i)] - exact.out[i]);
      difference = LargerDeviation(difference, error);
    }
    const double deviation = largest > 0 ? difference / largest : difference;
    deviation_ = LargerDeviation(deviation_, deviation);
  }
  return Status::Ok();
}

}  // namespace pqcache::attention
