#include "train/faiss_selection.h"

#include <faiss/IndexPQ.h>
#include <faiss/IndexPQFastScan.h>

#include <exception>
#include <string>

#include "pqcache/base/single_thread.h"

namespace pqcache::train {

struct FaissSelection::Impl {
  std::unique_ptr<faiss::Index> index;
  std::vector<float> scores;
};

FaissSelection::FaissSelection(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
FaissSelection::~FaissSelection() = default;

Result<std::unique_ptr<FaissSelection>> FaissSelection::Create(FaissKind kind,
                                                               const PqIndex& index) {
  const HeadCodebook& codebook = index.codebook();
  const PqShape& shape = codebook.shape();
  if (!codebook.key_transform().empty()) {
    return Status::InvalidArgument("the codebook has transforms, which FAISS does not know");
  }
  if (!codebook.position_mean().empty()) {
    return Status::InvalidArgument("the codebook has position means, which FAISS does not know");
  }
  if (kind == FaissKind::kFastScan && shape.bits != 4) {
    return Status::InvalidArgument("FastScan has codes of 4 bits, found " + shape.Name());
  }
  try {
    auto pq = std::make_unique<faiss::IndexPQ>(shape.dim, shape.subspaces, shape.bits,
                                               faiss::METRIC_INNER_PRODUCT);
    pq->pq.centroids.assign(codebook.centroids().begin(), codebook.centroids().end());
    pq->is_trained = true;
    pq->codes.resize(static_cast<size_t>(index.size() * shape.bytes_per_key()));
    index.CopyPacked(0, index.size(), pq->codes.data());
    pq->ntotal = index.size();
    auto impl = std::make_unique<Impl>();
    if (kind == FaissKind::kFastScan) {
      impl->index = std::make_unique<faiss::IndexPQFastScan>(*pq);
    } else {
      impl->index = std::move(pq);
    }
    return std::unique_ptr<FaissSelection>(new FaissSelection(std::move(impl)));
  } catch (const std::exception& e) {
    return Status::Internal(std::string("FAISS: ") + e.what());
  }
}

Status FaissSelection::Search(int g, const float* queries, int64_t k, std::vector<int64_t>* rows) {
  const SingleThreadScope single_thread;
  rows->resize(static_cast<size_t>(g * k));
  impl_->scores.resize(rows->size());
  try {
    impl_->index->search(g, queries, k, impl_->scores.data(), rows->data());
    return Status::Ok();
  } catch (const std::exception& e) {
    return Status::Internal(std::string("FAISS: ") + e.what());
  }
}

}  // namespace pqcache::train
