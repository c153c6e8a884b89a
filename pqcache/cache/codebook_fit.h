#pragma once

// Whether codebooks were made for the keys that a cache codes with them. Keys of text unlike the
// text of the training lie farther from the centroids, and their codes find less.

#include <string>

#include "pqcache/cache/kv_cache.h"

namespace pqcache {

// PqIndex::Residuals of the heads: about 1 where the keys are like text of the training's kind.
struct CodebookFit {
  double mean = 0;             // over all heads; 0: not known (see FitOf)
  double newest = 0;           // the same of the newest tokens
  double worst = 0;            // of one head, all tokens
  int layer = 0, kv_head = 0;  // of that head
};

// Fewer tokens that were coded here say nothing.
inline constexpr int64_t kFitTokens = 512;

// From here on codes are of other text than the codebooks. Measured on a small model with
// codebooks of 32,000 tokens that it wrote itself: essays 1.0, a novel 1.1, a few sentences over
// and over 1.1, a list of random identifiers 1.4; with codebooks of a novel, such a list 1.7.
inline constexpr double kForeignKeys = 1.3;

// Not known without codes, of codebooks that do not say, and where the cache has coded fewer than
// kFitTokens tokens itself: a stored context brings its codes along. Heads with keys that are not
// finite do not count. The cache must not change meanwhile.
CodebookFit FitOf(const KvCache& cache);

// Of one head: its codes are of other text than its codebook, all of them or the newest. False if
// it is not known.
bool IsMisfit(const HeadCache& head);

// What to tell a user; empty if the codebooks fit.
std::string DescribeMisfit(const CodebookFit& fit);

}  // namespace pqcache
