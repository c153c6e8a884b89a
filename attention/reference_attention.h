#pragma once

// Judges the exact path itself: recomputes one row of every Attend call in double precision from
// the rows that the cache holds, and keeps the largest deviation. Passes everything on.

#include "attention/attention_backend.h"
#include "pqcache/cache/kv_cache.h"

namespace pqcache::attention {

// The larger one; NaN is larger than every number, so that it is never lost.
double LargerDeviation(double a, double b);

class ReferenceAttention : public AttentionBackend {
 public:
  // Borrows both; `inner` attends exactly over `cache`.
  ReferenceAttention(AttentionBackend* inner, const KvCache* cache, int heads,
                     int64_t sliding_window)
      : inner_(inner), cache_(cache), heads_(heads), sliding_window_(sliding_window) {}

  Status Attend(const AttentionInput& input, float* out) override;

  // Largest |out - reference| over the largest |reference| of its call; 0 before the first; NaN
  // once an output was.
  double deviation() const { return deviation_; }

 private:
  AttentionBackend* inner_;
  const KvCache* cache_;
  int heads_;
  int64_t sliding_window_;
  double deviation_ = 0;
};

}  // namespace pqcache::attention
