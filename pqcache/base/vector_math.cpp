#include "pqcache/base/vector_math.h"

#include <bit>
#include <cstring>
#include <limits>

#include "pqcache/base/half.h"
#include "pqcache/base/vector_clones.h"

namespace pqcache {
namespace {

constexpr int kLanes = 16;

inline float SumOfLanes(const float* lanes) {
  float sum = 0;
  for (int j = 0; j < kLanes; ++j) sum += lanes[j];
  return sum;
}

inline __attribute__((always_inline)) float DotBody(const float* a, const float* b, int64_t n) {
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) lanes[j] += a[i + j] * b[i + j];
  }
  float sum = SumOfLanes(lanes);
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

template <typename Better>
inline __attribute__((always_inline)) float BestOf(const float* x, int64_t n, float worst,
                                                   const Better& better) {
  float lanes[kLanes];
  for (float& lane : lanes) lane = worst;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) lanes[j] = better(x[i + j], lanes[j]) ? x[i + j] : lanes[j];
  }
  float best = worst;
  for (int j = 0; j < kLanes; ++j) best = better(lanes[j], best) ? lanes[j] : best;
  for (; i < n; ++i) best = better(x[i], best) ? x[i] : best;
  return best;
}

// exp(x) = 2^k * exp(r), |r| <= ln(2) / 2, with a degree-6 polynomial (Cephes expf).
inline __attribute__((always_inline)) float ExpBody(float x) {
  const float clamped = x > 88.0f ? 88.0f : (x < -87.0f ? -87.0f : x);
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = clamped * 1.44269504088896341f + kRound;
  const float k = shifted - kRound;
  const float r = (clamped - k * 0.693359375f) + k * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t exponent = (std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound) + 127)
                           << 23;
  const float result = p * std::bit_cast<float>(exponent);
  return x < -87.0f ? 0.0f : result;
}

}  // namespace

PQCACHE_VECTOR_CLONES float Dot(const float* a, const float* b, int64_t n) {
  return DotBody(a, b, n);
}

PQCACHE_VECTOR_CLONES void DotRows(const float* query, const float* rows, int64_t stride,
                                   int64_t count, int64_t n, float scale, float* scores) {
  for (int64_t r = 0; r < count; ++r) scores[r] = scale * DotBody(query, rows + r * stride, n);
}

PQCACHE_VECTOR_CLONES void AddScaled(float a, const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] += a * x[i];
}

PQCACHE_VECTOR_CLONES float ExpInPlace(float* x, int64_t n, float shift) {
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) {
      x[i + j] = ExpBody(x[i + j] - shift);
      lanes[j] += x[i + j];
    }
  }
  float sum = SumOfLanes(lanes);
  for (; i < n; ++i) {
    x[i] = ExpBody(x[i] - shift);
    sum += x[i];
  }
  return sum;
}

PQCACHE_VECTOR_CLONES float MaxOf(const float* x, int64_t n) {
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  return BestOf(x, n, kLowest, [](float a, float b) { return a > b; });
}

PQCACHE_VECTOR_CLONES float MinOf(const float* x, int64_t n) {
  constexpr float kHighest = std::numeric_limits<float>::infinity();
  return BestOf(x, n, kHighest, [](float a, float b) { return a < b; });
}

PQCACHE_VECTOR_CLONES bool AllFinite(const float* x, int64_t n) {
  uint32_t bad = 0;
  for (int64_t i = 0; i < n; ++i) {
    bad |= (std::bit_cast<uint32_t>(x[i]) & 0x7f800000u) == 0x7f800000u ? 1u : 0u;
  }
  return bad == 0;
}

PQCACHE_VECTOR_CLONES void BFloat16ToFloats(const uint16_t* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = BFloat16ToFloat(x[i]);
}

}  // namespace pqcache
