#include "pqcache/base/vector_math.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "pqcache/base/half.h"
#include "pqcache/base/vector_clones.h"
#include "pqcache/base/vector_registers.h"

namespace pqcache {
namespace {

constexpr int kLanes = kVectorLanes;

PQCACHE_INLINE float SumOfLanes(Floats16 v) {
  return JoinLanes(v, [](Floats16 a, Floats16 b) { return a + b; });
}

PQCACHE_INLINE float DotBody(const float* a, const float* b, int64_t n) {
  Floats16 sums{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) sums += LoadFloats(a + i) * LoadFloats(b + i);
  float sum = SumOfLanes(sums);
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// better(a, b) is a if a is better, else b; of numbers and of registers.
template <typename Better>
PQCACHE_INLINE float BestOf(const float* x, int64_t n, float worst, const Better& better) {
  Floats16 lanes = Floats16{} + worst;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) lanes = better(LoadFloats(x + i), lanes);
  float best = JoinLanes(lanes, better);
  for (; i < n; ++i) best = better(x[i], best);
  return best;
}

// exp(x) = 2^k * exp(r), |r| <= ln(2) / 2, with a degree-6 polynomial (Cephes expf).
PQCACHE_INLINE Floats16 Exp(Floats16 x) {
  const Floats16 zero{};
  Floats16 clamped = x > 88.0f ? zero + 88.0f : x;
  clamped = clamped < -87.0f ? zero - 87.0f : clamped;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Floats16 shifted = clamped * 1.44269504088896341f + kRound;
  const Floats16 k = shifted - kRound;
  const Floats16 r = (clamped - k * 0.693359375f) + k * 2.12194440e-4f;
  Floats16 p = zero + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Ints16 exponent = (reinterpret_cast<Ints16>(shifted) - std::bit_cast<int32_t>(kRound) + 127)
                          << 23;
  const Floats16 result = p * reinterpret_cast<Floats16>(exponent);
  return x < -87.0f ? zero : result;
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
  Floats16 sums{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Floats16 e = Exp(LoadFloats(x + i) - shift);
    StoreFloats(e, x + i);
    sums += e;
  }
  float sum = SumOfLanes(sums);
  if (i == n) return sum;
  float rest[kLanes] = {};
  std::copy(x + i, x + n, rest);
  StoreFloats(Exp(LoadFloats(rest) - shift), rest);
  for (int j = 0; i < n; ++i, ++j) {
    x[i] = rest[j];
    sum += rest[j];
  }
  return sum;
}

PQCACHE_VECTOR_CLONES float MaxOf(const float* x, int64_t n) {
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  return BestOf(x, n, kLowest, [](auto a, auto b) { return a > b ? a : b; });
}

PQCACHE_VECTOR_CLONES float MinOf(const float* x, int64_t n) {
  constexpr float kHighest = std::numeric_limits<float>::infinity();
  return BestOf(x, n, kHighest, [](auto a, auto b) { return a < b ? a : b; });
}

double Length(const float* x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double{x[i]} * x[i];
  return std::sqrt(sum);
}

double LogAddExp(double a, double b) {
  const double high = std::max(a, b);
  if (std::isinf(high)) return high;
  return high + std::log1p(std::exp(std::min(a, b) - high));
}

double LogSumExp(const float* x, int64_t n) {
  constexpr int64_t kPart = 1024;
  const float high = MaxOf(x, n);
  if (std::isinf(high)) return high;
  double sum = 0;
  for (int64_t i = 0; i < n; i += kPart) {
    float part[kPart];
    const int64_t count = std::min(kPart, n - i);
    std::copy_n(x + i, count, part);
    sum += ExpInPlace(part, count, high);
  }
  return high + std::log(sum);
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
