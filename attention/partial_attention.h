#pragma once

// Attention over a part of the tokens, kept so that parts can be joined: un-normalised output,
// running maximum and sum per query head (online softmax; Milakov and Gimelshein, 2018). Any split
// of the tokens into parts, in any order, gives the same result up to rounding.
// One owner, no locking.

#include <cstdint>
#include <span>
#include <vector>

#include "attention/row_products.h"

namespace pqcache::attention {

class PartialAttention {
 public:
  // Empties the state for G query heads of size D.
  void Reset(int g, int dim);

  // Adds rows: logits are scale * <query, K>. queries: [G, D].
  void AddRows(const RowFormat& format, std::span<const uint8_t* const> rows, const float* queries,
               float scale);
  // Adds rows whose logits are known: logits [G, rows.size()], rows `logit_stride` apart.
  void AddRowsWithLogits(const RowFormat& format, std::span<const uint8_t* const> rows,
                         const float* logits, int64_t logit_stride);
  // Adds one value [D] that stands for tokens of query head g with total weight
  // exp(log_weight).
  void AddValue(int g, float log_weight, const float* value);
  // Adds what `other` has of its query head `from` to this state's head `to`, with its logits moved
  // by `shift`.
  void Merge(const PartialAttention& other, int from, int to, float shift = 0);

  // Log-sum-exp of head g's logits so far; -infinity when nothing was added.
  float Lse(int g) const;
  // out [G, D], normalised; zero where nothing was added, NaN where a logit was NaN.
  void Finish(float* out) const;

 private:
  // Makes `max` the reference of head g's sums, at least.
  void RaiseMax(int g, float max);
  // Adds the values of the task's rows with logits_ [G, kRowBlock], which become weights.
  void AddBlock(const RowBlockTask& task);

  int g_ = 0, dim_ = 0;
  std::vector<float> out_;     // [G, D]
  std::vector<float> max_;     // [G]
  std::vector<float> sum_;     // [G]
  std::vector<float> logits_;  // [G, kRowBlock] of the running block
};

}  // namespace pqcache::attention
