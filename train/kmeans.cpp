#include "train/kmeans.h"

#include <string>

#include "pqcache/base/vector_math.h"
#include "train/subspace_points.h"

namespace pqcache::train {
namespace {

constexpr KMeansTrainer kTrainers[] = {
    {"own", "vectorised Lloyd iterations of this project, the faster one on a CPU", TrainOwnKMeans},
    {"faiss", "faiss::ProductQuantizer, the reference", TrainFaissKMeans},
};

Status CheckProblem(const KMeansProblem& problem) {
  PQCACHE_RETURN_IF_ERROR(problem.shape.Validate());
  if (problem.rows < problem.shape.centroids()) {
    return Status::InvalidArgument("k-means: found " + std::to_string(problem.rows) +
                                   " rows, expected at least one for each of " +
                                   std::to_string(problem.shape.centroids()) + " centroids");
  }
  if (problem.iterations < 1) {
    return Status::InvalidArgument("k-means: iterations is " + std::to_string(problem.iterations) +
                                   ", expected at least 1");
  }
  if (!AllFinite(problem.keys, problem.rows * problem.shape.dim)) {
    return Status::InvalidArgument("k-means: found numbers that are not finite in the keys");
  }
  return Status::Ok();
}

}  // namespace

std::span<const KMeansTrainer> KMeansTrainers() { return kTrainers; }

Result<std::vector<float>> TrainKMeans(std::string_view trainer, const KMeansProblem& problem) {
  std::string known;
  for (const KMeansTrainer& row : kTrainers) {
    if (row.name == trainer) {
      PQCACHE_RETURN_IF_ERROR(CheckProblem(problem));
      return row.train(problem);
    }
    known += (known.empty() ? "" : ", ") + std::string(row.name);
  }
  return Status::InvalidArgument("k-means trainer is '" + std::string(trainer) +
                                 "', expected one of: " + known);
}

double QuantizationError(const KMeansProblem& problem, std::span<const float> centroids) {
  const int sub_dim = problem.shape.sub_dim();
  const int64_t numbers = int64_t{problem.shape.centroids()} * sub_dim;
  std::vector<float> centered(static_cast<size_t>(numbers));
  double error = 0;
  for (int m = 0; m < problem.shape.subspaces; ++m) {
    const SubspacePoints points = LoadSubspace(problem, m);
    for (int64_t i = 0; i < numbers; ++i) {
      centered[i] = static_cast<float>(centroids[m * numbers + i] - points.mean[i % sub_dim]);
    }
    std::vector<uint8_t> nearest(static_cast<size_t>(points.padded));
    AssignPoints(points, centered, nearest);
    for (int64_t i = 0; i < points.rows; ++i) {
      error += SquaredDistance(points, i, &centered[int64_t{nearest[i]} * sub_dim]);
    }
  }
  return error / static_cast<double>(problem.rows);
}

}  // namespace pqcache::train
