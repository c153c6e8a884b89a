#pragma once

// Candidates of one decode step of one KV head, ranked by their exact keys: more are fetched than
// are attended to, and the best of them are kept. Rows come in the order of the candidates, in
// parts as their pages are read. One thread at a time.
//
// Alphabet: lists of candidates, one for all queries of the step or one for each; G queries of a
// list, C candidates of it, k that are kept.

#include <cstdint>
#include <span>
#include <vector>

#include "attention/partial_attention.h"
#include "pqcache/base/aligned_buffer.h"
#include "pqcache/policy/selection_policy.h"

namespace pqcache::attention {

class ExactRanking {
 public:
  struct Step {
    size_t lists = 1;
    int g = 0;  // G
    RowFormat format;
    size_t row_bytes = 0;
    const float* queries = nullptr;  // [lists, G, D], read until the last Keep
    float scale = 0;
  };
  void Begin(const Step& step);

  // The next rows of a list. Those that stay must do so until Keep; the others are copied.
  enum class Rows { kStay, kGoAway };
  void Add(size_t list, std::span<const uint8_t* const> rows, Rows kind);

  // After ArrangeLogits: keeps the best `tokens` of the list's candidates, as many as rows were
  // added, by the rule of the policy, and adds them to `state` [G]; `candidates` become those that
  // are kept, in their order. rest_lse [G]: of the scores of tokens that are no candidates. bonus
  // [C]: see SelectionRequest; or empty.
  void Keep(size_t list, const SelectionPolicy& policy, int64_t tokens, const float* rest_lse,
            std::span<const float> bonus, std::vector<int64_t>* candidates,
            PartialAttention* state);

  // Makes logits(list) of the rows that were added so far, for Keep and for its caller.
  void ArrangeLogits(size_t list);
  // Exact logits [G, C] of candidates of a list, in the order of their rows, and the numbers [k] of
  // those that were kept.
  std::span<const float> logits(size_t list) const { return lists_[list].logits; }
  const std::vector<int64_t>& kept(size_t list) const { return lists_[list].kept; }

 private:
  struct List {
    std::vector<const uint8_t*> rows;  // [C]
    std::vector<float> by_row;         // [C, G] logits
    std::vector<float> logits;         // [G, C]
    std::vector<int64_t> kept;
    std::vector<AlignedBuffer<uint8_t>> copies;
  };

  Step step_;
  std::vector<List> lists_;
  std::vector<float> block_, kept_logits_;
  std::vector<const uint8_t*> kept_rows_;
  std::vector<int64_t> kept_candidates_;
  SelectionScratch scratch_;
};

}  // namespace pqcache::attention
