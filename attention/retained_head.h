#pragma once

// Keys and values of the tokens that one KV head keeps under a policy that drops the others. Query
// heads may keep different tokens (lists); a row that several of them keep is there once, and its
// memory is used again when none does. One thread at a time.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "attention/model/rope.h"
#include "attention/partial_attention.h"
#include "pqcache/base/aligned_buffer.h"
#include "pqcache/policy/token_retention.h"

namespace pqcache::attention {

class RetainedHead {
 public:
  // Empty, for G query heads. Rows are K [D] and V [D] in `dtype`. rope may be null unless the
  // retention moves its sinks.
  RetainedHead(std::unique_ptr<TokenRetention> retention, int group, int dim, DType dtype,
               const Rope* rope);

  // Which tokens of the prompt the lists keep; ascending, without repeats: rows of all of them,
  // [N, D] each, are given to Fill. Once, before anything else.
  std::vector<int64_t> Begin(const ReceivedAttention& received);
  void Fill(std::span<const int64_t> positions, const float* keys, const float* values);

  // Adds N tokens (rows of keys and values `stride` floats apart) at `position` and behind it, and
  // attends with the queries [N, G, D] of each, `query_stride` floats from token to token, to what
  // is kept up to it. out: as queries.
  void Step(int64_t n, int64_t position, const float* keys, const float* values, int64_t stride,
            const float* queries, int64_t query_stride, float* out);

  int lists() const { return retention_->lists(); }
  std::span<const int64_t> positions(int list) const { return kept_[list].positions; }
  // Tokens that the last token attended to, the mean of the lists.
  double attended() const;
  uint64_t bytes() const;

 private:
  struct List {
    std::vector<int64_t> positions;
    std::vector<uint32_t> slots;
    std::vector<float> received;
  };

  uint32_t AddRow(const float* key, const float* value);
  void DropFor(int64_t coming);
  void Attend(int list, int64_t visible, int64_t position, const float* queries, float* out);
  void AttendMoved(const List& list, int64_t visible, int64_t position, const float* queries);
  void AttendAndSum(List* list, int64_t visible, const float* query);
  const uint8_t* Row(uint32_t slot) const { return rows_.data() + slot * row_bytes_; }

  std::unique_ptr<TokenRetention> retention_;
  int group_, dim_;
  RowFormat format_;
  size_t row_bytes_;
  const Rope* rope_;
  AlignedBuffer<uint8_t> rows_;
  std::vector<uint32_t> uses_;  // of a slot: lists that keep its row
  std::vector<uint32_t> free_;  // slots
  std::vector<List> kept_;      // [lists]
  PartialAttention state_;
  std::vector<const uint8_t*> pointers_;
  std::vector<float> logits_, moved_;
  std::vector<size_t> places_;
};

}  // namespace pqcache::attention
