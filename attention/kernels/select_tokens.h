#pragma once

// The best candidates of every KV head by the scores of their codes, found without a host and
// without a score for each in memory.
//
// Scores are sums of the whole numbers that QuantisedTables (pqcache/index/quantised_tables.h)
// makes of the same queries, so a list of one query equals BestCodes' to the token. Queries that
// select together rank a candidate by its largest share of any query's attention: score minus the
// log-sum-exp of the query's scores over all candidates, in table steps. Of equal
// ranks the lower position wins.
//
// A sample says above which score a candidate can be among the best, one scan of the codes collects
// those and sums the exponentials of all. A scan more follows if the collected ones turn out not to
// suffice. Blocks of a scan wait for each other: one selection at a time on a device.

#include "attention/kernels/append_tokens.h"
#include "attention/kernels/gpu_types.h"
#include "pqcache/base/status.h"

namespace pqcache::attention {

struct SelectTokensParams {
  GpuLayer layer;
  GpuCodebooks codebooks;
  GpuWindow window;
  int group = 1;                   // G
  bool per_head = false;           // a list for each query head, else for each KV head
  const float* queries = nullptr;  // [B, Hq, D]
  float scale = 1;                 // of inner products
  // As SelectionBudget: `ratio` of the tokens so far, else `tokens`.
  int64_t budget_tokens = 0;
  double budget_ratio = 0;
  int max_selected = 0;             // room of a list; no more are selected
  void* workspace = nullptr;        // SelectWorkspaceBytes, zeros before the first call
  int32_t* positions = nullptr;     // [lists, max_selected] ascending positions
  int32_t* counts = nullptr;        // [lists] of them
  float* unselected_lse = nullptr;  // [B, Hq] log of the others' mass, with ScoreNats; may be null
};

// lists = B * Hkv, or B * Hq if per_head. Of the parameters only shapes are read, and whether there
// are position means.
size_t SelectWorkspaceBytes(const SelectTokensParams& params);

// InvalidArgument for shapes that the kernels do not have, naming those they do. With `append`
// (host memory, n = 1) the newest tokens are appended meanwhile, as AppendTokens does.
Status SelectTokens(const SelectTokensParams& params, GpuStream stream,
                    const AppendTokensParams* append = nullptr);

}  // namespace pqcache::attention
