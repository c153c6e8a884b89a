#include "attention/shadow_step.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "attention/exact_proof.h"
#include "attention/sliding_window.h"
#include "pqcache/base/vector_math.h"

namespace pqcache::attention {
namespace {

// Logits that are summed in two ways in float32 differ by less, relative to the lengths of query
// and key.
constexpr double kLogitRounding = 0x1p-18;

// Exact attention of one query head over tokens [first, first + n).
struct ExactHead {
  std::vector<double> weights;  // [N], sum 1
  std::vector<double> out;      // [D]
};

ExactHead Attend(const std::vector<float>& logits, const std::vector<float>& values, int dim) {
  ExactHead exact;
  exact.out.assign(static_cast<size_t>(dim), 0.0);
  const double max = MaxOf(logits.data(), static_cast<int64_t>(logits.size()));
  double sum = 0;
  for (float logit : logits) {
    exact.weights.push_back(std::exp(logit - max));
    sum += exact.weights.back();
  }
  for (size_t t = 0; t < logits.size(); ++t) {
    exact.weights[t] /= sum;
    const float* value = &values[t * static_cast<size_t>(dim)];
    for (int d = 0; d < dim; ++d) exact.out[static_cast<size_t>(d)] += exact.weights[t] * value[d];
  }
  return exact;
}

double RelativeError(const float* out, const std::vector<double>& exact) {
  double error = 0, norm = 0;
  for (size_t d = 0; d < exact.size(); ++d) {
    error += (out[d] - exact[d]) * (out[d] - exact[d]);
    norm += exact[d] * exact[d];
  }
  return norm > 0 ? std::sqrt(error / norm) : 0.0;
}

double Overlap(const std::vector<int64_t>& found, const std::vector<int64_t>& wanted) {
  if (wanted.empty()) return 1.0;
  std::vector<int64_t> both;
  std::set_intersection(found.begin(), found.end(), wanted.begin(), wanted.end(),
                        std::back_inserter(both));
  return static_cast<double>(both.size()) / static_cast<double>(wanted.size());
}

}  // namespace

Status JudgeStep(const ShadowRequest& r, const HeadStepConfig& config, const HeadStep& step,
                 HeadStats* stats) {
  const HeadCache& head = r.cache->head(r.layer, r.kv_head);
  const int dim = head.page_shape().dim;
  const int64_t first = FirstVisible(head.tokens() - 1, config.sliding_window);
  const int64_t n = head.tokens() - first;
  std::vector<float> keys(static_cast<size_t>(n * dim)), values(keys.size());
  PQCACHE_RETURN_IF_ERROR(
      r.cache->ReadRows(r.layer, r.kv_head, first, head.tokens(), keys.data(), values.data()));

  // Without candidates, their begin may lie before the sliding window.
  const int64_t offset = std::max<int64_t>(0, step.candidates_begin() - first);
  const int64_t candidates = step.candidates_end() - step.candidates_begin();
  std::vector<float> candidate_logits(static_cast<size_t>(r.g * candidates));
  std::vector<float> logits(static_cast<size_t>(n));
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  for (int g = 0; g < r.g; ++g) {
    DotRows(r.queries + static_cast<int64_t>(g) * dim, keys.data(), dim, n, dim, scale,
            logits.data());
    std::copy_n(logits.data() + offset, candidates, candidate_logits.data() + g * candidates);
    const ExactHead exact = Attend(logits, values, dim);
    double missed = 0;
    for (int64_t t = 0; t < candidates; ++t)
      missed += exact.weights[static_cast<size_t>(offset + t)];
    for (int64_t t : step.selected(g)) missed -= exact.weights[static_cast<size_t>(offset + t)];
    stats->mass += (1.0 - missed) / r.g;
    stats->output_error += RelativeError(r.out + static_cast<int64_t>(g) * dim, exact.out) / r.g;
  }

  const bool per_head = config.per_head && r.g > 1;
  SelectionRequest request;
  request.g = per_head ? 1 : r.g;
  request.n = candidates;
  SelectionScratch scratch;
  std::vector<int64_t> wanted;
  // Best by exact scores, as many as the step selected, by the rule of exact top-k.
  PQCACHE_ASSIGN_OR_RETURN(const auto oracle, CreatePolicy("flat"));
  const int lists = per_head ? r.g : 1;
  double longest_key = 0;
  for (int64_t t = 0; t < candidates; ++t) {
    longest_key =
        std::max(longest_key, Length(&keys[static_cast<size_t>((offset + t) * dim)], dim));
  }
  for (int list = 0; list < lists; ++list) {
    request.scores = candidate_logits.data() + list * candidates;
    if (step.certified(list)) {
      const double magnitude = scale * Length(r.queries + int64_t{list} * dim, dim) * longest_key;
      const bool best =
          IsBest(step.selected(list), {request.scores, static_cast<size_t>(candidates)},
                 static_cast<float>(kLogitRounding * magnitude));
      stats->disproved += best ? 0 : 1;
    }
    request.tokens = static_cast<int64_t>(step.selected(list).size());
    oracle->Select(request, &scratch, &wanted);
    stats->recall += Overlap(step.selected(list), wanted) / lists;
  }
  ++stats->shadow_steps;
  return Status::Ok();
}

}  // namespace pqcache::attention
