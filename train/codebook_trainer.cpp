#include "train/codebook_trainer.h"

#include <cmath>
#include <mutex>
#include <unordered_set>
#include <utility>
#include <vector>

#include "pqcache/base/check.h"
#include "pqcache/base/checksum.h"
#include "pqcache/base/json.h"
#include "pqcache/base/random.h"
#include "train/key_means.h"
#include "train/kmeans.h"
#include "train/linear_algebra.h"

namespace pqcache::train {
namespace {

struct TrainedHead {
  HeadCodebook codebook;
  double variance_left = 1;
  double relative_error = 0;
};

Status CheckSamples(const KeySamples& samples, const TrainOptions& options) {
  PQCACHE_RETURN_IF_ERROR(options.shape.Validate());
  if (samples.dim != options.shape.dim) {
    return Status::InvalidArgument("samples have head size " + std::to_string(samples.dim) +
                                   ", expected " + std::to_string(options.shape.dim) +
                                   " as in the PQ shape");
  }
  const int64_t heads = int64_t{samples.layers} * samples.kv_heads;
  if (samples.layers < 1 || samples.kv_heads < 1 || std::ssize(samples.heads) != heads) {
    return Status::InvalidArgument("samples have " + std::to_string(samples.heads.size()) +
                                   " heads, expected " + std::to_string(samples.layers) +
                                   " layers x " + std::to_string(samples.kv_heads) + " KV heads");
  }
  return Status::Ok();
}

// Error if fewer than `centroids` of the rows of keys [N, D] differ.
Status CheckDistinct(const std::vector<float>& keys, const PqShape& shape) {
  const auto dim = static_cast<size_t>(shape.dim);
  std::unordered_set<uint64_t> distinct;
  for (size_t begin = 0; begin + dim <= keys.size(); begin += dim) {
    distinct.insert(Checksum64(&keys[begin], dim * sizeof(float)));
    if (std::ssize(distinct) >= shape.centroids()) return Status::Ok();
  }
  return Status::InvalidArgument(
      "found " + std::to_string(distinct.size()) + " distinct sample keys, expected at least " +
      std::to_string(shape.centroids()) + " for " + shape.Name() + " codes");
}

// Queries that count as often as they have keys to choose from: [Nq, D], each times the root of its
// position, for second moments.
std::vector<float> QueriesByPosition(const HeadSamples& samples, int dim) {
  std::vector<float> weighted = samples.queries;
  for (size_t i = 0; i < samples.query_positions.size(); ++i) {
    const auto weight = static_cast<float>(std::sqrt(samples.query_positions[i] + 1.0));
    float* query = weighted.data() + i * static_cast<size_t>(dim);
    for (int d = 0; d < dim; ++d) query[d] *= weight;
  }
  return weighted;
}

Result<TrainedHead> TrainHead(const HeadSamples& samples, const TrainOptions& options,
                              uint64_t seed) {
  const PqShape& shape = options.shape;
  if (samples.keys.size() % static_cast<size_t>(shape.dim) != 0 ||
      samples.queries.size() % static_cast<size_t>(shape.dim) != 0) {
    return Status::InvalidArgument("samples are not whole rows of " + std::to_string(shape.dim) +
                                   " numbers");
  }
  PQCACHE_RETURN_IF_ERROR(CheckDistinct(samples.keys, shape));
  if (std::ssize(samples.positions) * shape.dim != std::ssize(samples.keys) ||
      std::ssize(samples.query_positions) * shape.dim != std::ssize(samples.queries)) {
    return Status::InvalidArgument(
        "samples have " + std::to_string(samples.positions.size()) + " positions of " +
        std::to_string(std::ssize(samples.keys) / shape.dim) + " keys and " +
        std::to_string(samples.query_positions.size()) + " of " +
        std::to_string(std::ssize(samples.queries) / shape.dim) +
        " queries, expected one for each");
  }
  std::vector<float> keys = samples.keys;
  PositionMean mean;
  double variance_left = 1;
  if (!options.frequencies.empty()) {
    PQCACHE_ASSIGN_OR_RETURN(
        mean, MeasurePositionMean(shape.dim, keys, samples.positions, options.frequencies));
    const double variance = TotalVariance(keys, shape.dim);
    SubtractPositionMean(mean, samples.positions, shape.dim, &keys);
    if (variance > 0) variance_left = TotalVariance(keys, shape.dim) / variance;
  }
  PQCACHE_ASSIGN_OR_RETURN(
      KeyRotation rotation,
      BuildRotation(options.rotation, shape, keys, QueriesByPosition(samples, shape.dim)));
  const int64_t rows = std::ssize(keys) / shape.dim;
  std::vector<float> rotated = keys;
  if (!rotation.key_transform.empty()) {
    MultiplyTransposed(rows, shape.dim, shape.dim, keys.data(), rotation.key_transform.data(),
                       rotated.data());
  }
  const KMeansProblem problem{.shape = shape,
                              .rows = rows,
                              .keys = rotated.data(),
                              .iterations = options.iterations,
                              .seed = seed};
  PQCACHE_ASSIGN_OR_RETURN(std::vector<float> centroids, TrainKMeans(options.trainer, problem));
  const double residual = QuantizationError(problem, centroids);
  const double relative_error = residual / TotalVariance(rotated, shape.dim);
  PQCACHE_ASSIGN_OR_RETURN(
      HeadCodebook codebook,
      HeadCodebook::Create({.shape = shape,
                            .centroids = std::move(centroids),
                            .key_transform = std::move(rotation.key_transform),
                            .query_transform = std::move(rotation.query_transform),
                            .position_mean = std::move(mean),
                            .residual = static_cast<float>(residual)}));
  return TrainedHead{std::move(codebook), variance_left, relative_error};
}

std::string ReportText(const KeySamples& samples, const TrainOptions& options,
                       const std::vector<Result<TrainedHead>>& trained) {
  Json report;
  report.Set("shape", options.shape.Name());
  report.Set("rotation", RotationName(options.rotation));
  report.Set("position_mean", !options.frequencies.empty());
  report.Set("trainer", options.trainer);
  report.Set("iterations", options.iterations);
  // A seed may exceed what a JSON integer holds.
  report.Set("seed", std::to_string(options.seed));
  report.Set("rows_left_out", samples.left_out);
  Json heads{Json::Array{}};
  for (size_t i = 0; i < trained.size(); ++i) {
    Json head;
    head.Set("keys", samples.heads[i].keys.size() / static_cast<size_t>(samples.dim));
    head.Set("queries", samples.heads[i].queries.size() / static_cast<size_t>(samples.dim));
    head.Set("variance_left", trained[i]->variance_left);
    head.Set("relative_error", trained[i]->relative_error);
    heads.Push(std::move(head));
  }
  report.Set("heads", std::move(heads));
  return report.Dump();
}

}  // namespace

Result<CodebookSet> TrainCodebooks(const KeySamples& samples, const TrainOptions& options,
                                   ThreadPool* pool, const TrainProgress& progress) {
  PQCACHE_CHECK(pool != nullptr, "training needs a thread pool");
  PQCACHE_RETURN_IF_ERROR(CheckSamples(samples, options));
  const int64_t count = std::ssize(samples.heads);
  std::vector<Result<TrainedHead>> trained(static_cast<size_t>(count),
                                           Status::Internal("not trained"));
  std::mutex progress_mutex;
  int64_t done = 0;
  pool->Run(count, [&](int64_t i) {
    trained[i] = TrainHead(samples.heads[i], options, MixSeed(options.seed, i));
    const std::lock_guard lock(progress_mutex);
    ++done;
    if (progress) progress(static_cast<double>(done) / static_cast<double>(count));
  });

  CodebookSet set;
  set.rotation = RotationName(options.rotation);
  set.layers = samples.layers;
  set.kv_heads = samples.kv_heads;
  for (int64_t i = 0; i < count; ++i) {
    PQCACHE_RETURN_IF_ERROR(
        trained[i].status().Annotate("layer " + std::to_string(i / samples.kv_heads) + " head " +
                                     std::to_string(i % samples.kv_heads)));
    set.heads.push_back(std::move(trained[i]->codebook));
  }
  set.report = ReportText(samples, options, trained);
  return set;
}

}  // namespace pqcache::train
