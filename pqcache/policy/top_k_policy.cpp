// The best k tokens by score, or the smallest set that reaches a share of the estimated mass.
//
// Query heads of a group select together: a token ranks by its largest share of any head's
// attention, that is by the maximum over the heads of its score minus the head's log-sum-exp.
// Shares do not depend on the scale of a head's logits, so no head crowds out the rest.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "pqcache/base/top_k.h"
#include "pqcache/base/vector_math.h"
#include "pqcache/policy/policy_factories.h"

namespace pqcache {
namespace {

// combined [N] = max over the group of score - total of the head, for totals [G].
void CombineGroup(const SelectionRequest& r, const std::vector<double>& totals,
                  std::vector<float>* combined) {
  combined->assign(static_cast<size_t>(r.n), -std::numeric_limits<float>::infinity());
  for (int i = 0; i < r.g; ++i) {
    const float* scores = r.scores + i * r.n;
    const float total = static_cast<float>(totals[static_cast<size_t>(i)]);
    for (int64_t t = 0; t < r.n; ++t) {
      (*combined)[static_cast<size_t>(t)] =
          std::max((*combined)[static_cast<size_t>(t)], scores[t] - total);
    }
  }
}

void SelectCount(const SelectionRequest& r, SelectionScratch* scratch,
                 std::vector<int64_t>* positions) {
  const float* ranked = r.scores;
  if (r.g > 1 && r.tokens > 0 && r.tokens < r.n) {
    scratch->totals.clear();
    for (int i = 0; i < r.g; ++i) {
      const double lse = LogSumExp(r.scores + i * r.n, r.n);
      scratch->totals.push_back(r.rest_lse == nullptr ? lse : LogAddExp(lse, r.rest_lse[i]));
    }
    CombineGroup(r, scratch->totals, &scratch->combined);
    ranked = scratch->combined.data();
  }
  SelectTopK(ranked, r.n, r.tokens, &scratch->top_k, positions);
}

// Takes tokens in descending order of their best share of any head's mass until every head's
// estimated mass (always attended, and taken) reaches the goal.
void SelectMass(const SelectionRequest& r, SelectionScratch* scratch,
                std::vector<int64_t>* positions) {
  std::vector<double>& totals = scratch->totals;
  totals.clear();
  scratch->reached.clear();
  for (int i = 0; i < r.g; ++i) {
    totals.push_back(LogAddExp(LogSumExp(r.scores + i * r.n, r.n), r.always_lse[i]));
    scratch->reached.push_back(std::exp(r.always_lse[i] - totals.back()));
  }
  CombineGroup(r, totals, &scratch->combined);
  const std::vector<float>& combined = scratch->combined;
  scratch->order.resize(static_cast<size_t>(r.n));
  std::iota(scratch->order.begin(), scratch->order.end(), 0);
  std::sort(scratch->order.begin(), scratch->order.end(), [&](int64_t a, int64_t b) {
    const float x = combined[static_cast<size_t>(a)];
    const float y = combined[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  });
  positions->clear();
  for (int64_t t : scratch->order) {
    if (*std::min_element(scratch->reached.begin(), scratch->reached.end()) >= r.mass) break;
    positions->push_back(t);
    for (int i = 0; i < r.g; ++i) {
      const auto head = static_cast<size_t>(i);
      scratch->reached[head] += std::exp(double{r.scores[i * r.n + t]} - totals[head]);
    }
  }
  std::sort(positions->begin(), positions->end());
}

class TopKPolicy : public SelectionPolicy {
 public:
  TopKPolicy(ScoreSource source, bool codes_only, int overfetch)
      : source_(source), codes_only_(codes_only), overfetch_(overfetch) {}

  ScoreSource score_source() const override { return source_; }
  bool codes_only() const override { return codes_only_; }
  int overfetch() const override { return overfetch_; }
  bool selects_best() const override { return true; }
  void Select(const SelectionRequest& request, SelectionScratch* scratch,
              std::vector<int64_t>* positions) const override {
    if (request.tokens >= 0) {
      SelectCount(request, scratch, positions);
    } else {
      SelectMass(request, scratch, positions);
    }
  }

 private:
  ScoreSource source_;
  bool codes_only_;
  int overfetch_;
};

}  // namespace

Result<std::unique_ptr<SelectionPolicy>> CreatePqPolicy(const SpecString& spec) {
  constexpr std::string_view kKnown[] = {"codes_only", "rerank"};
  constexpr int kMostOverfetch = 16;
  PQCACHE_RETURN_IF_ERROR(spec.CheckKnown(kKnown));
  PQCACHE_ASSIGN_OR_RETURN(const bool codes_only, spec.BoolOr("codes_only", false));
  PQCACHE_ASSIGN_OR_RETURN(const int overfetch, spec.NumberOr<int>("rerank", 1));
  if (overfetch < 1 || overfetch > kMostOverfetch) {
    return Status::InvalidArgument("pq:rerank is " + std::to_string(overfetch) +
                                   ", expected 1 to " + std::to_string(kMostOverfetch));
  }
  if (codes_only && overfetch > 1) {
    return Status::InvalidArgument("pq:codes_only keeps no exact keys, which pq:rerank ranks by");
  }
  return std::unique_ptr<SelectionPolicy>(
      std::make_unique<TopKPolicy>(ScoreSource::kCodes, codes_only, overfetch));
}

Result<std::unique_ptr<SelectionPolicy>> CreateFlatPolicy(const SpecString& spec) {
  PQCACHE_RETURN_IF_ERROR(spec.CheckKnown({}));
  return std::unique_ptr<SelectionPolicy>(
      std::make_unique<TopKPolicy>(ScoreSource::kKeys, false, 1));
}

}  // namespace pqcache
