#pragma once

// Random rows with rotary positions, and attention by the definition with positions of one's own.

#include <cmath>
#include <functional>
#include <memory>
#include <vector>

#include "attention/model/rope.h"
#include "tests/support/attention_fixture.h"

namespace pqcache::testing {

inline std::shared_ptr<const attention::Rope> SmallRope(int dim) {
  attention::RopeSpec spec;
  spec.rotary_dim = dim;
  spec.theta = 100.0;
  return std::make_shared<attention::Rope>(spec);
}

// `plain` with queries and keys rotated to their positions.
inline Sequence Rotated(Sequence plain, const attention::Rope& rope) {
  for (int64_t t = 0; t < plain.tokens; ++t) {
    rope.Apply(1, &t, plain.heads, plain.dim, plain.queries.data() + t * plain.heads * plain.dim);
    rope.Apply(1, &t, plain.kv_heads, plain.dim, plain.key(t, 0));
  }
  return plain;
}

// Output [D] of a query head at token t over the tokens for which `keep` holds, in double
// precision. `distance` is how far away a token counts, in tokens; rows of `plain` are not rotated.
inline std::vector<double> AttendAtDistances(const Sequence& plain, const attention::Rope& rope,
                                             int64_t t, int head,
                                             const std::function<bool(int64_t)>& keep,
                                             const std::function<int64_t(int64_t)>& distance) {
  const int kv_head = head / plain.group();
  std::vector<double> out(static_cast<size_t>(plain.dim), 0.0);
  double sum = 0;
  for (int64_t i = 0; i <= t; ++i) {
    if (!keep(i)) continue;
    std::vector<float> query(plain.query(t, head), plain.query(t, head) + plain.dim);
    const int64_t angle = distance(i);
    rope.Apply(1, &angle, 1, plain.dim, query.data());
    double logit = 0;
    for (int d = 0; d < plain.dim; ++d) {
      logit += double{query[static_cast<size_t>(d)]} * plain.key(i, kv_head)[d];
    }
    const double weight = std::exp(logit / std::sqrt(static_cast<double>(plain.dim)));
    sum += weight;
    for (int d = 0; d < plain.dim; ++d) {
      out[static_cast<size_t>(d)] += weight * plain.value(i, kv_head)[d];
    }
  }
  for (double& x : out) x /= sum;
  return out;
}

}  // namespace pqcache::testing
