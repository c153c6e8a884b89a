#pragma once

// Picks the next token from logits. One generator per sequence; deterministic for a seed.

#include <cstdint>
#include <span>
#include <vector>

#include "pqcache/base/random.h"
#include "pqcache/base/status.h"

namespace pqcache::attention {

struct SamplingOptions {
  double temperature = 0;  // 0: the most probable token (of equal ones the lowest id)
  int64_t top_k = 0;       // only the k most probable; 0: all
  double top_p = 1;        // the smallest set with this probability
  double min_p = 0;        // only tokens with at least this share of the best one's probability
  uint64_t seed = 0;

  Status Validate() const;
};

class TokenSampler {
 public:
  explicit TokenSampler(const SamplingOptions& options);
  // logits: [vocab].
  int64_t Pick(std::span<const float> logits);

 private:
  SamplingOptions options_;
  Random random_;
  std::vector<int64_t> order_;
  std::vector<double> weights_;
};

// Most probable token; of equal ones the lowest id.
int64_t ArgMax(std::span<const float> logits);
// Logarithm of the sum of the exponentials, in double precision.
double LogSumExp(std::span<const float> logits);
// Natural logarithm of the probability of `token`.
double LogProbability(std::span<const float> logits, int64_t token);

}  // namespace pqcache::attention
