#include "pqcache/cache/codebook_fit.h"

#include <cstdio>

namespace pqcache {

CodebookFit FitOf(const KvCache& cache) {
  CodebookFit fit;
  int heads = 0;
  for (int layer = 0; layer < cache.options().layers; ++layer) {
    for (int head = 0; head < cache.options().kv_heads; ++head) {
      const HeadCache& of_head = cache.head(layer, head);
      if (of_head.codes() == nullptr || !of_head.finite()) continue;
      const PqIndex::Residuals residuals = of_head.codes()->residuals();
      if (residuals.rows < kFitTokens) continue;
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
