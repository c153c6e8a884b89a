#pragma once

// A whole model's steps: prefill beside its matrix products alone, and decoding under the exact
// policy and under pq, with the part that attention takes. Tokens are random ids.

#include <cstdint>
#include <memory>
#include <string>

#include "attention/decoder/decoder.h"
#include "pqcache/base/json.h"
#include "pqcache/index/codebook.h"

namespace pqcache::tools {

struct ModelBenchOptions {
  std::shared_ptr<const CodebookSet> codebooks;
  int64_t tokens = 16000;  // of the context
  int page_tokens = 16;
  double ratio = 0.02;  // of the context that a step selects
  int rounds = 5;       // of kModelBenchSteps tokens under each policy; the medians are given.
                        // Prefill and its products run once
  uint64_t seed = 0;
};
inline constexpr int kModelBenchSteps = 16;

// Adds a row for prefill, one for its products and one for each policy to `rows`, lines to `text`.
Status BenchModel(const attention::Decoder& decoder, const ModelBenchOptions& options, Json* rows,
                  std::string* text);

}  // namespace pqcache::tools
