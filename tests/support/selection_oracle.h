#pragma once

// Selection and its consequences by the definition, in double precision and without regard to
// speed: what policies, decode steps and their statistics are compared with.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "tests/support/attention_fixture.h"

namespace pqcache::testing {

// A decode step at token t of one KV head. `scored` has the keys that candidates are scored by
// (`exact` itself, or decoded codes).
struct StepOracle {
  const Sequence& exact;
  const Sequence& scored;
  int64_t t;
  int kv_head;
  Split split;

  int group() const { return exact.group(); }
  // Logit of head g of the group with the token's key in s.
  double Logit(const Sequence& s, int g, int64_t token) const {
    const float* query = s.query(t, kv_head * group() + g);
    return std::inner_product(query, query + s.dim, s.key(token, kv_head), 0.0) /
           std::sqrt(static_cast<double>(s.dim));
  }
  bool IsCandidate(int64_t token) const { return token >= split.begin && token < split.end; }

  // exp of the logits of visible tokens, summed: those that are always attended, or all of them.
  double Mass(int g, bool always_only) const {
    double sum = 0;
    for (int64_t i = split.visible; i <= t; ++i) {
      if (!IsCandidate(i)) sum += std::exp(Logit(exact, g, i));
      if (IsCandidate(i) && !always_only) sum += std::exp(Logit(scored, g, i));
    }
    return sum;
  }

  // Candidates in the order in which they are taken, given what each head of `heads` compares its
  // logits with.
  std::vector<int64_t> Ranked(const std::vector<int>& heads,
                              const std::vector<double>& thresholds) const {
    std::vector<int64_t> order(static_cast<size_t>(split.end - split.begin));
    std::iota(order.begin(), order.end(), split.begin);
    std::vector<double> rank(static_cast<size_t>(t + 1), -INFINITY);
    for (const int64_t token : order) {
      for (size_t i = 0; i < heads.size(); ++i) {
        double& best = rank[static_cast<size_t>(token)];
        best = std::max(best, Logit(scored, heads[i], token) - thresholds[i]);
      }
    }
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return rank[static_cast<size_t>(a)] > rank[static_cast<size_t>(b)];
    });
    return order;
  }

  // The k tokens that `heads` select together: heads compare with their own k-th best.
  std::vector<int64_t> Best(const std::vector<int>& heads, int64_t k) const {
    const int64_t n = split.end - split.begin;
    k = std::min(k, n);
    if (k == 0) return {};
    std::vector<double> thresholds;
    for (const int g : heads) {
      std::vector<double> logits;
      for (int64_t i = split.begin; i < split.end; ++i) logits.push_back(Logit(scored, g, i));
      std::sort(logits.rbegin(), logits.rend());
      thresholds.push_back(logits[static_cast<size_t>(k - 1)]);
    }
    std::vector<int64_t> best = Ranked(heads, thresholds);
    best.resize(static_cast<size_t>(k));
    std::sort(best.begin(), best.end());
    return best;
  }

  // The smallest set with which each of `heads` attends to `share` of its mass.
  std::vector<int64_t> Reaching(const std::vector<int>& heads, double share) const {
    std::vector<double> totals, reached;
    for (const int g : heads) {
      totals.push_back(std::log(Mass(g, false)));
      reached.push_back(Mass(g, true) / Mass(g, false));
    }
    std::vector<int64_t> taken;
    for (const int64_t token : Ranked(heads, totals)) {
      if (*std::min_element(reached.begin(), reached.end()) >= share) break;
      taken.push_back(token);
      for (size_t i = 0; i < heads.size(); ++i) {
        reached[i] += std::exp(Logit(scored, heads[i], token) - totals[i]);
      }
    }
    std::sort(taken.begin(), taken.end());
    return taken;
  }

  std::vector<int> AllHeads() const {
    std::vector<int> heads(static_cast<size_t>(group()));
    std::iota(heads.begin(), heads.end(), 0);
    return heads;
  }

  // Output [D] of head g over the always attended and the `chosen` tokens.
  std::vector<double> Attend(int g, const std::vector<int64_t>& chosen) const {
    const auto all = ExactHead(exact, t, kv_head, split.Keep(t + 1, chosen));
    const auto first = all.begin() + static_cast<int64_t>(g) * exact.dim;
    return {first, first + exact.dim};
  }

  // The same with every other candidate joining by its score and the mean value of its page, in
  // which sinks do not count.
  std::vector<double> AttendWithTail(int g, const std::vector<int64_t>& chosen, int n_sink,
                                     int page_tokens) const {
    const std::vector<bool> keep = split.Keep(t + 1, chosen);
    std::vector<double> out(static_cast<size_t>(exact.dim), 0.0);
    double sum = 0;
    for (int64_t i = split.visible; i <= t; ++i) {
      const bool kept = keep[static_cast<size_t>(i)];
      const double weight = std::exp(Logit(kept ? exact : scored, g, i));
      sum += weight;
      const int64_t page = i / page_tokens;
      const int64_t first = kept ? i : std::max<int64_t>(n_sink, page * page_tokens);
      const int64_t last = kept ? i + 1 : std::min(split.end, (page + 1) * page_tokens);
      for (int64_t j = first; j < last; ++j) {
        for (int d = 0; d < exact.dim; ++d) {
          out[static_cast<size_t>(d)] +=
              weight * exact.value(j, kv_head)[d] / static_cast<double>(last - first);
        }
      }
    }
    for (double& x : out) x /= sum;
    return out;
  }
};

}  // namespace pqcache::testing
