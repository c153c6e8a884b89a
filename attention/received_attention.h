#pragma once

// How much attention tokens receive: sums of softmax weights over queries, by key. A second pass
// over the keys in blocks with the log-sum-exp that exact attention left behind, so memory grows
// with the tokens and never with their square.

#include <cstdint>

#include "attention/prefill_attention.h"

namespace pqcache::attention {

// sums [Hq, stride] += over the N queries of `input`, the weight exp(logit - lse) that each pays to
// token t at or before its position (and inside params.sliding_window). lse [N, Hq] are the
// log-sum-exps of the queries over these tokens. All tokens up to the last query's are in the
// cache; `input.keys` and `input.values` are not read.
Status AddReceived(const PrefillParams& params, const AttentionInput& input, const float* lse,
                   int64_t stride, ThreadPool* pool, float* sums);

}  // namespace pqcache::attention
