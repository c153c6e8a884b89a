#include "pqcache/index/nearest_centroid.h"

#include <cstring>
#include <limits>

#include "pqcache/base/check.h"
#include "pqcache/base/vector_registers.h"

namespace pqcache {
namespace {

template <int kBytes>
struct Register {
  static constexpr int kLanes = kBytes / 4;
  using Floats __attribute__((vector_size(kBytes), may_alias)) = float;
  using Ints __attribute__((vector_size(kBytes))) = int32_t;
};

// sum + x * y, rounded once. The compiler fuses where an instruction set can (CMakeLists.txt); the
// base set cannot.
template <int kBytes>
PQCACHE_INLINE void AddProduct(typename Register<kBytes>::Floats x, float y,
                               typename Register<kBytes>::Floats* sum) {
  if constexpr (kBytes == 16) {
    for (int i = 0; i < Register<kBytes>::kLanes; ++i) {
      (*sum)[i] = __builtin_fmaf(x[i], y, (*sum)[i]);
    }
  } else {
    *sum += x * y;
  }
}

// Points side by side in two registers, four centroids at a time: eight sums stay in registers, and
// every centroid number that is loaded serves both. Inlined into callers that name an instruction
// set, and compiled for it there.
template <int kBytes>
PQCACHE_INLINE void Find(const NearestCentroidTask& task, uint8_t* nearest) {
  using Floats = typename Register<kBytes>::Floats;
  using Ints = typename Register<kBytes>::Ints;
  constexpr int kLanes = Register<kBytes>::kLanes;
  const int dim = task.dim;
  for (int64_t i = 0; i < task.points; i += 2 * kLanes) {
    Floats best0 = Floats{} - std::numeric_limits<float>::infinity();
    Floats best1 = best0;
    Ints index0{};
    Ints index1{};
    for (int j = 0; j < task.centroids; j += 4) {
      Floats score0[4];
      Floats score1[4];
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) score0[c] = score1[c] = Floats{} - task.half_norms[j + c];
      const float* centroid = task.centroid_rows + int64_t{j} * dim;
      for (int d = 0; d < dim; ++d) {
        const float* x = task.coordinates + d * task.points + i;
        const Floats x0 = *reinterpret_cast<const Floats*>(x);
        const Floats x1 = *reinterpret_cast<const Floats*>(x + kLanes);
#pragma GCC unroll 4
        for (int c = 0; c < 4; ++c) {
          AddProduct<kBytes>(x0, centroid[c * dim + d], &score0[c]);
          AddProduct<kBytes>(x1, centroid[c * dim + d], &score1[c]);
        }
      }
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        const Ints number = Ints{} + (j + c);
        index0 = score0[c] > best0 ? number : index0;
        best0 = score0[c] > best0 ? score0[c] : best0;
        index1 = score1[c] > best1 ? number : index1;
        best1 = score1[c] > best1 ? score1[c] : best1;
      }
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      nearest[i + lane] = static_cast<uint8_t>(index0[lane]);
      nearest[i + kLanes + lane] = static_cast<uint8_t>(index1[lane]);
    }
  }
}

// Centroids side by side.
template <int kBytes>
PQCACHE_INLINE uint8_t FindOne(const NearestOfOneTask& task) {
  using Floats = typename Register<kBytes>::Floats;
  using Ints = typename Register<kBytes>::Ints;
  constexpr int kLanes = Register<kBytes>::kLanes;
  const auto load = [](const float* x) {
    Floats v;
    std::memcpy(&v, x, kBytes);
    return v;
  };
  Floats best = Floats{} - std::numeric_limits<float>::infinity();
  Ints first{};  // of those side by side that the best one is among
  const float* behind = task.columns + int64_t{task.dim} * task.centroids;
  for (int c = 0; c < task.centroids; c += kLanes, behind += kLanes * task.dim) {
    Floats score = -load(task.half_norms + c);
    for (int d = 0; d < task.dim; ++d) {
      AddProduct<kBytes>(load(task.columns + int64_t{d} * task.centroids + c), task.point[d],
                         &score);
      __builtin_prefetch(behind + kLanes * d);
    }
    first = score > best ? Ints{} + c : first;
    best = score > best ? score : best;
  }
  int nearest = first[0];
  float most = best[0];
  for (int j = 1; j < kLanes; ++j) {
    const bool closer = best[j] > most || (best[j] == most && first[j] + j < nearest);
    nearest = closer ? first[j] + j : nearest;
    most = closer ? best[j] : most;
  }
  return static_cast<uint8_t>(most == -std::numeric_limits<float>::infinity() ? 0 : nearest);
}

#ifdef __x86_64__
#define PQCACHE_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define PQCACHE_AVX2 __attribute__((target("avx2,fma")))

PQCACHE_AVX512 void FindAvx512(const NearestCentroidTask& task, uint8_t* nearest) {
  Find<64>(task, nearest);
}
PQCACHE_AVX512 uint8_t FindOneAvx512(const NearestOfOneTask& task) { return FindOne<64>(task); }
PQCACHE_AVX2 void FindAvx2(const NearestCentroidTask& task, uint8_t* nearest) {
  Find<32>(task, nearest);
}
PQCACHE_AVX2 uint8_t FindOneAvx2(const NearestOfOneTask& task) { return FindOne<32>(task); }
#endif

void FindScalar(const NearestCentroidTask& task, uint8_t* nearest) { Find<16>(task, nearest); }
uint8_t FindOneScalar(const NearestOfOneTask& task) { return FindOne<16>(task); }

constexpr NearestCentroidKernel kKernels[] = {
    {Isa::kScalar, FindScalar, FindOneScalar},
#ifdef __x86_64__
    {Isa::kAvx2, FindAvx2, FindOneAvx2},
    {Isa::kAvx512, FindAvx512, FindOneAvx512},
#endif
};

}  // namespace

std::span<const NearestCentroidKernel> NearestCentroidKernels() { return kKernels; }

void FindNearestCentroids(const NearestCentroidTask& task, uint8_t* nearest) {
  PQCACHE_DCHECK(task.points % kPointBlock == 0 && task.centroids % 4 == 0, "not whole blocks");
  static const auto run = BodyFor<NearestCentroidKernel>(kKernels).run;
  run(task, nearest);
}

uint8_t FindNearestCentroid(const NearestOfOneTask& task) {
  PQCACHE_DCHECK(task.centroids % 16 == 0, "not whole registers");
  static const auto run = BodyFor<NearestCentroidKernel>(kKernels).run_one;
  return run(task);
}

}  // namespace pqcache
