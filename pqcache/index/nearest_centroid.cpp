#include "pqcache/index/nearest_centroid.h"

#include <limits>

#include "pqcache/base/check.h"

namespace pqcache {
namespace {

template <int kBytes>
struct Register {
  using Floats __attribute__((vector_size(kBytes), may_alias)) = float;
  using Ints __attribute__((vector_size(kBytes))) = int32_t;
};

// Points side by side in two registers, four centroids at a time: eight sums stay in registers, and
// every centroid number that is loaded serves both. Inlined into callers that name an instruction
// set, and compiled for it there.
template <int kBytes>
inline __attribute__((always_inline)) void Find(const NearestCentroidTask& task, uint8_t* nearest) {
  using Floats = typename Register<kBytes>::Floats;
  using Ints = typename Register<kBytes>::Ints;
  constexpr int kLanes = kBytes / 4;
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
          score0[c] += x0 * centroid[c * dim + d];
          score1[c] += x1 * centroid[c * dim + d];
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

#ifdef __x86_64__
__attribute__((target("avx512f"))) void FindAvx512(const NearestCentroidTask& task,
                                                   uint8_t* nearest) {
  Find<64>(task, nearest);
}
__attribute__((target("avx2,fma"))) void FindAvx2(const NearestCentroidTask& task,
                                                  uint8_t* nearest) {
  Find<32>(task, nearest);
}
#endif

void FindBaseline(const NearestCentroidTask& task, uint8_t* nearest) { Find<16>(task, nearest); }

constexpr NearestCentroidKernel kKernels[] = {
    {Isa::kScalar, FindBaseline},
#ifdef __x86_64__
    {Isa::kAvx2, FindAvx2},
    {Isa::kAvx512, FindAvx512},
#endif
};

}  // namespace

std::span<const NearestCentroidKernel> NearestCentroidKernels() { return kKernels; }

void FindNearestCentroids(const NearestCentroidTask& task, uint8_t* nearest) {
  PQCACHE_DCHECK(task.points % kPointBlock == 0 && task.centroids % 4 == 0, "not whole blocks");
  static const auto run = BodyFor<NearestCentroidKernel>(kKernels).run;
  run(task, nearest);
}

}  // namespace pqcache
