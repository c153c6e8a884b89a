#pragma once

// The inner loop of k-means and of encoding: the nearest of K centroids for every point of one
// sub-space. Products are fused with their sums, in order of the dimensions, so every instruction
// set gives the same bits; without FMA that is slow. The body is chosen once per process (isa.h).

#include <cstdint>
#include <span>

#include "pqcache/base/isa.h"

namespace pqcache {

// Points come in blocks of this many; pad the last block with anything finite.
inline constexpr int64_t kPointBlock = 32;

struct NearestCentroidTask {
  int64_t points = 0;                    // a multiple of kPointBlock
  int dim = 0;                           // dimensions of the sub-space
  int centroids = 0;                     // K, a multiple of 4, at most 256
  const float* coordinates = nullptr;    // [dim, points], 64-byte aligned
  const float* centroid_rows = nullptr;  // [K, dim]
  const float* half_norms = nullptr;     // [K] half the squared length of every centroid
};

// One point, for which centroids lie the other way round.
struct NearestOfOneTask {
  int dim = 0;
  int centroids = 0;                  // K, a multiple of 16, at most 256
  const float* point = nullptr;       // [dim]
  const float* columns = nullptr;     // [dim, K]; what lies behind them is fetched
  const float* half_norms = nullptr;  // [K]
};

// nearest [points]: argmin_j |c_j|^2 / 2 - <x, c_j>, which is the nearest centroid; a tie goes to
// the lower one. Not-a-number never wins, and a point for which nothing wins gets 0.
void FindNearestCentroids(const NearestCentroidTask& task, uint8_t* nearest);

// The same for one point, to the bit.
uint8_t FindNearestCentroid(const NearestOfOneTask& task);

// The bodies behind them, for tests.
struct NearestCentroidKernel {
  Isa isa;
  void (*run)(const NearestCentroidTask&, uint8_t*);
  uint8_t (*run_one)(const NearestOfOneTask&);
};
std::span<const NearestCentroidKernel> NearestCentroidKernels();

}  // namespace pqcache
