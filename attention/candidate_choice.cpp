#include "attention/candidate_choice.h"

#include <algorithm>
#include <iterator>
#include <numeric>

#include "attention/sliding_window.h"
#include "pqcache/base/check.h"
#include "pqcache/cache/codebook_fit.h"
#include "pqcache/index/best_codes.h"

namespace pqcache::attention {
namespace {

// Fewer candidates are scored one and all.
constexpr int64_t kManyCandidates = 2048;
// Under a budget of mass, codes have to be checked against so many tokens, however few would do.
constexpr int64_t kLeastByMass = 32;
constexpr int64_t kMisfitOverfetch = 4;

// Kept by each thread for all of its heads, so that it stays in the caches of the CPU.
struct Scratch {
  SelectionScratch selection;
  BestCodes best;
};

Scratch& ThreadScratch() {
  thread_local Scratch scratch;
  return scratch;
}

}  // namespace

Candidates CandidatesOf(const HeadCache& head, int64_t sliding_window) {
  const int64_t visible = FirstVisible(head.tokens() - 1, sliding_window);
  const int64_t end = head.paged_tokens();
  return {std::min(end, std::max(head.sink_tokens(), visible)), end};
}

void CandidateChoice::Choose(const HeadStepConfig& config, const HeadCache& head,
                             const float* queries, float scale, std::span<const float> always_lse,
                             const MassCorrection* correction) {
  const int q = static_cast<int>(always_lse.size());
  candidates_ = CandidatesOf(head, config.sliding_window);
  const SelectionPolicy& policy = *config.policy;
  const bool usable = head.finite();
  const bool chosen = usable && config.selector != nullptr;
  const ScoreSource source = usable && !chosen ? policy.score_source() : ScoreSource::kNone;
  const KeyIndex* index = source == ScoreSource::kNone    ? nullptr
                          : source == ScoreSource::kCodes ? head.codes()
                                                          : head.keys();
  scored_ = index != nullptr;
  per_query_ = config.per_head && (scored_ || chosen) && q > 1;
  scored_all_ = scored_ && !CanFindBest(config, head, index);
  overfetch_ = usable && !chosen ? policy.overfetch() : 1;
  if (config.widen_misfit && scored_ && policy.gains_from_overfetch() && config.budget.mass == 0 &&
      IsMisfit(head)) {
    overfetch_ = std::max(overfetch_, kMisfitOverfetch);
  }
  ranked_ = overfetch_ > 1 || (usable && policy.sticky_nats());
  tokens_ = std::min(config.budget.TokensFor(head.tokens()), size());
  lists_.resize(per_query_ ? static_cast<size_t>(q) : 1);
  nats_.assign(static_cast<size_t>(q), 0.0f);
  if (chosen) return TakeChosen(config, head);
  if (!usable) {
    lists_[0].resize(static_cast<size_t>(size()));
    std::iota(lists_[0].begin(), lists_[0].end(), 0);
    return;
  }
  if (scored_ && source == ScoreSource::kCodes && !policy.codes_only()) {
    FindNats(head, queries, scale, correction);
  }
  if (scored_ && !scored_all_) return FindBest(head, queries, scale, q);
  SelectionRequest request;
  request.g = per_query_ ? 1 : q;
  request.n = size();
  request.tokens = tokens_ * overfetch_;
  request.mass = config.budget.mass;
  if (scored_) {
    scores_.resize(static_cast<size_t>(q * size()));
    index->Score(q, queries, scale, begin(), end(), scores_.data());
  }
  if (request.mass > 0) {
    // The mass of the candidates is more by so much, or, which is the same, the other is less.
    corrected_lse_.assign(always_lse.begin(), always_lse.end());
    for (int i = 0; i < q; ++i) corrected_lse_[static_cast<size_t>(i)] -= nats(i);
    always_lse = corrected_lse_;
  }
  if (correction != nullptr) request.least = kLeastByMass;
  for (size_t list = 0; list < lists_.size(); ++list) {
    request.scores = scored_ ? scores(static_cast<int>(list)) : nullptr;
    request.always_lse = always_lse.data() + list;
    policy.Select(request, &ThreadScratch().selection, &lists_[list]);
  }
}

void CandidateChoice::FindNats(const HeadCache& head, const float* queries, float scale,
                               const MassCorrection* correction) {
  const HeadCodebook& codebook = head.codes()->codebook();
  const int64_t dim = codebook.shape().dim;
  for (int i = 0; i < std::ssize(nats_); ++i) {
    float& nats = nats_[static_cast<size_t>(i)];
    nats = codebook.ScoreNats(queries + i * dim, scale);
    if (correction != nullptr) nats = correction->nats(i % correction->group(), nats);
  }
}

// Without a score for every candidate.
bool CandidateChoice::CanFindBest(const HeadStepConfig& config, const HeadCache& head,
                                  const KeyIndex* index) const {
  // The mean value that the head keeps is of all candidates only if no sliding window hides any.
  const bool hidden = begin() > head.sink_tokens();
  const bool scores_needed = config.policy->codes_only() || config.policy->certify_most() > 0 ||
                             config.policy->sticky_nats() ||
                             (config.tail == TailMode::kEstimate && hidden);
  return index == head.codes() && config.policy->selects_best() && config.budget.mass == 0 &&
         !scores_needed && size() >= kManyCandidates;
}

void CandidateChoice::FindBest(const HeadCache& head, const float* queries, float scale, int q) {
  const BestCodesRequest request{.g = q,
                                 .queries = queries,
                                 .scale = scale,
                                 .begin = begin(),
                                 .end = end(),
                                 .k = tokens_ * overfetch_,
                                 .together = !per_query_};
  BestCodes& best = ThreadScratch().best;
  best.Select(*head.codes(), request, &lists_);
  unselected_lse_.clear();
  for (int i = 0; i < q; ++i) unselected_lse_.push_back(best.unselected_lse(i) + nats(i));
}

void CandidateChoice::AddLast(const std::vector<std::vector<int64_t>>& selected) {
  PQCACHE_CHECK(selected.size() == lists_.size(), "a list for each");
  std::vector<int64_t> found, last;
  for (size_t list = 0; list < lists_.size(); ++list) {
    found.swap(lists_[list]);
    last.clear();
    for (const int64_t t : selected[list]) {
      if (t >= begin()) last.push_back(t - begin());  // a sliding window may have left it behind
    }
    lists_[list].clear();
    std::set_union(found.begin(), found.end(), last.begin(), last.end(),
                   std::back_inserter(lists_[list]));
  }
}

void CandidateChoice::TakeChosen(const HeadStepConfig& config, const HeadCache& head) {
  const int kv_head = static_cast<int>(head.page_key(0).head);
  for (size_t list = 0; list < lists_.size(); ++list) {
    lists_[list].clear();
    for (const int64_t position : config.selector->chosen(kv_head, static_cast<int>(list))) {
      lists_[list].push_back(position - begin());
    }
  }
}

}  // namespace pqcache::attention
