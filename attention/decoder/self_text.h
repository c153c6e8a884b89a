#pragma once

// Text that a model writes by itself: training data for codebooks when no other text is at hand.
// Many short sequences are sampled side by side at temperature 1, starting from the
// begin-of-sequence token, so that the matrix products have many rows.

#include <cstdint>
#include <functional>
#include <vector>

#include "attention/decoder/decoder.h"

namespace pqcache::attention {

struct SelfTextOptions {
  int64_t tokens = 0;             // at least so many in all
  int64_t sequence_tokens = 512;  // of each sequence
  int64_t batch = 64;             // sequences at a time
  uint64_t seed = 0;
};

// Sequences of token ids, [.., sequence_tokens] each. Deterministic for a seed.
Result<std::vector<std::vector<int64_t>>> SampleSelfText(
    const Decoder& decoder, const SelfTextOptions& options,
    const std::function<void(double)>& progress = {});

}  // namespace pqcache::attention
