#include "attention/partial_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "pqcache/base/vector_math.h"

namespace pqcache::attention {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

}  // namespace

void PartialAttention::Reset(int g, int dim) {
  g_ = g;
  dim_ = dim;
  out_.assign(static_cast<size_t>(g) * dim, 0.0f);
  max_.assign(static_cast<size_t>(g), kNothing);
  sum_.assign(static_cast<size_t>(g), 0.0f);
  logits_.resize(static_cast<size_t>(kRowBlock) * g);
}

void PartialAttention::RaiseMax(int g, float max) {
  float& current = max_[static_cast<size_t>(g)];
  if (!(max > current)) return;
  if (current != kNothing) {
    const float factor = std::exp(current - max);
    sum_[static_cast<size_t>(g)] *= factor;
    float* out = &out_[static_cast<size_t>(g) * dim_];
    for (int d = 0; d < dim_; ++d) out[d] *= factor;
  }
  current = max;
}

void PartialAttention::AddBlock(const RowBlockTask& task) {
  for (int g = 0; g < g_; ++g) {
    float* weights = &logits_[static_cast<size_t>(g) * kRowBlock];
    RaiseMax(g, MaxOf(weights, task.count));
    // While every logit is -infinity or NaN, any reference will do: no weight, or NaN.
    const float max = max_[static_cast<size_t>(g)];
    sum_[static_cast<size_t>(g)] += ExpInPlace(weights, task.count, max == kNothing ? 0.0f : max);
  }
  AddWeightedValues(task, logits_.data(), out_.data());
}

void PartialAttention::AddRows(const RowFormat& format, std::span<const uint8_t* const> rows,
                               const float* queries, float scale) {
  const auto n = static_cast<int64_t>(rows.size());
  for (int64_t begin = 0; begin < n; begin += kRowBlock) {
    const RowBlockTask task{format, rows, begin, std::min(kRowBlock, n - begin), g_};
    RowLogits(task, queries, scale, logits_.data());
    AddBlock(task);
  }
}

void PartialAttention::AddRowsWithLogits(const RowFormat& format,
                                         std::span<const uint8_t* const> rows, const float* logits,
                                         int64_t logit_stride) {
  const auto n = static_cast<int64_t>(rows.size());
  for (int64_t begin = 0; begin < n; begin += kRowBlock) {
    const RowBlockTask task{format, rows, begin, std::min(kRowBlock, n - begin), g_};
    for (int g = 0; g < g_; ++g) {
      std::copy_n(logits + g * logit_stride + begin, task.count,
                  &logits_[static_cast<size_t>(g * kRowBlock)]);
    }
    AddBlock(task);
  }
}

void PartialAttention::AddValue(int g, float log_weight, const float* value) {
  if (log_weight == kNothing) return;
  RaiseMax(g, log_weight);
  const float weight = std::exp(log_weight - max_[static_cast<size_t>(g)]);
  sum_[static_cast<size_t>(g)] += weight;
  AddScaled(weight, value, dim_, &out_[static_cast<size_t>(g) * dim_]);
}

void PartialAttention::Merge(const PartialAttention& other, int from, int to, float shift) {
  if (other.sum_[static_cast<size_t>(from)] == 0.0f) return;
  const float reference = other.max_[static_cast<size_t>(from)] + shift;
  RaiseMax(to, reference);
  const float factor = std::exp(reference - max_[static_cast<size_t>(to)]);
  sum_[static_cast<size_t>(to)] += factor * other.sum_[static_cast<size_t>(from)];
  AddScaled(factor, &other.out_[static_cast<size_t>(from) * dim_], dim_,
            &out_[static_cast<size_t>(to) * dim_]);
}

float PartialAttention::Lse(int g) const {
  const float sum = sum_[static_cast<size_t>(g)];
  return sum == 0.0f ? kNothing : max_[static_cast<size_t>(g)] + std::log(sum);
}

void PartialAttention::Finish(float* out) const {
  for (int g = 0; g < g_; ++g) {
    const float sum = sum_[static_cast<size_t>(g)];
    const float factor = sum == 0.0f ? 0.0f : 1.0f / sum;
    for (int d = 0; d < dim_; ++d) {
      out[g * dim_ + d] = factor * out_[static_cast<size_t>(g) * dim_ + d];
    }
  }
}

}  // namespace pqcache::attention
