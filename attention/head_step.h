#pragma once

// One decode step of one KV head: the queries of the newest N tokens (mostly one), each of the G
// query heads that share its keys. They select together, or each for itself. The steps of a layer
// run in phases so that page reads of all heads can be batched:
//   Begin       sinks and window attended, candidates scored, tokens selected; those in pages that
//               the head holds attended;
//   AddPages    rows of selected tokens that lie in the pages read;
//   Widen       under a policy that certifies: what else may be among the best, to be read like the
//               selected, by AddPages once more;
//   Finish      rows in the open page, the estimate for the rest, the normalised output.
// Where more tokens are found than are to be attended to, all of these rows are ranked by their
// keys first, and Finish attends to the best. One thread at a time. Scratch memory is kept between
// steps, by each thread for all of its heads, so that it stays in the cache.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "attention/attention_stats.h"
#include "attention/candidate_choice.h"
#include "attention/exact_ranking.h"
#include "attention/head_memory.h"
#include "attention/head_step_config.h"
#include "attention/model/rope.h"
#include "attention/partial_attention.h"
#include "pqcache/cache/head_cache.h"

namespace pqcache::attention {

// queries [G, D] of the newest token as they were if the local window were as far away as it is
// long from keys that are not rotated.
std::vector<float> AtWindowEnd(const Rope& rope, const HeadCache& head, int g,
                               const float* queries);

class HeadStep {
 public:
  // `head` must not change until Finish. queries: [N, G, D], read until Finish. N > 1 needs all of
  // the tokens in the head's window, and a model without a sliding window. `memory` is of this
  // layer and KV head, used and until Finish learnt from; or null: nothing is known of the steps
  // before, and nothing can be proven.
  void Begin(const HeadStepConfig& config, const HeadCache& head, int n, int g,
             const float* queries, HeadMemory* memory = nullptr);

  // Full pages with selected tokens that are to be read: ascending, unique.
  const std::vector<int64_t>& pages() const { return pages_; }
  // Pages in ascending order, continuing from the last call.
  void AddPages(std::span<const PageRead> pages);
  // After all of pages(), which are then those that the wider search needs, mostly none.
  void Widen();

  // out: [N, G, D].
  void Finish(float* out, HeadStats* stats);

  // For judging the step: candidates are tokens [begin, end); selected positions are relative to
  // begin, one list for all queries, or one per query of [N, G] if each selects for itself.
  int64_t candidates_begin() const { return choice_.begin(); }
  int64_t candidates_end() const { return choice_.end(); }
  const std::vector<int64_t>& selected(int g) const {
    return choice_.lists()[choice_.per_query() ? static_cast<size_t>(g) : 0];
  }
  // The selection of query g, some but not all candidates, was proven to be the exactly best ones.
  bool certified(int g) const { return !certified_.empty() && certified_[static_cast<size_t>(g)]; }

 private:
  void AddAlways();
  void AddNewest(int i, std::span<const uint8_t* const> rows);
  void AddHeld();
  void AddOpenPage();
  void CollectPages();
  void AddSelected(int list, std::span<const uint8_t* const> rows, size_t first,
                   ExactRanking::Rows kind = ExactRanking::Rows::kStay);
  void FindDoubtfulOf(size_t list, std::vector<int64_t>* doubtful);
  void KeepBest(HeadStats* stats);
  bool ToProve() const;
  void Prove(size_t list, HeadStats* stats);
  void FindBonus(size_t list, std::vector<float>* bonus) const;
  void LeaveSelected();
  void AddToState(int list, std::span<const uint8_t* const> rows, size_t first,
                  const float* queries, PartialAttention* state);
  void AddAdjusted(int list, std::span<const uint8_t* const> rows, size_t first, const float* query,
                   PartialAttention* state);
  void AddAtWindowEnd(const RowFormat& format, std::span<const uint8_t* const> rows,
                      const std::function<int64_t(size_t)>& position, const float* queries,
                      PartialAttention* state);
  void AddTail(HeadStats* stats);
  void AddScoredTail(int g, HeadStats* stats);
  float AddLikeChosen(int g, float log_weight);
  void Record(HeadStats* stats) const;

  HeadStepConfig config_;
  const HeadCache* head_ = nullptr;
  const float* queries_ = nullptr;
  std::vector<float> far_queries_;  // for keys that are not rotated; empty without such
  int kv_head_ = 0;
  int n_ = 0, num_queries_ = 0, dim_ = 0;  // N, N * G, D
  float scale_ = 0;
  int64_t visible_ = 0;              // first token that the sliding window lets through
  PartialAttention state_, chosen_;  // the selected tokens apart, until Finish
  std::vector<float> always_lse_;
  CandidateChoice choice_;
  std::vector<size_t> cursors_;  // of each list: rows added so far
  std::vector<int64_t> pages_;
  ExactRanking ranking_;  // of candidates, if more are found than attended to
  MassCorrection* correction_ = nullptr;
  MassSample sample_;                     // with a correction
  const ResidualNorms* norms_ = nullptr;  // of a choice that is to be proven
  bool widened_ = false;
  // [lists] upper bounds of the logits that may be among the best and were not read.
  std::vector<std::vector<float>> doubts_;
  std::vector<bool> certified_;  // [lists]
  // Of a policy that is sticky: what the last step selected, and where to leave it for the next.
  std::vector<std::vector<int64_t>>* last_ = nullptr;
};

}  // namespace pqcache::attention
