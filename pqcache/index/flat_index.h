#pragma once

// Exact inner products over float32 keys [T, D] in memory.

#include "pqcache/base/aligned_buffer.h"
#include "pqcache/index/key_index.h"

namespace pqcache {

class FlatIndex : public KeyIndex {
 public:
  explicit FlatIndex(int dim) : dim_(dim) {}

  void Append(int64_t n, const float* keys) override;
  int64_t size() const override { return size_; }
  void Score(int g, const float* queries, float scale, int64_t begin, int64_t end,
             float* scores) const override;
  void Reconstruct(int64_t begin, int64_t end, float* keys) const override;
  uint64_t bytes() const override { return keys_.size() * sizeof(float); }
  std::unique_ptr<KeyIndex> Clone() const override;

 private:
  int dim_;
  int64_t size_ = 0;
  AlignedBuffer<float> keys_;  // [T, D]
};

}  // namespace pqcache
