#include "attention/partial_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "pqcache/base/vector_math.h"
#include "pqcache/cache/row_codec.h"

namespace pqcache::attention {
namespace {

constexpr int64_t kBlockRows = 64;
constexpr float kNothing = -std::numeric_limits<float>::infinity();

// The row itself when it holds floats, else a conversion of it in `scratch` [D].
const float* Floats(const uint8_t* row, DType dtype, float* scratch, int dim) {
  if (dtype == DType::kF32) return reinterpret_cast<const float*>(row);
  LoadRow(row, dim, dtype, scratch);
  return scratch;
}

}  // namespace

void PartialAttention::Reset(int g, int dim) {
  g_ = g;
  dim_ = dim;
  out_.assign(static_cast<size_t>(g) * dim, 0.0f);
  max_.assign(static_cast<size_t>(g), kNothing);
  sum_.assign(static_cast<size_t>(g), 0.0f);
  key_.resize(static_cast<size_t>(dim));
  converted_.resize(static_cast<size_t>(kBlockRows) * dim);
  values_.resize(static_cast<size_t>(kBlockRows));
  logits_.resize(static_cast<size_t>(kBlockRows) * g);
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

void PartialAttention::AddBlock(const float* logits, int64_t stride, int64_t count) {
  for (int g = 0; g < g_; ++g) {
    float* weights = &logits_[static_cast<size_t>(g) * kBlockRows];
    if (logits + g * stride != weights) std::copy_n(logits + g * stride, count, weights);
    RaiseMax(g, MaxOf(weights, count));
    // While every logit is -infinity or NaN, any reference will do: no weight, or NaN.
    const float max = max_[static_cast<size_t>(g)];
    sum_[static_cast<size_t>(g)] += ExpInPlace(weights, count, max == kNothing ? 0.0f : max);
  }
  for (int64_t i = 0; i < count; ++i) {
    for (int g = 0; g < g_; ++g) {
      AddScaled(logits_[static_cast<size_t>(g) * kBlockRows + i], values_[static_cast<size_t>(i)],
                dim_, &out_[static_cast<size_t>(g) * dim_]);
    }
  }
}

void PartialAttention::LoadValue(const uint8_t* row, DType dtype, int64_t i) {
  values_[static_cast<size_t>(i)] =
      Floats(row, dtype, &converted_[static_cast<size_t>(i) * dim_], dim_);
}

void PartialAttention::AddRows(const RowFormat& format, std::span<const uint8_t* const> rows,
                               const float* queries, float scale) {
  for (size_t begin = 0; begin < rows.size(); begin += kBlockRows) {
    const auto count = static_cast<int64_t>(std::min<size_t>(kBlockRows, rows.size() - begin));
    for (int64_t i = 0; i < count; ++i) {
      const uint8_t* row = rows[begin + static_cast<size_t>(i)];
      const float* key = Floats(row, format.dtype, key_.data(), dim_);
      for (int g = 0; g < g_; ++g) {
        logits_[static_cast<size_t>(g * kBlockRows + i)] =
            scale * Dot(queries + static_cast<int64_t>(g) * dim_, key, dim_);
      }
      LoadValue(row + format.value_offset, format.dtype, i);
    }
    AddBlock(logits_.data(), kBlockRows, count);
  }
}

void PartialAttention::AddRowsWithLogits(const RowFormat& format,
                                         std::span<const uint8_t* const> rows, const float* logits,
                                         int64_t logit_stride) {
  for (size_t begin = 0; begin < rows.size(); begin += kBlockRows) {
    const auto count = static_cast<int64_t>(std::min<size_t>(kBlockRows, rows.size() - begin));
    for (int64_t i = 0; i < count; ++i) {
      LoadValue(rows[begin + static_cast<size_t>(i)] + format.value_offset, format.dtype, i);
    }
    AddBlock(logits + begin, logit_stride, count);
  }
}

void PartialAttention::AddValue(int g, float log_weight, const float* value) {
  if (log_weight == kNothing) return;
  RaiseMax(g, log_weight);
  const float weight = std::exp(log_weight - max_[static_cast<size_t>(g)]);
  sum_[static_cast<size_t>(g)] += weight;
  AddScaled(weight, value, dim_, &out_[static_cast<size_t>(g) * dim_]);
}

void PartialAttention::Merge(const PartialAttention& other, int from, int to) {
  const float other_max = other.max_[static_cast<size_t>(from)];
  if (other.sum_[static_cast<size_t>(from)] == 0.0f) return;
  RaiseMax(to, other_max);
  const float factor = std::exp(other_max - max_[static_cast<size_t>(to)]);
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
