#include "attention/mass_correction.h"

#include <algorithm>
#include <cmath>

#include "pqcache/base/vector_math.h"

namespace pqcache::attention {
namespace {

constexpr double kDecay = 0.85;
constexpr size_t kSampledPart = 4;  // one in so many

}  // namespace

float MassCorrection::nats(int g, float prior) const {
  const Masses& m = masses_[static_cast<size_t>(g)];
  return m.exact > 0 && m.coded > 0 ? static_cast<float>(std::log(m.exact / m.coded)) : prior;
}

void MassCorrection::Observe(int g, double exact, double coded) {
  Masses& m = masses_[static_cast<size_t>(g)];
  m.exact = kDecay * m.exact + exact;
  m.coded = kDecay * m.coded + coded;
}

void MassSample::Begin(const Step& step) {
  step_ = step;
  sums_.assign(static_cast<size_t>(step.queries), Sums{});
  sampled_.resize(step.lists.size());
  for (size_t list = 0; list < step.lists.size(); ++list) {
    const std::vector<int64_t>& selected = step.lists[list];
    std::vector<float>& scores = logits_;
    scores.resize(selected.size());
    ranks_.assign(selected.size(), 0.0f);
    for (int q = first_query(list); q < first_query(list) + num_queries(); ++q) {
      const float* all = step.scores + q * step.candidates;
      for (size_t i = 0; i < selected.size(); ++i) scores[i] = all[selected[i]];
      double& total = sums_[static_cast<size_t>(q)].total;
      total = LogAddExp(LogSumExp(scores.data(), std::ssize(scores)),
                        step.always_lse[static_cast<size_t>(q)]);
      ExpInPlace(scores.data(), std::ssize(scores), static_cast<float>(total));
      AddScaled(1, scores.data(), std::ssize(scores), ranks_.data());
    }
    std::vector<bool>& sampled = sampled_[list];
    sampled.assign(selected.size(), false);
    if (selected.empty()) continue;
    sorted_ = ranks_;
    const auto last = sorted_.begin() + static_cast<int64_t>((selected.size() - 1) / kSampledPart);
    std::nth_element(sorted_.begin(), last, sorted_.end());
    for (size_t i = 0; i < selected.size(); ++i) sampled[i] = ranks_[i] <= *last;
  }
}

void MassSample::Add(size_t list, size_t first, std::span<const uint8_t* const> rows) {
  rows_.clear();
  candidates_.clear();
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!sampled_[list][first + i]) continue;
    rows_.push_back(rows[i]);
    candidates_.push_back(step_.lists[list][first + i]);
  }
  const int queries = num_queries();
  logits_.resize(static_cast<size_t>(queries * kRowBlock));
  for (int64_t begin = 0; begin < std::ssize(rows_); begin += kRowBlock) {
    const int64_t count = std::min(kRowBlock, std::ssize(rows_) - begin);
    RowLogits({step_.format, rows_, begin, count, queries},
              step_.query + int64_t{first_query(list)} * step_.format.dim, step_.scale,
              logits_.data());
    for (int q = 0; q < queries; ++q) {
      const int query = first_query(list) + q;
      const float* scores = step_.scores + query * step_.candidates;
      Sums& sums = sums_[static_cast<size_t>(query)];
      for (int64_t i = 0; i < count; ++i) {
        // No token has more than all of the mass, however little the codes knew of it.
        const double exact = logits_[static_cast<size_t>(q * kRowBlock + i)] - sums.total;
        sums.exact += std::exp(std::min(exact, 0.0));
        sums.coded += std::exp(scores[candidates_[static_cast<size_t>(begin + i)]] - sums.total);
      }
    }
  }
}

void MassSample::Finish(MassCorrection* correction) const {
  for (int g = 0; g < correction->group(); ++g) {
    double exact = 0, coded = 0;
    for (int q = g; q < step_.queries; q += correction->group()) {
      exact += sums_[static_cast<size_t>(q)].exact;
      coded += sums_[static_cast<size_t>(q)].coded;
    }
    if (coded > 0) correction->Observe(g, exact, coded);
  }
}

}  // namespace pqcache::attention
