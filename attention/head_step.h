#pragma once

// One decode step of one KV head: the queries of the newest N tokens (mostly one), each of the G
// query heads that share its keys. They select together, or each for itself. The steps of a layer
// run in phases so that page reads of all heads can be batched:
//   Begin       sinks and window attended, candidates scored, tokens selected; those in pages that
//               the head holds attended;
//   AddPages    rows of selected tokens that lie in the pages read;
//   Finish      rows in the open page, the estimate for the rest, the normalised output.
// Under a policy that over-fetches, all of these rows are ranked by their keys first, and Finish
// attends to the best.
// One thread at a time. Scratch memory is kept between steps, by each thread for all of its heads,
// so that it stays in the cache.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "attention/attention_stats.h"
#include "attention/exact_ranking.h"
#include "attention/model/rope.h"
#include "attention/partial_attention.h"
#include "pqcache/cache/head_cache.h"
#include "pqcache/policy/selection_policy.h"

namespace pqcache::attention {

enum class TailMode {
  kDrop,  // unselected tokens are ignored
  // They join with their code score as logit and the mean value of the tokens around them; of many
  // candidates, which are not scored one by one, with their mass by the codes and one mean value.
  kEstimate,
};

struct HeadStepConfig {
  const SelectionPolicy* policy = nullptr;
  SelectionBudget budget;
  bool per_head = false;  // every query selects for itself, instead of all of them together
  TailMode tail = TailMode::kDrop;
  int64_t sliding_window = 0;  // of the model; 0: none
  // Has chosen for this step, instead of the policy; null: the policy selects.
  const LayerSelector* selector = nullptr;
  const Rope* rope = nullptr;  // for a selector that changes distances
};

// Tokens that a step of the newest token may leave out: paged, no sinks, inside the sliding window.
struct Candidates {
  int64_t begin = 0, end = 0;
};
Candidates CandidatesOf(const HeadCache& head, int64_t sliding_window);

// queries [G, D] of the newest token as they were if the local window were as far away as it is
// long from keys that are not rotated.
std::vector<float> AtWindowEnd(const Rope& rope, const HeadCache& head, int g,
                               const float* queries);

class HeadStep {
 public:
  // `head` must not change until Finish. queries: [N, G, D], read until Finish. N > 1 needs all of
  // the tokens in the head's window, and a model without a sliding window.
  void Begin(const HeadStepConfig& config, const HeadCache& head, int n, int g,
             const float* queries);

  // Full pages with selected tokens that are to be read: ascending, unique.
  const std::vector<int64_t>& pages() const { return pages_; }
  // Pages in ascending order, continuing from the last call.
  void AddPages(std::span<const PageRead> pages);

  // out: [N, G, D].
  void Finish(float* out, HeadStats* stats);

  // For judging the step: candidates are tokens [begin, end); selected positions are relative to
  // begin, one list for all queries, or one per query of [N, G] if each selects for itself.
  int64_t candidates_begin() const { return begin_; }
  int64_t candidates_end() const { return end_; }
  const std::vector<int64_t>& selected(int g) const { return selected_[per_head_ ? g : 0]; }

 private:
  void AddAlways();
  void AddNewest(int i, std::span<const uint8_t* const> rows);
  void Select();
  void TakeChosen();
  bool CanSelectBest() const;
  void SelectBest();
  void AddHeld();
  void CollectPages();
  void AddSelected(int list, std::span<const uint8_t* const> rows, size_t first,
                   ExactRanking::Rows kind = ExactRanking::Rows::kStay);
  int64_t TokensToFind() const;
  void KeepBest();
  void AddToState(int list, std::span<const uint8_t* const> rows, size_t first,
                  const float* queries, PartialAttention* state);
  void AddAdjusted(int list, std::span<const uint8_t* const> rows, size_t first, const float* query,
                   PartialAttention* state);
  void AddAtWindowEnd(const RowFormat& format, std::span<const uint8_t* const> rows,
                      const std::function<int64_t(size_t)>& position, const float* queries,
                      PartialAttention* state);
  void AddTail(HeadStats* stats);
  void Record(HeadStats* stats) const;

  HeadStepConfig config_;
  const HeadCache* head_ = nullptr;
  const KeyIndex* index_ = nullptr;  // null: nothing is scored
  const float* queries_ = nullptr;
  std::vector<float> far_queries_;  // for keys that are not rotated; empty without such
  int kv_head_ = 0;
  int n_ = 0, num_queries_ = 0, dim_ = 0;  // N, N * G, D
  float scale_ = 0;
  bool per_head_ = false, use_code_logits_ = false;
  int64_t visible_ = 0;          // first token that the sliding window lets through
  int64_t begin_ = 0, end_ = 0;  // candidates
  std::vector<float> scores_;    // [num_queries, candidates]
  std::vector<float> always_lse_;
  std::vector<std::vector<int64_t>> selected_;  // [1], or [num_queries] if per head
  std::vector<size_t> cursors_;                 // of each list: rows added so far
  std::vector<int64_t> pages_;
  PartialAttention state_;
  int64_t overfetch_ = 1;              // candidates that are found for one that is attended to
  ExactRanking ranking_;               // of them, if more than one
  bool scored_all_ = false;            // scores_ holds one for every candidate
  std::vector<float> unselected_lse_;  // [num_queries], if not
};

}  // namespace pqcache::attention
