#pragma once

// Selection by FAISS over the codes of one KV head: what benchmarks compare with. One FAISS thread;
// one caller thread at a time.

#include <cstdint>
#include <memory>
#include <vector>

#include "pqcache/base/status.h"
#include "pqcache/index/pq_index.h"

namespace pqcache::train {

enum class FaissKind {
  kIndexPq,   // faiss::IndexPQ
  kFastScan,  // faiss::IndexPQFastScan; codes of 4 bits
};

class FaissSelection {
 public:
  // A copy of the index. InvalidArgument if its codebook has transforms.
  static Result<std::unique_ptr<FaissSelection>> Create(FaissKind kind, const PqIndex& index);
  ~FaissSelection();

  // rows [G, k]: the best by inner product for queries [G, D], in FAISS' order.
  Status Search(int g, const float* queries, int64_t k, std::vector<int64_t>* rows);

 private:
  struct Impl;
  explicit FaissSelection(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pqcache::train
