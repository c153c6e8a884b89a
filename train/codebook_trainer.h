#pragma once

// From samples to the codebooks of a model: per layer and KV head the mean key of every position
// (key_means.h), which is taken off, a rotation (rotation.h) for what is left, then k-means
// (kmeans.h) over the rotated rest.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "pqcache/base/status.h"
#include "pqcache/base/thread_pool.h"
#include "pqcache/index/codebook.h"
#include "train/key_sampler.h"
#include "train/rotation.h"

namespace pqcache::train {

struct TrainOptions {
  PqShape shape;
  Rotation rotation = Rotation::kQuery;
  // Of the model's rotary embedding, radians per position [R/2]; empty: no position mean.
  std::vector<float> frequencies;
  std::string trainer = "own";  // a row of KMeansTrainers()
  int iterations = 25;
  uint64_t seed = 0;
};

// Share of the heads done, in (0, 1], growing. Called by one thread at a time, not always the same.
using TrainProgress = std::function<void(double)>;

// Trains all heads, spread over the pool. Equal samples and options give equal bytes, whatever the
// number of threads. `report` in the result is JSON: the options, and per head the number of
// samples, the share of their variance that the position mean leaves, and the quantisation error
// relative to what is left, in the rotated space.
// The model's fingerprint is left for the caller to fill in. `progress` may be empty.
//
// Errors: options or sizes that do not fit together, fewer distinct keys than centroids, samples
// that are not finite; those of a head name its layer and KV head.
Result<CodebookSet> TrainCodebooks(const KeySamples& samples, const TrainOptions& options,
                                   ThreadPool* pool, const TrainProgress& progress = {});

}  // namespace pqcache::train
