#pragma once

// Selection and its consequences by the definition, in double precision and without regard to
// speed: what policies, decode steps and their statistics are compared with.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "pqcache/policy/tail_mode.h"
#include "tests/support/attention_fixture.h"

namespace pqcache::testing {

// A decode step at token t of one KV head. `scored` has the keys that candidates are scored by
// (`exact` itself, or decoded codes), `codebook` those whose residual says what scores lack.
struct StepOracle {
  const Sequence& exact;
  const Sequence& scored;
  int64_t t;
  int kv_head;
  Split split;
  const HeadCodebook* codebook = nullptr;

  int group() const { return exact.group(); }
  // Logit of head g of the group with the token's key in s.
  double Logit(const Sequence& s, int g, int64_t token) const {
    const float* query = s.query(t, kv_head * group() + g);
    const float* key = s.key(token, kv_head);
    double dot = 0;
    for (int d = 0; d < s.dim; ++d) dot += double{query[d]} * key[d];
    return dot / std::sqrt(static_cast<double>(s.dim));
  }

  // Mass of a candidate by its score.
  double ScoredMass(int g, int64_t token) const {
    return std::exp(Logit(scored, g, token) + Nats(g));
  }

  // exp of the logits of head g, summed over tokens that are always attended or over candidates.
  double AlwaysMass(int g) const {
    double sum = 0;
    for (int64_t i = split.visible; i <= t; ++i) {
      if (i < split.begin || i >= split.end) sum += std::exp(Logit(exact, g, i));
    }
    return sum;
  }
  double CandidateMass(int g) const {
    double sum = 0;
    for (int64_t i = split.begin; i < split.end; ++i) sum += ScoredMass(g, i);
    return sum;
  }

  struct Masses {
    double attended = 0;  // always, and chosen, by exact logits
    double left = 0;      // of the other candidates, by their scores
  };
  Masses MassesOf(int g, const std::vector<int64_t>& chosen) const {
    Masses masses{AlwaysMass(g), CandidateMass(g)};
    for (const int64_t i : chosen) {
      masses.left -= ScoredMass(g, i);
      masses.attended += std::exp(Logit(exact, g, i));
    }
    return masses;
  }

  // Candidates by their largest share of the mass of any of `heads`, best first; of equal ones the
  // lower position first.
  std::vector<int64_t> Ranked(const std::vector<int>& heads,
                              const std::vector<double>& masses) const {
    std::vector<int64_t> order(static_cast<size_t>(split.end - split.begin));
    std::iota(order.begin(), order.end(), split.begin);
    std::vector<double> share(static_cast<size_t>(t + 1), 0.0);
    for (const int64_t token : order) {
      for (size_t i = 0; i < heads.size(); ++i) {
        double& best = share[static_cast<size_t>(token)];
        best = std::max(best, ScoredMass(heads[i], token) / masses[i]);
      }
    }
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return share[static_cast<size_t>(a)] > share[static_cast<size_t>(b)];
    });
    return order;
  }

  // The k tokens that `heads` select together.
  std::vector<int64_t> Best(const std::vector<int>& heads, int64_t k) const {
    std::vector<double> masses;
    for (const int g : heads) masses.push_back(CandidateMass(g));
    std::vector<int64_t> best = Ranked(heads, masses);
    best.resize(static_cast<size_t>(std::min<int64_t>(k, split.end - split.begin)));
    std::sort(best.begin(), best.end());
    return best;
  }

  // The smallest set, of `least` tokens or more, with which `heads` attend to `goal` of their mass
  // on average.
  std::vector<int64_t> Reaching(const std::vector<int>& heads, double goal,
                                size_t least = 0) const {
    std::vector<std::pair<double, int64_t>> shares;  // negative, so that the best comes first
    for (int64_t i = split.begin; i < split.end; ++i) shares.emplace_back(0.0, i);
    double reached = 0;
    for (const int g : heads) {
      const double total = AlwaysMass(g) + CandidateMass(g);
      reached += AlwaysMass(g) / total;
      for (auto& [share, token] : shares) share -= ScoredMass(g, token) / total;
    }
    std::sort(shares.begin(), shares.end());
    std::vector<int64_t> taken;
    for (const auto& [share, token] : shares) {
      const bool enough = reached >= goal * static_cast<double>(heads.size());
      if (enough && taken.size() >= least) break;
      taken.push_back(token);
      reached -= share;
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
    return AttendKept(g, split.Keep(t + 1, chosen));
  }

  // The same over the chosen tokens alone, which are some.
  std::vector<double> AttendChosen(int g, const std::vector<int64_t>& chosen) const {
    std::vector<bool> keep(static_cast<size_t>(t + 1), false);
    for (const int64_t i : chosen) keep[static_cast<size_t>(i)] = true;
    return AttendKept(g, keep);
  }

  // Attend with every other candidate joining by its score and a value: the mean one of its page,
  // in which sinks do not count, and, if anything was chosen, in part the mix of the chosen.
  std::vector<double> AttendWithTail(int g, const std::vector<int64_t>& chosen, int n_sink,
                                     int page_tokens) const {
    const std::vector<bool> keep = split.Keep(t + 1, chosen);
    const double like_chosen = chosen.empty() ? 0 : double{kTailLikeChosen};
    const std::vector<double> of_chosen =
        chosen.empty() ? std::vector<double>(static_cast<size_t>(exact.dim), 0.0)
                       : AttendChosen(g, chosen);
    std::vector<double> out(static_cast<size_t>(exact.dim), 0.0);
    double sum = 0;
    for (int64_t i = split.visible; i <= t; ++i) {
      const bool kept = keep[static_cast<size_t>(i)];
      const double weight = kept ? std::exp(Logit(exact, g, i)) : ScoredMass(g, i);
      sum += weight;
      const int64_t page = i / page_tokens;
      const int64_t first = kept ? i : std::max<int64_t>(n_sink, page * page_tokens);
      const int64_t last = kept ? i + 1 : std::min(split.end, (page + 1) * page_tokens);
      for (int d = 0; d < exact.dim; ++d) {
        double mean = 0;
        for (int64_t j = first; j < last; ++j) mean += exact.value(j, kv_head)[d];
        mean /= static_cast<double>(last - first);
        const auto of = static_cast<size_t>(d);
        out[of] += weight * (kept ? mean : mean + like_chosen * (of_chosen[of] - mean));
      }
    }
    for (double& x : out) x /= sum;
    return out;
  }

 private:
  // HeadCodebook::ScoreNats of head g.
  double Nats(int g) const {
    if (codebook == nullptr) return 0;
    const float* query = exact.query(t, kv_head * group() + g);
    const std::span<const float> transform = codebook->query_transform();
    double squares = 0;
    for (int i = 0; i < exact.dim; ++i) {
      double x = query[i];
      if (!transform.empty()) {
        x = std::inner_product(query, query + exact.dim, transform.data() + i * exact.dim, 0.0);
      }
      squares += x * x;
    }
    return 0.5 * squares / exact.dim * codebook->residual() / exact.dim;
  }

  std::vector<double> AttendKept(int g, const std::vector<bool>& keep) const {
    const auto all = ExactHead(exact, t, kv_head, keep);
    const auto first = all.begin() + static_cast<int64_t>(g) * exact.dim;
    return {first, first + exact.dim};
  }
};

}  // namespace pqcache::testing
