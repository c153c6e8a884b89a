#include <faiss/Index.h>
#include <faiss/impl/ProductQuantizer.h>

#include <exception>
#include <limits>
#include <string>

#include "pqcache/base/single_thread.h"
#include "train/kmeans.h"

namespace pqcache::train {

Result<std::vector<float>> TrainFaissKMeans(const KMeansProblem& problem) {
  const SingleThreadScope single_thread;
  try {
    faiss::ProductQuantizer quantizer(static_cast<size_t>(problem.shape.dim),
                                      static_cast<size_t>(problem.shape.subspaces),
                                      static_cast<size_t>(problem.shape.bits));
    quantizer.cp.niter = problem.iterations;
    quantizer.cp.seed = static_cast<int>(problem.seed % std::numeric_limits<int>::max());
    // All rows are used, and few of them are no reason for a warning.
    quantizer.cp.min_points_per_centroid = 1;
    quantizer.cp.max_points_per_centroid = std::numeric_limits<int>::max();
    quantizer.train(static_cast<int>(problem.rows), problem.keys);
    return quantizer.centroids;
  } catch (const std::exception& e) {
    return Status::Internal(std::string("FAISS could not train: ") + e.what());
  }
}

std::string FaissVersion() {
  return std::to_string(FAISS_VERSION_MAJOR) + "." + std::to_string(FAISS_VERSION_MINOR) + "." +
         std::to_string(FAISS_VERSION_PATCH);
}

}  // namespace pqcache::train
