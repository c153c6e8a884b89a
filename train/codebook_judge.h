#pragma once

// How well codebooks find what exact attention would have read, on text they were not trained on.
//
// A query at position p may read the keys at positions n_sink .. p - window; the first n_sink and
// the newest `window` ones (its own token among them) are attended exactly in any case and so left
// out.

#include <cstdint>
#include <vector>

#include "pqcache/base/json.h"
#include "pqcache/base/status.h"
#include "pqcache/base/thread_pool.h"
#include "pqcache/index/codebook.h"

namespace pqcache::train {

// One layer of a held-out sequence of T tokens, with the queries of its last Nq tokens.
struct HeldOutLayer {
  std::vector<float> keys;     // [T, Hkv, D] after the rotary embedding
  std::vector<float> queries;  // [Nq, Hq, D] after it, the heads of a group adjacent
};

struct HeldOut {
  int kv_heads = 0;
  int group = 0;  // G = Hq / Hkv
  int dim = 0;
  int64_t tokens = 0;                    // T; keys are at positions 0 .. T-1
  std::vector<int64_t> query_positions;  // [Nq], each below T
  std::vector<HeldOutLayer> layers;
};

struct JudgeOptions {
  int64_t n_sink = 16;
  int64_t window = 256;
};

inline constexpr int64_t kJudgeTop = 100;
inline constexpr int64_t kJudgeOverfetch = 4;
inline constexpr int64_t kJudgeOneIn = 50;  // 2 %

struct HeadJudgement {
  // Share of the kJudgeTop keys with the largest inner products (all, if there are fewer) that are
  // among the equally many with the largest scores. Mean over queries. A tie goes to the lower
  // position.
  double recall_at_100 = 0;
  // Share of those keys that are among the kJudgeOverfetch times as many with the largest scores:
  // what ranking these by their exact keys (pq:rerank) would find. Mean over queries.
  double recall_in_400 = 0;
  // Attention mass (softmax of the inner product over sqrt(D)) of the keys with the largest scores,
  // one in kJudgeOneIn, rounded up, over the mass of the best choice of as many. Mean over queries.
  double mass_at_2pct = 0;
  // Mean squared distance between the T keys and their decoded codes, over the keys' variance; 0
  // where the keys do not vary.
  double relative_mse = 0;
  // Mean squared distance between these keys (but the first few) and their codes over that of the
  // keys of the training: 1 or a little more if those were enough. 0 if the codebook does not say.
  double residual_growth = 0;
};

struct JudgeReport {
  int layers = 0;
  int kv_heads = 0;
  int64_t tokens = 0;
  int64_t queries = 0;  // rows judged per head, G for every position with something to read
  std::vector<HeadJudgement> heads;  // [layers, kv_heads]
  HeadJudgement mean;
  HeadJudgement worst;  // each field's worst head: smallest recall and mass, largest error

  // {"tokens", "queries", "mean": {...}, "worst": {...}, "heads": [{"layer", "kv_head", ...}]}
  Json ToJson() const;
};

// Judges all heads, spread over the pool; the outcome does not depend on its size. Errors: sizes
// that do not fit the codebooks or each other, numbers that are not finite, no query with anything
// to read.
Result<JudgeReport> JudgeCodebooks(const CodebookSet& set, const HeldOut& held_out,
                                   const JudgeOptions& options, ThreadPool* pool);

// Makes the residuals of the codebooks those of the held-out keys: that is what text like the
// training's has, without being part of it.
Status TakeResiduals(const JudgeReport& judged, CodebookSet* set);

}  // namespace pqcache::train
