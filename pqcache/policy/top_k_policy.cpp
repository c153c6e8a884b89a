// The best k tokens by score, or the smallest set that reaches a share of the estimated mass.
//
// Query heads of a group select together: a token ranks by the maximum over the heads of its
// score minus that head's threshold, which is the head's own k-th best score (or, when mass
// decides, the head's log-sum-exp). Every head so gets its best tokens in before any head gets
// its worse ones, and no head with a larger scale of logits crowds out the rest.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "pqcache/base/top_k.h"
#include "pqcache/base/vector_math.h"
#include "pqcache/policy/policy_factories.h"

namespace pqcache {
namespace {

double LogAddExp(double a, double b) {
  const double high = std::max(a, b);
  if (std::isinf(high)) return high;
  return high + std::log1p(std::exp(std::min(a, b) - high));
}

double LogSumExp(const float* x, int64_t n) {
  const double high = MaxOf(x, n);
  if (std::isinf(high)) return high;
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(x[i] - high);
  return high + std::log(sum);
}

// combined [N] = max over the group of score - threshold of the head.
void CombineGroup(const SelectionRequest& r, const std::vector<double>& thresholds,
                  std::vector<float>* combined) {
  combined->assign(static_cast<size_t>(r.n), -std::numeric_limits<float>::infinity());
  for (int i = 0; i < r.g; ++i) {
    const float* scores = r.scores + i * r.n;
    const float threshold = static_cast<float>(thresholds[static_cast<size_t>(i)]);
    for (int64_t t = 0; t < r.n; ++t) {
      (*combined)[static_cast<size_t>(t)] =
          std::max((*combined)[static_cast<size_t>(t)], scores[t] - threshold);
    }
  }
}

void SelectCount(const SelectionRequest& r, SelectionScratch* scratch,
                 std::vector<int64_t>* positions) {
  const float* ranked = r.scores;
  if (r.g > 1 && r.tokens > 0 && r.tokens < r.n) {
    std::vector<double>& thresholds = scratch->reached;
    thresholds.clear();
    for (int i = 0; i < r.g; ++i) {
      thresholds.push_back(KthLargest(r.scores + i * r.n, r.n, r.tokens, &scratch->ranks));
    }
    CombineGroup(r, thresholds, &scratch->combined);
    ranked = scratch->combined.data();
  }
  SelectTopK(ranked, r.n, r.tokens, &scratch->ranks, positions);
}

// Takes tokens in descending order of their best share of any head's mass until every head's
// estimated mass (always attended, and taken) reaches the goal.
void SelectMass(const SelectionRequest& r, SelectionScratch* scratch,
                std::vector<int64_t>* positions) {
  std::vector<double> totals;
  scratch->reached.clear();
  for (int i = 0; i < r.g; ++i) {
    totals.push_back(LogAddExp(LogSumExp(r.scores + i * r.n, r.n), r.always_lse[i]));
    scratch->reached.push_back(std::exp(r.always_lse[i] - totals.back()));
  }
  CombineGroup(r, totals, &scratch->combined);
  const std::vector<float>& combined = scratch->combined;
  scratch->order.resize(static_cast<size_t>(r.n));
  std::iota(scratch->order.begin(), scratch->order.end(), 0);
  std::stable_sort(scratch->order.begin(), scratch->order.end(), [&](int64_t a, int64_t b) {
    return combined[static_cast<size_t>(a)] > combined[static_cast<size_t>(b)];
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
  TopKPolicy(ScoreSource source, bool codes_only) : source_(source), codes_only_(codes_only) {}

  ScoreSource score_source() const override { return source_; }
  bool codes_only() const override { return codes_only_; }
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
};

}  // namespace

Result<std::unique_ptr<SelectionPolicy>> CreatePqPolicy(const SpecString& spec) {
  constexpr std::string_view kKnown[] = {"codes_only"};
  PQCACHE_RETURN_IF_ERROR(spec.CheckKnown(kKnown));
  PQCACHE_ASSIGN_OR_RETURN(const bool codes_only, spec.BoolOr("codes_only", false));
  return std::unique_ptr<SelectionPolicy>(
      std::make_unique<TopKPolicy>(ScoreSource::kCodes, codes_only));
}

Result<std::unique_ptr<SelectionPolicy>> CreateFlatPolicy(const SpecString& spec) {
  PQCACHE_RETURN_IF_ERROR(spec.CheckKnown({}));
  return std::unique_ptr<SelectionPolicy>(std::make_unique<TopKPolicy>(ScoreSource::kKeys, false));
}

}  // namespace pqcache
