#pragma once

// Representatives of the blocks of one KV head's keys, and scores of queries against them. One
// owner, no locking; const functions may run together.

#include <cstdint>
#include <vector>

#include "pqcache/policy/block_selector.h"

namespace pqcache {

class BlockSummaries {
 public:
  BlockSummaries(const BlockSettings& settings, int group, int dim);

  void SetReceived(const ReceivedAttention& received);
  // keys [N, D].
  void Append(int64_t n, const float* keys);

  int64_t tokens() const { return tokens_; }
  // Blocks that have representatives.
  int64_t blocks() const { return std::ssize(vectors_) / block_size(); }
  // score of a block for the query [D] of a query head of the group.
  float Score(int64_t block, int head, const float* query) const;
  // Mean attention that the tokens of a block and of the quarter blocks around it received, summed
  // over the query heads.
  float Importance(int64_t block) const;
  uint64_t bytes() const;

 private:
  int64_t set_size() const { return int64_t{slots_} * dim_; }
  int64_t block_size() const { return sets_ * set_size(); }
  void Summarise(const float* keys, int64_t count, float* block) const;
  void FillTop(const float* keys, int64_t count, int head, float* set) const;

  BlockSettings settings_;
  int group_, dim_;
  int sets_;   // 1, or one per query head
  int slots_;  // vectors of a set
  int64_t tokens_ = 0;
  std::vector<float> open_keys_;  // [tokens of the open block, D]
  std::vector<float> vectors_;    // [blocks, sets, slots, D]
  std::vector<float> received_;   // [G, received_tokens_]
  int64_t received_tokens_ = 0;
};

}  // namespace pqcache
