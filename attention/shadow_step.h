#pragma once

// Judges a finished decode step of one KV head against exact attention over everything the step
// could have attended: recall of the selection, true mass attended, relative error of the output.
// Reads every page of the head; meant for every n-th step.

#include "attention/head_step.h"
#include "pqcache/cache/kv_cache.h"

namespace pqcache::attention {

struct ShadowRequest {
  const KvCache* cache = nullptr;
  int layer = 0, kv_head = 0;
  int g = 0;                       // G
  const float* queries = nullptr;  // [G, D]
  const float* out = nullptr;      // [G, D] of the step
};

// `step` has finished and the cache has not changed since.
Status JudgeStep(const ShadowRequest& request, const HeadStepConfig& config, const HeadStep& step,
                 HeadStats* stats);

}  // namespace pqcache::attention
