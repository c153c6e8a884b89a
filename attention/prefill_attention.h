#pragma once

// Exact causal attention of a chunk of new tokens over the cached past and over the chunk itself,
// block by block with an online softmax (Dao et al., FlashAttention, 2022), so memory grows with
// the chunk and never with its square.

#include <cstdint>

#include "attention/attention_backend.h"
#include "pqcache/base/thread_pool.h"
#include "pqcache/cache/kv_cache.h"

namespace pqcache::attention {

// Tokens whose queries are multiplied together, and keys that they are multiplied with.
inline constexpr int64_t kPrefillTileTokens = 512;
inline constexpr int64_t kPrefillBlockKeys = 512;

struct PrefillParams {
  const KvCache* cache = nullptr;  // holds the tokens before the chunk, and not the chunk
  int heads = 0;                   // Hq
  int64_t sliding_window = 0;      // 0: none
};

// out [N, Hq, D]; lse [N, Hq], unless it is null, the log-sum-exps of the logits. Positions of
// `input` are consecutive and continue the cache. A key that is NaN or infinite makes the outputs
// that attend to it NaN, as in plain attention.
Status PrefillAttention(const PrefillParams& params, const AttentionInput& input, ThreadPool* pool,
                        float* out, float* lse = nullptr);

}  // namespace pqcache::attention
