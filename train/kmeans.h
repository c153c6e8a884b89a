#pragma once

// k-means for product quantisation: M independent clusterings of the sub-vectors of one head.
//
// Every trainer runs Lloyd's iterations (Lloyd, 1982) from K distinct random rows, gives equal
// bytes for equal input and seed on one machine, uses one thread, and may run on many threads at
// once.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pqcache/base/status.h"
#include "pqcache/index/codebook.h"

namespace pqcache::train {

struct KMeansProblem {
  PqShape shape;
  int64_t rows = 0;             // N >= K
  const float* keys = nullptr;  // [N, D], rotated, finite
  int iterations = 25;
  uint64_t seed = 0;
};

// Gives centroids [M, K, D/M], all finite.
using KMeansFunction = Result<std::vector<float>> (*)(const KMeansProblem&);

struct KMeansTrainer {
  std::string_view name;
  std::string_view help;
  KMeansFunction train;
};

// The list of all trainers; the first is the default.
std::span<const KMeansTrainer> KMeansTrainers();
// The function of a row of the list, after a check of the problem. An unknown name is an error that
// lists the known ones.
Result<std::vector<float>> TrainKMeans(std::string_view trainer, const KMeansProblem& problem);

// Mean over the rows of the squared distance between a key [D] and its nearest centroids [M, K,
// D/M].
double QuantizationError(const KMeansProblem& problem, std::span<const float> centroids);

// Rows of the list. `own` assigns with vector instructions, and moves the centroid of an empty
// cluster to the worst-coded member of the cluster with the largest error.
Result<std::vector<float>> TrainOwnKMeans(const KMeansProblem& problem);
Result<std::vector<float>> TrainFaissKMeans(const KMeansProblem& problem);

// Of FAISS' headers, e.g. "1.7.3".
std::string FaissVersion();

}  // namespace pqcache::train
