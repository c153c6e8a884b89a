#pragma once

// One sub-space of the rows of a k-means problem, in the two layouts that Lloyd's iteration wants.
// Coordinates are relative to the rows' mean: |c|^2 / 2 - <x, c> then loses no digits to an offset
// that all rows share.

#include <cstdint>
#include <span>
#include <vector>

#include "pqcache/base/aligned_buffer.h"
#include "train/kmeans.h"

namespace pqcache::train {

struct SubspacePoints {
  int64_t rows = 0;             // N
  int64_t padded = 0;           // N rounded up to whole blocks
  int dim = 0;                  // D/M
  int stride = 0;               // D/M rounded up to whole quads of floats
  std::vector<double> mean;     // [D/M]
  AlignedBuffer<float> by_dim;  // [D/M, padded], zero beyond N
  AlignedBuffer<float> by_row;  // [N, stride], zero beyond D/M
};

// Sub-space m of the problem's keys.
SubspacePoints LoadSubspace(const KMeansProblem& problem, int m);

// nearest [padded] of centroids [K, D/M], which are relative to the mean as well.
void AssignPoints(const SubspacePoints& points, std::span<const float> centroids,
                  std::span<uint8_t> nearest);

// Squared distance between row i and a centroid [D/M].
double SquaredDistance(const SubspacePoints& points, int64_t i, const float* centroid);

}  // namespace pqcache::train
