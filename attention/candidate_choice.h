#pragma once

// Which candidates one decode step of one KV head attends to, and how much of the attention mass
// its scores leave to the others. Memory is kept between steps. One thread at a time.
//
// Alphabet: Q queries of the step (its tokens times the query heads that share the keys), N
// candidates.

#include <cstdint>
#include <span>
#include <vector>

#include "attention/head_step_config.h"
#include "attention/mass_correction.h"
#include "pqcache/cache/head_cache.h"

namespace pqcache::attention {

// Tokens that a step of the newest token may leave out: paged, no sinks, inside the sliding window.
struct Candidates {
  int64_t begin = 0, end = 0;
};
Candidates CandidatesOf(const HeadCache& head, int64_t sliding_window);

class CandidateChoice {
 public:
  // queries [Q, D], scale of their logits; always_lse [Q] of those that are attended anyway.
  // `correction` is what earlier steps of the head learnt about its scores, for a budget of mass;
  // null: what the codebook says of them holds.
  void Choose(const HeadStepConfig& config, const HeadCache& head, const float* queries,
              float scale, std::span<const float> always_lse, const MassCorrection* correction);

  int64_t begin() const { return candidates_.begin; }
  int64_t end() const { return candidates_.end; }
  int64_t size() const { return candidates_.end - candidates_.begin; }

  // True: every query has a list of its own; false: one is for all.
  bool per_query() const { return per_query_; }
  // Adds what the last step selected: ascending positions, a list for each of lists().
  void AddLast(const std::vector<std::vector<int64_t>>& selected);

  // Ascending positions relative to begin(). If ranked(), more than are to be attended to: tokens()
  // of them, for the caller to keep.
  std::vector<std::vector<int64_t>>& lists() { return lists_; }
  const std::vector<std::vector<int64_t>>& lists() const { return lists_; }
  bool ranked() const { return ranked_; }
  int64_t tokens() const { return tokens_; }

  // Scores come from an index; false: there are none, and nothing is known of the rest.
  bool scored() const { return scored_; }
  // True: scores(query) [N] are there for the caller to use and to change; false: only
  // unselected_lse is, the logarithm of the mass of what the query's list lacks.
  bool scored_all() const { return scored_all_; }
  float* scores(int query) { return scores_.data() + query * size(); }
  float& unselected_lse(int query) { return unselected_lse_[static_cast<size_t>(query)]; }
  // Candidates have, together, e^nats times the mass that the query's scores say; unselected_lse is
  // of that mass.
  float nats(int query) const { return nats_[static_cast<size_t>(query)]; }

 private:
  bool CanFindBest(const HeadStepConfig& config, const HeadCache& head,
                   const KeyIndex* index) const;
  void FindBest(const HeadCache& head, const float* queries, float scale, int q);
  void TakeChosen(const HeadStepConfig& config, const HeadCache& head);
  void FindNats(const HeadCache& head, const float* queries, float scale,
                const MassCorrection* correction);

  Candidates candidates_;
  bool per_query_ = false, scored_ = false, scored_all_ = false, ranked_ = false;
  int64_t overfetch_ = 1, tokens_ = 0;
  std::vector<std::vector<int64_t>> lists_;  // [1], or [Q]
  std::vector<float> scores_;                // [Q, N]
  std::vector<float> unselected_lse_;        // [Q]
  std::vector<float> nats_;                  // [Q]
  std::vector<float> corrected_lse_;         // [Q], of what is attended anyway
};

}  // namespace pqcache::attention
