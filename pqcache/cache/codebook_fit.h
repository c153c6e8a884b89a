#pragma once

// Whether codebooks were made for the keys that a cache codes with them. Keys of text unlike the
// text of the training lie farther from the centroids, and their codes find less.

#include <string>

#include "pqcache/cache/kv_cache.h"

namespace pqcache {

// PqIndex::Residuals of the heads: about 1 where the keys are like those of the training.
struct CodebookFit {
  double mean = 0;             // over all heads; 0: not known (see FitOf)
  double newest = 0;           // the same of the newest tokens
  double worst = 0;            // of one head, all tokens
  int layer = 0, kv_head = 0;  // of that head
};

// Fewer tokens that were coded here say nothing.
inline constexpr int64_t kFitTokens = 512;

// From here on codes are of other text than the codebooks. Measured on two small models: with
// codebooks of a novel, other books 1.0 to 1.1, essays 1.05 to 1.13, a list of random
// identifiers 1.8 to 2.0; with codebooks of text that the model wrote, books and essays 1.2 to 1.3,
// a few sentences over and over 1.3, identifiers 1.8.
inline constexpr double kForeignKeys = 1.5;

// Not known without codes, of codebooks that do not say, and where the cache has coded fewer than
// kFitTokens tokens itself: a stored context brings its codes along. Heads with keys that are not
// finite do not count. The cache must not change meanwhile.
CodebookFit FitOf(const KvCache& cache);

// What to tell a user; empty if the codebooks fit.
std::string DescribeMisfit(const CodebookFit& fit);

}  // namespace pqcache
