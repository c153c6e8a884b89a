#include "pqcache/cache/codebook_fit.h"

#include <algorithm>
#include <cstdio>

namespace pqcache {
namespace {

// No rows: not known.
PqIndex::Residuals ResidualsOf(const HeadCache& head) {
  if (head.codes() == nullptr || !head.finite()) return {};
  const PqIndex::Residuals residuals = head.codes()->residuals();
  return residuals.rows < kFitTokens ? PqIndex::Residuals() : residuals;
}

}  // namespace

bool IsMisfit(const HeadCache& head) {
  const PqIndex::Residuals residuals = ResidualsOf(head);
  return residuals.rows > 0 && std::max(residuals.all, residuals.newest) >= kForeignKeys;
}

CodebookFit FitOf(const KvCache& cache) {
  CodebookFit fit;
  int heads = 0;
  for (int layer = 0; layer < cache.options().layers; ++layer) {
    for (int head = 0; head < cache.options().kv_heads; ++head) {
      const PqIndex::Residuals residuals = ResidualsOf(cache.head(layer, head));
      if (residuals.rows == 0) continue;
      ++heads;
      fit.mean += residuals.all;
      fit.newest += residuals.newest;
      if (residuals.all <= fit.worst) continue;
      fit.worst = residuals.all;
      fit.layer = layer;
      fit.kv_head = head;
    }
  }
  if (heads == 0) return {};
  fit.mean /= heads;
  fit.newest /= heads;
  return fit;
}

std::string DescribeMisfit(const CodebookFit& fit) {
  if (fit.mean < kForeignKeys && fit.newest < kForeignKeys) return "";
  char text[400];
  std::snprintf(
      text, sizeof(text),
      "the codebooks do not fit this text: squared distances of its keys to their codes "
      "are %.2f times those of text like the training's (of the newest tokens %.2f, of "
      "layer %d KV head %d %.2f), expected less than %.1f. Codes find less. Train on text "
      "like this and of its length, or use --tail estimate, a larger budget or pq:rerank",
      fit.mean, fit.newest, fit.layer, fit.kv_head, fit.worst, kForeignKeys);
  return text;
}

}  // namespace pqcache
