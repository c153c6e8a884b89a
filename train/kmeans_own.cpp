// Lloyd's iterations over one sub-space after the other.

#include <algorithm>
#include <numeric>

#include "pqcache/base/random.h"
#include "train/kmeans.h"
#include "train/subspace_points.h"

namespace pqcache::train {
namespace {

using Quad __attribute__((vector_size(16), may_alias)) = float;

class SubspaceKMeans {
 public:
  SubspaceKMeans(const KMeansProblem& problem, int m)
      : points_(LoadSubspace(problem, m)),
        k_(problem.shape.centroids()),
        centroids_(static_cast<size_t>(k_) * points_.dim),
        sums_(static_cast<size_t>(k_) * points_.stride),
        counts_(static_cast<size_t>(k_)),
        assignment_(static_cast<size_t>(points_.padded)),
        previous_(assignment_.size()) {
    PickRows(MixSeed(problem.seed, static_cast<uint64_t>(m)));
    for (int i = 0; i < problem.iterations; ++i) {
      AssignPoints(points_, centroids_, assignment_);
      // The same clusters have the same means: a fixed point.
      if (i > 0 && assignment_ == previous_) break;
      MoveToMeans();
      FillEmptyClusters();
      std::swap(assignment_, previous_);
    }
  }

  // Appends centroids [K, D/M] in the coordinates of the keys.
  void AppendTo(std::vector<float>* out) const {
    for (size_t i = 0; i < centroids_.size(); ++i) {
      const double mean = points_.mean[i % points_.mean.size()];
      out->push_back(static_cast<float>(centroids_[i] + mean));
    }
  }

 private:
  const float* Row(int64_t i) const {
    return &points_.by_row[static_cast<size_t>(i * points_.stride)];
  }
  float* Centroid(int64_t j) { return &centroids_[static_cast<size_t>(j * points_.dim)]; }

  // K distinct rows: the first steps of a Fisher-Yates shuffle.
  void PickRows(uint64_t seed) {
    Random random(seed);
    std::vector<int64_t> order(static_cast<size_t>(points_.rows));
    std::iota(order.begin(), order.end(), 0);
    for (int64_t j = 0; j < k_; ++j) {
      const auto other =
          j + static_cast<int64_t>(random.Below(static_cast<uint64_t>(points_.rows - j)));
      std::swap(order[j], order[other]);
      std::copy_n(Row(order[j]), points_.dim, Centroid(j));
    }
  }

  void MoveToMeans() {
    std::fill(sums_.span().begin(), sums_.span().end(), 0.0f);
    std::fill(counts_.begin(), counts_.end(), 0);
    const int quads = points_.stride / 4;
    const auto* rows = reinterpret_cast<const Quad*>(points_.by_row.data());
    auto* sums = reinterpret_cast<Quad*>(sums_.data());
    for (int64_t i = 0; i < points_.rows; ++i) {
      const int cluster = assignment_[static_cast<size_t>(i)];
      ++counts_[cluster];
      for (int q = 0; q < quads; ++q) sums[cluster * quads + q] += rows[i * quads + q];
    }
    for (int64_t j = 0; j < k_; ++j) {
      if (counts_[j] == 0) continue;
      for (int d = 0; d < points_.dim; ++d) {
        Centroid(j)[d] = sums_[j * points_.stride + d] / static_cast<float>(counts_[j]);
      }
    }
  }

  void FillEmptyClusters() {
    if (std::find(counts_.begin(), counts_.end(), 0) == counts_.end()) return;
    std::vector<double> row_error(static_cast<size_t>(points_.rows));
    std::vector<double> cluster_error(static_cast<size_t>(k_), 0.0);
    for (int64_t i = 0; i < points_.rows; ++i) {
      const int cluster = assignment_[static_cast<size_t>(i)];
      row_error[i] = SquaredDistance(points_, i, Centroid(cluster));
      cluster_error[cluster] += row_error[i];
    }
    for (int64_t j = 0; j < k_; ++j) {
      if (counts_[j] > 0) continue;
      const auto largest = std::max_element(cluster_error.begin(), cluster_error.end());
      if (*largest <= 0) return;
      const int64_t worst =
          WorstMember(static_cast<uint8_t>(largest - cluster_error.begin()), row_error);
      std::copy_n(Row(worst), points_.dim, Centroid(j));
      row_error[static_cast<size_t>(worst)] = 0;
      // The new centroid will draw about half of the cluster to itself.
      *largest /= 2;
    }
  }

  int64_t WorstMember(uint8_t cluster, const std::vector<double>& row_error) const {
    int64_t worst = -1;
    for (int64_t i = 0; i < points_.rows; ++i) {
      if (assignment_[static_cast<size_t>(i)] != cluster) continue;
      if (worst < 0 || row_error[i] > row_error[worst]) worst = i;
    }
    return worst;
  }

  const SubspacePoints points_;
  const int64_t k_;
  std::vector<float> centroids_;     // [K, D/M], relative to the mean
  AlignedBuffer<float> sums_;        // [K, stride]
  std::vector<int64_t> counts_;      // [K]
  std::vector<uint8_t> assignment_;  // [padded]
  std::vector<uint8_t> previous_;    // [padded]
};

}  // namespace

Result<std::vector<float>> TrainOwnKMeans(const KMeansProblem& problem) {
  std::vector<float> centroids;
  for (int m = 0; m < problem.shape.subspaces; ++m) {
    SubspaceKMeans(problem, m).AppendTo(&centroids);
  }
  return centroids;
}

}  // namespace pqcache::train
