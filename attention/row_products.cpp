// One body for all instruction sets: it is inlined into callers that name one, and compiled for it
// there, with products and sums fused where the set has that (see CMakeLists.txt).

#include "attention/row_products.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "pqcache/base/half.h"
#include "pqcache/base/vector_registers.h"

namespace pqcache::attention {
namespace {

// Of queries that are held in another order; the rest goes number by number.
constexpr int kMaxDim = 1024;

template <int kBytes>
struct Register {
  static constexpr int kLanes = kBytes / 4;
  using Floats __attribute__((vector_size(kBytes))) = float;
  using Words __attribute__((vector_size(kBytes))) = uint32_t;
};
template <int kBytes>
using Floats = typename Register<kBytes>::Floats;

template <int kBytes>
PQCACHE_INLINE Floats<kBytes> LoadFloats(const float* x) {
  Floats<kBytes> v;
  std::memcpy(&v, x, kBytes);
  return v;
}

// Two registers of numbers that lie side by side. Of bfloat16 the first one takes those at even
// places and the second one those at odd places: a shift and a mask of what was loaded.
template <int kBytes>
struct Pair {
  Floats<kBytes> first, second;
};

template <int kBytes, DType kType>
PQCACHE_INLINE Pair<kBytes> LoadPair(const uint8_t* row, int at) {
  if constexpr (kType == DType::kF32) {
    const float* x = reinterpret_cast<const float*>(row) + at;
    return {LoadFloats<kBytes>(x), LoadFloats<kBytes>(x + Register<kBytes>::kLanes)};
  } else {
    typename Register<kBytes>::Words words;
    std::memcpy(&words, row + 2 * at, kBytes);
    return {reinterpret_cast<Floats<kBytes>>(words << 16),
            reinterpret_cast<Floats<kBytes>>(words & 0xffff0000u)};
  }
}

template <DType kType>
PQCACHE_INLINE float LoadNumber(const uint8_t* row, int i) {
  if constexpr (kType == DType::kF32) {
    return reinterpret_cast<const float*>(row)[i];
  } else {
    return BFloat16ToFloat(reinterpret_cast<const uint16_t*>(row)[i]);
  }
}

// Floats in the order of LoadPair, and back.
template <int kBytes, DType kType, int... kLane>
PQCACHE_INLINE Pair<kBytes> Arrange(Pair<kBytes> x, std::integer_sequence<int, kLane...>) {
  if constexpr (kType == DType::kF32) return x;
  return {__builtin_shufflevector(x.first, x.second, (2 * kLane)...),
          __builtin_shufflevector(x.first, x.second, (2 * kLane + 1)...)};
}
template <int kBytes, DType kType, int... kLane>
PQCACHE_INLINE Pair<kBytes> Restore(Pair<kBytes> x, std::integer_sequence<int, kLane...>) {
  if constexpr (kType == DType::kF32) return x;
  constexpr int kLanes = Register<kBytes>::kLanes;
  return {
      __builtin_shufflevector(x.first, x.second, (kLane / 2 + kLane % 2 * kLanes)...),
      __builtin_shufflevector(x.first, x.second, (kLanes / 2 + kLane / 2 + kLane % 2 * kLanes)...)};
}
template <int kBytes>
using Lanes = std::make_integer_sequence<int, Register<kBytes>::kLanes>;

// Sums of neighbours: first those of a, then those of b.
template <int kBytes, int... kLane>
PQCACHE_INLINE Floats<kBytes> SumPairs(Floats<kBytes> a, Floats<kBytes> b,
                                       std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(a, b, (2 * kLane)...) +
         __builtin_shufflevector(a, b, (2 * kLane + 1)...);
}

// Lane i becomes the sum of v[i], of as many as there are lanes.
template <int kBytes, int kCount = Register<kBytes>::kLanes>
PQCACHE_INLINE Floats<kBytes> SumEach(const Floats<kBytes>* v) {
  if constexpr (kCount == 1) {
    return v[0];
  } else {
    return SumPairs<kBytes>(SumEach<kBytes, kCount / 2>(v),
                            SumEach<kBytes, kCount / 2>(v + kCount / 2), Lanes<kBytes>());
  }
}

// What is asked for ahead goes to the second cache, whose queue is longer than the first one's.
PQCACHE_INLINE void FetchBytes(const uint8_t* x, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(x + i, 0, 2);
}

int64_t ValueBytes(const RowFormat& format) {
  return format.dim * static_cast<int64_t>(DTypeSize(format.dtype));
}

// Memory is fastest when it is read in order and without a pause. So both products fetch while they
// work on a block, keys with their values: the logits the first rows of the next block, the values
// the other ones. `i` counts the rows that a product has worked on, `first` is 0 or half a block.
PQCACHE_INLINE void FetchAhead(const RowBlockTask& task, int64_t i, int64_t first) {
  const int64_t key_bytes = task.format.value_offset;
  const bool keyless = key_bytes == 0;  // no logits are taken: the values fetch all
  const int64_t row = task.begin + kRowBlock + (keyless ? i : first + i / 2);
  if (row >= static_cast<int64_t>(task.rows.size())) return;
  const uint8_t* next = task.rows[static_cast<size_t>(row)];
  if (!keyless && i % 2 == 0) {
    FetchBytes(next, key_bytes);
  } else {
    FetchBytes(next + key_bytes, ValueBytes(task.format));
  }
}

// Nobody has fetched the first block.
PQCACHE_INLINE void FetchFirst(const RowBlockTask& task) {
  if (task.begin > 0) return;
  for (int64_t i = 0; i < task.count; ++i) {
    FetchBytes(task.rows[static_cast<size_t>(i)],
               task.format.value_offset + ValueBytes(task.format));
  }
}

template <int kBytes, DType kType, int kGroup>
PQCACHE_INLINE void LogitsOfGroup(const RowBlockTask& task, const float* queries, float scale,
                                  bool fetch, float* logits) {
  constexpr int kLanes = Register<kBytes>::kLanes;
  constexpr int kRows = kLanes / kGroup;
  const int dim = task.format.dim;
  const int paired = std::min(dim, kMaxDim) / (2 * kLanes) * (2 * kLanes);
  alignas(kBytes) float arranged[kGroup * kMaxDim];
  for (int g = 0; g < kGroup; ++g) {
    for (int d = 0; d < paired; d += 2 * kLanes) {
      const Pair<kBytes> pair = Arrange<kBytes, kType>(
          LoadPair<kBytes, DType::kF32>(reinterpret_cast<const uint8_t*>(queries + g * dim), d),
          Lanes<kBytes>());
      std::memcpy(arranged + g * paired + d, &pair, 2 * kBytes);
    }
  }
  for (int64_t i = 0; i < task.count; i += kRows) {
    const uint8_t* rows[kRows];
    for (int r = 0; r < kRows; ++r) {
      const int64_t row = task.begin + std::min(i + r, task.count - 1);
      rows[r] = task.rows[static_cast<size_t>(row)];
      if (fetch) FetchAhead(task, i + r, 0);
    }
    Floats<kBytes> sums[kLanes];  // [kGroup, kRows]
#pragma GCC unroll 16
    for (int s = 0; s < kLanes; ++s) sums[s] = Floats<kBytes>{};
    for (int d = 0; d < paired; d += 2 * kLanes) {
      Pair<kBytes> keys[kRows];
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) keys[r] = LoadPair<kBytes, kType>(rows[r], d);
#pragma GCC unroll 16
      for (int g = 0; g < kGroup; ++g) {
        const Floats<kBytes> first = LoadFloats<kBytes>(arranged + g * paired + d);
        const Floats<kBytes> second = LoadFloats<kBytes>(arranged + g * paired + d + kLanes);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          sums[g * kRows + r] += first * keys[r].first;
          sums[g * kRows + r] += second * keys[r].second;
        }
      }
    }
    Floats<kBytes> found = SumEach<kBytes>(sums);
    for (int d = paired; d < dim; ++d) {
      for (int s = 0; s < kLanes; ++s) {
        found[s] += queries[s / kRows * dim + d] * LoadNumber<kType>(rows[s % kRows], d);
      }
    }
    found *= scale;
    for (int g = 0; g < kGroup; ++g) {
      std::memcpy(logits + g * kRowBlock + i, reinterpret_cast<const float*>(&found) + g * kRows,
                  kRows * sizeof(float));
    }
  }
}

// Numbers [first, first + 2 * kPairs * lanes) of the sums.
template <int kBytes, DType kType, int kGroup, int kPairs>
PQCACHE_INLINE void AddValuesOfPairs(const RowBlockTask& task, const float* weights, int first,
                                     bool fetch, float* out) {
  constexpr int kLanes = Register<kBytes>::kLanes;
  const int dim = task.format.dim;
  Pair<kBytes> sums[kGroup][kPairs];
#pragma GCC unroll 4
  for (int g = 0; g < kGroup; ++g) {
#pragma GCC unroll 4
    for (int c = 0; c < kPairs; ++c) {
      const auto* at = reinterpret_cast<const uint8_t*>(out + g * dim);
      sums[g][c] = Arrange<kBytes, kType>(LoadPair<kBytes, DType::kF32>(at, first + 2 * c * kLanes),
                                          Lanes<kBytes>());
    }
  }
  for (int64_t i = 0; i < task.count; ++i) {
    const uint8_t* row = task.rows[static_cast<size_t>(task.begin + i)] + task.format.value_offset;
    if (fetch) FetchAhead(task, i, kRowBlock / 2);
    Pair<kBytes> values[kPairs];
#pragma GCC unroll 4
    for (int c = 0; c < kPairs; ++c) {
      values[c] = LoadPair<kBytes, kType>(row, first + 2 * c * kLanes);
    }
#pragma GCC unroll 4
    for (int g = 0; g < kGroup; ++g) {
      const float weight = weights[g * kRowBlock + i];
#pragma GCC unroll 4
      for (int c = 0; c < kPairs; ++c) {
        sums[g][c].first += weight * values[c].first;
        sums[g][c].second += weight * values[c].second;
      }
    }
  }
#pragma GCC unroll 4
  for (int g = 0; g < kGroup; ++g) {
#pragma GCC unroll 4
    for (int c = 0; c < kPairs; ++c) {
      const Pair<kBytes> natural = Restore<kBytes, kType>(sums[g][c], Lanes<kBytes>());
      std::memcpy(out + g * dim + first + 2 * c * kLanes, &natural, 2 * kBytes);
    }
  }
}

template <int kBytes, DType kType, int kGroup>
PQCACHE_INLINE void AddValuesOfGroup(const RowBlockTask& task, const float* weights, bool fetch,
                                     float* out) {
  constexpr int kLanes = Register<kBytes>::kLanes;
  const int dim = task.format.dim;
  int d = 0;
  for (; d + 4 * kLanes <= dim; d += 4 * kLanes) {
    AddValuesOfPairs<kBytes, kType, kGroup, 2>(task, weights, d, fetch && d == 0, out);
  }
  for (; d + 2 * kLanes <= dim; d += 2 * kLanes) {
    AddValuesOfPairs<kBytes, kType, kGroup, 1>(task, weights, d, fetch && d == 0, out);
  }
  for (; d < dim; ++d) {
    for (int64_t i = 0; i < task.count; ++i) {
      const uint8_t* row =
          task.rows[static_cast<size_t>(task.begin + i)] + task.format.value_offset;
      const float value = LoadNumber<kType>(row, d);
      for (int g = 0; g < kGroup; ++g) out[g * dim + d] += weights[g * kRowBlock + i] * value;
    }
  }
}

// Four query heads share every row that is loaded; so do two, or one is left.
template <int kBytes, DType kType>
PQCACHE_INLINE void Logits(const RowBlockTask& task, const float* queries, float scale,
                           float* logits) {
  FetchFirst(task);
  int g = 0;
  for (; g + 4 <= task.g; g += 4) {
    LogitsOfGroup<kBytes, kType, 4>(task, queries + g * task.format.dim, scale, g == 0,
                                    logits + g * kRowBlock);
  }
  for (; g < task.g; ++g) {
    LogitsOfGroup<kBytes, kType, 1>(task, queries + g * task.format.dim, scale, g == 0,
                                    logits + g * kRowBlock);
  }
}

template <int kBytes, DType kType>
PQCACHE_INLINE void AddValues(const RowBlockTask& task, const float* weights, float* out) {
  int g = 0;
  for (; g + 4 <= task.g; g += 4) {
    AddValuesOfGroup<kBytes, kType, 4>(task, weights + g * kRowBlock, g == 0,
                                       out + g * task.format.dim);
  }
  for (; g < task.g; ++g) {
    AddValuesOfGroup<kBytes, kType, 1>(task, weights + g * kRowBlock, g == 0,
                                       out + g * task.format.dim);
  }
}

template <int kBytes>
PQCACHE_INLINE void LogitsOf(const RowBlockTask& task, const float* queries, float scale,
                             float* logits) {
  if (task.format.dtype == DType::kF32) {
    Logits<kBytes, DType::kF32>(task, queries, scale, logits);
  } else {
    Logits<kBytes, DType::kBF16>(task, queries, scale, logits);
  }
}

template <int kBytes>
PQCACHE_INLINE void AddValuesOf(const RowBlockTask& task, const float* weights, float* out) {
  if (task.format.dtype == DType::kF32) {
    AddValues<kBytes, DType::kF32>(task, weights, out);
  } else {
    AddValues<kBytes, DType::kBF16>(task, weights, out);
  }
}

#ifdef __x86_64__
#define PQCACHE_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define PQCACHE_AVX2 __attribute__((target("avx2,fma")))

PQCACHE_AVX512 void LogitsAvx512(const RowBlockTask& task, const float* queries, float scale,
                                 float* logits) {
  if (task.format.dim % 32 == 0) {
    LogitsOf<64>(task, queries, scale, logits);
  } else {  // wide registers would leave more for the loops over single numbers
    LogitsOf<32>(task, queries, scale, logits);
  }
}
PQCACHE_AVX512 void AddValuesAvx512(const RowBlockTask& task, const float* weights, float* out) {
  if (task.format.dim % 32 == 0) {
    AddValuesOf<64>(task, weights, out);
  } else {
    AddValuesOf<32>(task, weights, out);
  }
}
PQCACHE_AVX2 void LogitsAvx2(const RowBlockTask& task, const float* queries, float scale,
                             float* logits) {
  LogitsOf<32>(task, queries, scale, logits);
}
PQCACHE_AVX2 void AddValuesAvx2(const RowBlockTask& task, const float* weights, float* out) {
  AddValuesOf<32>(task, weights, out);
}
#endif

void LogitsScalar(const RowBlockTask& task, const float* queries, float scale, float* logits) {
  LogitsOf<16>(task, queries, scale, logits);
}
void AddValuesScalar(const RowBlockTask& task, const float* weights, float* out) {
  AddValuesOf<16>(task, weights, out);
}

constexpr RowProducts kRowProducts[] = {
    {Isa::kScalar, LogitsScalar, AddValuesScalar},
#ifdef __x86_64__
    {Isa::kAvx2, LogitsAvx2, AddValuesAvx2},
    {Isa::kAvx512, LogitsAvx512, AddValuesAvx512},
#endif
};

const RowProducts& Active() {
  static const RowProducts& active = BodyFor<RowProducts>(kRowProducts);
  return active;
}

}  // namespace

std::span<const RowProducts> AllRowProducts() { return kRowProducts; }

void RowLogits(const RowBlockTask& task, const float* queries, float scale, float* logits) {
  Active().logits(task, queries, scale, logits);
}

void AddWeightedValues(const RowBlockTask& task, const float* weights, float* out) {
  Active().add_values(task, weights, out);
}

}  // namespace pqcache::attention
