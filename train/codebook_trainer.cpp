#include "train/codebook_trainer.h"

#include <mutex>
#include <unordered_set>
#include <utility>
#include <vector>

#include "pqcache/base/check.h"
#include "pqcache/base/checksum.h"
#include "pqcache/base/json.h"
#include "pqcache/base/random.h"
#include "train/kmeans.h"
#include "train/linear_algebra.h"

namespace pqcache::train {
namespace {

struct TrainedHead {
  HeadCodebook codebook;
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

Result<TrainedHead> TrainHead(const HeadSamples& samples, const TrainOptions& options,
                              uint64_t seed) {
  const PqShape& shape = options.shape;
  if (samples.keys.size() % static_cast<size_t>(shape.dim) != 0 ||
      samples.queries.size() % static_cast<size_t>(shape.dim) != 0) {
    return Status::InvalidArgument("samples are not whole rows of " + std::to_string(shape.dim) +
                                   " numbers");
  }
  PQCACHE_RETURN_IF_ERROR(CheckDistinct(samples.keys, shape));
  PQCACHE_ASSIGN_OR_RETURN(KeyRotation rotation,
                           BuildRotation(options.rotation, shape, samples.keys, samples.queries));
  const int64_t rows = std::ssize(samples.keys) / shape.dim;
  std::vector<float> rotated = samples.keys;
  if (!rotation.key_transform.empty()) {
    MultiplyTransposed(rows, shape.dim, shape.dim, samples.keys.data(),
                       rotation.key_transform.data(), rotated.data());
  }
  const KMeansProblem problem{.shape = shape,
                              .rows = rows,
                              .keys = rotated.data(),
                              .iterations = options.iterations,
                              .seed = seed};
  PQCACHE_ASSIGN_OR_RETURN(std::vector<float> centroids, TrainKMeans(options.trainer, problem));
  const double relative_error =
      QuantizationError(problem, centroids) / TotalVariance(rotated, shape.dim);
  PQCACHE_ASSIGN_OR_RETURN(
      HeadCodebook codebook,
      HeadCodebook::Create({.shape = shape,
                            .centroids = std::move(centroids),
                            .key_transform = std::move(rotation.key_transform),
                            .query_transform = std::move(rotation.query_transform)}));
  return TrainedHead{std::move(codebook), relative_error};
}

std::string ReportText(const KeySamples& samples, const TrainOptions& options,
                       const std::vector<double>& relative_errors) {
  Json report;
  report.Set("shape", options.shape.Name());
  report.Set("rotation", RotationName(options.rotation));
  report.Set("trainer", options.trainer);
  report.Set("iterations", options.iterations);
  // A seed may exceed what a JSON integer holds.
  report.Set("seed", std::to_string(options.seed));
  report.Set("rows_left_out", samples.left_out);
  Json heads{Json::Array{}};
  for (size_t i = 0; i < relative_errors.size(); ++i) {
    Json head;
    head.Set("keys", samples.heads[i].keys.size() / static_cast<size_t>(samples.dim));
    head.Set("queries", samples.heads[i].queries.size() / static_cast<size_t>(samples.dim));
    head.Set("relative_error", relative_errors[i]);
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
  std::vector<double> relative_errors;
  for (int64_t i = 0; i < count; ++i) {
    PQCACHE_RETURN_IF_ERROR(
        trained[i].status().Annotate("layer " + std::to_string(i / samples.kv_heads) + " head " +
                                     std::to_string(i % samples.kv_heads)));
    relative_errors.push_back(trained[i]->relative_error);
    set.heads.push_back(std::move(trained[i]->codebook));
  }
  set.report = ReportText(samples, options, relative_errors);
  return set;
}

}  // namespace pqcache::train
