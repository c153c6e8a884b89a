#include "attention/sdpa_reference.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace pqcache::attention {

SdpaResult SdpaReference(const SdpaShape& s, const float* queries, const float* keys,
                         const float* values, const std::vector<bool>& keep) {
  const double scale = s.scale != 0 ? s.scale : 1.0 / std::sqrt(static_cast<double>(s.dim));
  SdpaResult result;
  result.out.assign(static_cast<size_t>(s.n * s.heads * s.dim), 0.0);
  result.lse.assign(static_cast<size_t>(s.n * s.heads), -std::numeric_limits<double>::infinity());
  std::vector<double> weights(static_cast<size_t>(s.t));
  for (int64_t i = 0; i < s.n; ++i) {
    const int64_t position = s.t - s.n + i;
    const int64_t first =
        s.sliding_window > 0 ? std::max<int64_t>(0, position - s.sliding_window + 1) : 0;
    for (int h = 0; h < s.heads; ++h) {
      const int kv_head = h / (s.heads / s.kv_heads);
      const float* q = queries + (i * s.heads + h) * s.dim;
      double max = -std::numeric_limits<double>::infinity();
      for (int64_t t = first; t <= position; ++t) {
        if (!keep.empty() && !keep[static_cast<size_t>(t)]) continue;
        const float* k = keys + (t * s.kv_heads + kv_head) * s.dim;
        double dot = 0;
        for (int d = 0; d < s.dim; ++d) dot += double{q[d]} * k[d];
        weights[static_cast<size_t>(t)] = dot * scale;
        max = std::max(max, dot * scale);
      }
      double sum = 0;
      double* out = &result.out[static_cast<size_t>((i * s.heads + h) * s.dim)];
      for (int64_t t = first; t <= position; ++t) {
        if (!keep.empty() && !keep[static_cast<size_t>(t)]) continue;
        const double weight = std::exp(weights[static_cast<size_t>(t)] - max);
        const float* v = values + (t * s.kv_heads + kv_head) * s.dim;
        sum += weight;
        for (int d = 0; d < s.dim; ++d) out[d] += weight * v[d];
      }
      if (sum == 0) continue;  // nothing attended: the output is zero
      for (int d = 0; d < s.dim; ++d) out[d] /= sum;
      result.lse[static_cast<size_t>(i * s.heads + h)] = max + std::log(sum);
    }
  }
  return result;
}

}  // namespace pqcache::attention
