// The best k tokens by score, or the smallest set that reaches a share of the estimated mass.
//
// Query heads of a group select together: of a number of tokens, each ranks by its largest share of
// any head's attention, that is by the maximum over the heads of its score minus the head's
// log-sum-exp, so that no head goes without; for a share of the mass, which is one of all heads on
// average, by its average share. Shares do not depend on the scale of a head's logits, so no head
// crowds out the rest.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
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
  if (r.bonus != nullptr) {
    if (ranked == r.scores) scratch->combined.assign(r.scores, r.scores + r.n);
    AddScaled(1, r.bonus, r.n, scratch->combined.data());
    ranked = scratch->combined.data();
  }
  SelectTopK(ranked, r.n, r.tokens, &scratch->top_k, positions);
}

// Takes tokens in descending order of their share of the mass, on average over the heads, until
// that of what is attended (always, and taken) reaches the goal, within the bounds of the request.
void SelectMass(const SelectionRequest& r, SelectionScratch* scratch,
                std::vector<int64_t>* positions) {
  std::vector<float>& shares = scratch->combined;  // summed over the heads
  shares.assign(static_cast<size_t>(r.n), 0.0f);
  double reached = 0;
  for (int i = 0; i < r.g; ++i) {
    const float* scores = r.scores + i * r.n;
    const double total = LogAddExp(LogSumExp(scores, r.n), r.always_lse[i]);
    reached += std::exp(r.always_lse[i] - total);
    scratch->weights.assign(scores, scores + r.n);
    ExpInPlace(scratch->weights.data(), r.n, static_cast<float>(total));
    AddScaled(1, scratch->weights.data(), r.n, shares.data());
  }
  // A heap gives the best first and leaves the others, which are most of them, unsorted.
  std::vector<int64_t>& heap = scratch->order;
  heap.resize(static_cast<size_t>(r.n));
  std::iota(heap.begin(), heap.end(), 0);
  const auto behind = [&](int64_t a, int64_t b) {
    const float x = shares[static_cast<size_t>(a)];
    const float y = shares[static_cast<size_t>(b)];
    return x != y ? x < y : a > b;
  };
  std::make_heap(heap.begin(), heap.end(), behind);
  const int64_t most = std::min(r.tokens, r.n);
  positions->clear();
  while (std::ssize(*positions) < most) {
    if (reached >= r.mass * r.g && std::ssize(*positions) >= r.least) break;
    std::pop_heap(heap.begin(), heap.end(), behind);
    positions->push_back(heap.back());
    reached += shares[static_cast<size_t>(heap.back())];
    heap.pop_back();
  }
  std::sort(positions->begin(), positions->end());
}

class TopKPolicy : public SelectionPolicy {
 public:
  struct Options {
    ScoreSource source = ScoreSource::kCodes;
    bool codes_only = false;
    int overfetch = 1, certify_most = 0;
    std::optional<float> sticky_nats = std::nullopt;
  };
  explicit TopKPolicy(const Options& options) : options_(options) {}

  ScoreSource score_source() const override { return options_.source; }
  bool codes_only() const override { return options_.codes_only; }
  int overfetch() const override { return options_.overfetch; }
  std::optional<float> sticky_nats() const override { return options_.sticky_nats; }
  int certify_most() const override { return options_.certify_most; }
  bool selects_best() const override { return true; }
  void Select(const SelectionRequest& request, SelectionScratch* scratch,
              std::vector<int64_t>* positions) const override {
    if (request.mass > 0) {
      SelectMass(request, scratch, positions);
    } else {
      SelectCount(request, scratch, positions);
    }
  }

 private:
  Options options_;
};

}  // namespace

Result<std::unique_ptr<SelectionPolicy>> CreatePqPolicy(const SpecString& spec) {
  constexpr std::string_view kKnown[] = {"codes_only", "rerank", "sticky", "certify", "read"};
  constexpr int kMostOverfetch = 16;
  constexpr int kOverfetchToCertify = 4;
  constexpr int kMostRead = 1 << 20;
  PQCACHE_RETURN_IF_ERROR(spec.CheckKnown(kKnown));
  PQCACHE_ASSIGN_OR_RETURN(const bool codes_only, spec.BoolOr("codes_only", false));
  PQCACHE_ASSIGN_OR_RETURN(const bool certify, spec.BoolOr("certify", false));
  PQCACHE_ASSIGN_OR_RETURN(const int overfetch,
                           spec.NumberOr<int>("rerank", certify ? kOverfetchToCertify : 1));
  PQCACHE_ASSIGN_OR_RETURN(const int most, spec.NumberOr<int>("read", kMostOverfetch));
  if (overfetch < 1 || overfetch > kMostOverfetch) {
    return Status::InvalidArgument("pq:rerank is " + std::to_string(overfetch) +
                                   ", expected 1 to " + std::to_string(kMostOverfetch));
  }
  PQCACHE_ASSIGN_OR_RETURN(const double sticky, spec.ShareOr("sticky", 0));
  if (sticky == 1) {
    return Status::InvalidArgument("pq:sticky is 1, expected less, or nothing new is selected");
  }
  std::optional<float> sticky_nats;
  if (spec.args.contains("sticky")) sticky_nats = static_cast<float>(-std::log1p(-sticky));
  if (codes_only && (overfetch > 1 || sticky_nats)) {
    const char* ranks = certify ? "certify" : overfetch > 1 ? "rerank" : "sticky";
    return Status::InvalidArgument(
        "pq:codes_only keeps no exact keys, which pq:" + std::string(ranks) + " ranks by");
  }
  if (certify && sticky_nats) {
    return Status::InvalidArgument(
        "pq:certify with pq:sticky, which selects others than the exactly best tokens");
  }
  if (certify && overfetch < 2) {
    return Status::InvalidArgument("pq:certify with pq:rerank " + std::to_string(overfetch) +
                                   ", expected 2 to " + std::to_string(kMostOverfetch));
  }
  if (!certify && spec.args.contains("read")) {
    return Status::InvalidArgument("pq:read without pq:certify, which it is for");
  }
  if (most < overfetch || most > kMostRead) {
    return Status::InvalidArgument(
        "pq:read is " + std::to_string(most) + ", expected " + std::to_string(overfetch) +
        " (which pq:rerank reads first) to " + std::to_string(kMostRead));
  }
  return std::unique_ptr<SelectionPolicy>(
      std::make_unique<TopKPolicy>(TopKPolicy::Options{.source = ScoreSource::kCodes,
                                                       .codes_only = codes_only,
                                                       .overfetch = overfetch,
                                                       .certify_most = certify ? most : 0,
                                                       .sticky_nats = sticky_nats}));
}

Result<std::unique_ptr<SelectionPolicy>> CreateFlatPolicy(const SpecString& spec) {
  PQCACHE_RETURN_IF_ERROR(spec.CheckKnown({}));
  return std::unique_ptr<SelectionPolicy>(
      std::make_unique<TopKPolicy>(TopKPolicy::Options{.source = ScoreSource::kKeys}));
}

}  // namespace pqcache
