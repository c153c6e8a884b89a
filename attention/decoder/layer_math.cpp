#include "attention/decoder/layer_math.h"

#include <cmath>
#include <numbers>

namespace pqcache::attention {
namespace {

float Gelu(float x) { return 0.5f * x * (1.0f + std::erf(x * (std::numbers::sqrt2_v<float> / 2))); }

float GeluTanh(float x) {
  const float inner = std::sqrt(2.0f / std::numbers::pi_v<float>) * (x + 0.044715f * x * x * x);
  return 0.5f * x * (1.0f + std::tanh(inner));
}

}  // namespace

void RmsNorm(int64_t n, int64_t size, const float* x, const float* weight, double eps, float* y) {
  for (int64_t i = 0; i < n; ++i, x += size, y += size) {
    double sum = 0;
    for (int64_t j = 0; j < size; ++j) sum += double{x[j]} * x[j];
    const float factor = static_cast<float>(1.0 / std::sqrt(sum / static_cast<double>(size) + eps));
    for (int64_t j = 0; j < size; ++j) y[j] = factor * x[j] * weight[j];
  }
}

void LayerNorm(int64_t n, int64_t size, const float* x, const float* weight, const float* bias,
               double eps, float* y) {
  for (int64_t i = 0; i < n; ++i, x += size, y += size) {
    double sum = 0, squares = 0;
    for (int64_t j = 0; j < size; ++j) sum += x[j];
    const double mean = sum / static_cast<double>(size);
    for (int64_t j = 0; j < size; ++j) squares += (x[j] - mean) * (x[j] - mean);
    const double factor = 1.0 / std::sqrt(squares / static_cast<double>(size) + eps);
    for (int64_t j = 0; j < size; ++j) {
      y[j] = static_cast<float>((x[j] - mean) * factor) * weight[j] + bias[j];
    }
  }
}

void Activate(Activation activation, int64_t n, float* x) {
  switch (activation) {
    case Activation::kSilu:
      for (int64_t i = 0; i < n; ++i) x[i] = x[i] / (1.0f + std::exp(-x[i]));
      return;
    case Activation::kGelu:
      for (int64_t i = 0; i < n; ++i) x[i] = Gelu(x[i]);
      return;
    case Activation::kGeluTanh:
      for (int64_t i = 0; i < n; ++i) x[i] = GeluTanh(x[i]);
      return;
    case Activation::kRelu:
      for (int64_t i = 0; i < n; ++i) x[i] = x[i] > 0 ? x[i] : 0.0f;
      return;
  }
}

}  // namespace pqcache::attention
