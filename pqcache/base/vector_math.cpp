#include "pqcache/base/vector_math.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "pqcache/base/half.h"
#include "pqcache/base/vector_clones.h"

namespace pqcache {
namespace {

constexpr int kLanes = 16;
using Floats __attribute__((vector_size(4 * kLanes))) = float;
using Ints __attribute__((vector_size(4 * kLanes))) = int32_t;

#define PQCACHE_INLINE inline __attribute__((always_inline))

PQCACHE_INLINE Floats Load(const float* x) {
  Floats v;
  std::memcpy(&v, x, sizeof(v));
  return v;
}

PQCACHE_INLINE void Store(Floats v, float* x) { std::memcpy(x, &v, sizeof(v)); }

// By halves, so that few steps wait for each other.
template <typename Join>
PQCACHE_INLINE float JoinLanes(Floats v, const Join& join) {
  v = join(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
  v = join(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
  v = join(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
  v = join(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
  return v[0];
}

PQCACHE_INLINE float SumOfLanes(Floats v) {
  return JoinLanes(v, [](Floats a, Floats b) { return a + b; });
}

PQCACHE_INLINE float DotBody(const float* a, const float* b, int64_t n) {
  Floats sums{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) sums += Load(a + i) * Load(b + i);
  float sum = SumOfLanes(sums);
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// better(a, b) is a if a is better, else b; of numbers and of registers.
template <typename Better>
PQCACHE_INLINE float BestOf(const float* x, int64_t n, float worst, const Better& better) {
  Floats lanes = Floats{} + worst;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) lanes = better(Load(x + i), lanes);
  float best = JoinLanes(lanes, better);
  for (; i < n; ++i) best = better(x[i], best);
  return best;
}

// exp(x) = 2^k * exp(r), |r| <= ln(2) / 2, with a degree-6 polynomial (Cephes expf).
PQCACHE_INLINE Floats Exp(Floats x) {
  const Floats zero{};
  Floats clamped = x > 88.0f ? zero + 88.0f : x;
  clamped = clamped < -87.0f ? zero - 87.0f : clamped;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Floats shifted = clamped * 1.44269504088896341f + kRound;
  const Floats k = shifted - kRound;
  const Floats r = (clamped - k * 0.693359375f) + k * 2.12194440e-4f;
  Floats p = zero + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Ints exponent = (reinterpret_cast<Ints>(shifted) - std::bit_cast<int32_t>(kRound) + 127)
                        << 23;
  const Floats result = p * reinterpret_cast<Floats>(exponent);
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
  Floats sums{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Floats e = Exp(Load(x + i) - shift);
    Store(e, x + i);
    sums += e;
  }
  float sum = SumOfLanes(sums);
  if (i == n) return sum;
  float rest[kLanes] = {};
  std::copy(x + i, x + n, rest);
  Store(Exp(Load(rest) - shift), rest);
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
