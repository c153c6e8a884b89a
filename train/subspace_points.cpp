#include "train/subspace_points.h"

#include "pqcache/index/nearest_centroid.h"

namespace pqcache::train {

SubspacePoints LoadSubspace(const KMeansProblem& problem, int m) {
  SubspacePoints points;
  points.rows = problem.rows;
  points.padded = (problem.rows + kPointBlock - 1) / kPointBlock * kPointBlock;
  points.dim = problem.shape.sub_dim();
  points.stride = (points.dim + 3) / 4 * 4;
  points.mean.assign(static_cast<size_t>(points.dim), 0.0);
  const float* first = problem.keys + int64_t{m} * points.dim;
  for (int64_t i = 0; i < points.rows; ++i) {
    for (int d = 0; d < points.dim; ++d) points.mean[d] += first[i * problem.shape.dim + d];
  }
  for (double& x : points.mean) x /= static_cast<double>(points.rows);

  points.by_dim.Resize(static_cast<size_t>(points.dim * points.padded));
  points.by_row.Resize(static_cast<size_t>(points.rows * points.stride));
  for (int64_t i = 0; i < points.rows; ++i) {
    for (int d = 0; d < points.dim; ++d) {
      const auto x = static_cast<float>(first[i * problem.shape.dim + d] - points.mean[d]);
      points.by_dim[d * points.padded + i] = x;
      points.by_row[i * points.stride + d] = x;
    }
  }
  return points;
}

void AssignPoints(const SubspacePoints& points, std::span<const float> centroids,
                  std::span<uint8_t> nearest) {
  const int64_t k = std::ssize(centroids) / points.dim;
  std::vector<float> half_norms(static_cast<size_t>(k), 0.0f);
  for (int64_t j = 0; j < k; ++j) {
    for (int d = 0; d < points.dim; ++d) {
      const float c = centroids[j * points.dim + d];
      half_norms[j] += 0.5f * c * c;
    }
  }
  FindNearestCentroids({.points = points.padded,
                        .dim = points.dim,
                        .centroids = static_cast<int>(k),
                        .coordinates = points.by_dim.data(),
                        .centroid_rows = centroids.data(),
                        .half_norms = half_norms.data()},
                       nearest.data());
}

double SquaredDistance(const SubspacePoints& points, int64_t i, const float* centroid) {
  double sum = 0;
  for (int d = 0; d < points.dim; ++d) {
    const double difference = double{points.by_row[i * points.stride + d]} - centroid[d];
    sum += difference * difference;
  }
  return sum;
}

}  // namespace pqcache::train
