#pragma once

// How far the keys of one layer and KV head lie from what their codes say: one byte a key, rounded
// up, by which the exact score of every key lies in an interval around its code score. What lies
// outside of all intervals that reach the k-th best exact score cannot be among the best k.
//
// Append needs exclusive access; const functions may run together from many threads.

#include <cstdint>
#include <vector>

#include "pqcache/index/pq_index.h"

namespace pqcache {

class ResidualNorms {
 public:
  // keys [N, D], the exact ones of rows size(), size() + 1, ... of the index, which has their
  // codes.
  void Append(const PqIndex& index, int64_t n, const float* keys);
  int64_t size() const { return static_cast<int64_t>(codes_.size()); }

  // bounds [end - begin]: what scale * <query, key> is at most, for the query [D], a scale >= 0 and
  // the scores [end - begin] that the index gives rows [begin, end) of it. Infinity for a key of
  // which nothing is known, whose distance is beyond all reason.
  void Bounds(const PqIndex& index, const float* query, float scale, int64_t begin, int64_t end,
              const float* scores, float* bounds) const;

  uint64_t bytes() const { return codes_.size(); }

 private:
  std::vector<uint8_t> codes_;
};

}  // namespace pqcache
