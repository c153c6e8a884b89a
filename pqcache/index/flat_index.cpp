#include "pqcache/index/flat_index.h"

#include <algorithm>

#include "pqcache/base/vector_math.h"

namespace pqcache {

void FlatIndex::Append(int64_t n, const float* keys) {
  keys_.Resize(static_cast<size_t>((size_ + n) * dim_));
  std::copy_n(keys, n * dim_, keys_.data() + size_ * dim_);
  size_ += n;
}

void FlatIndex::Score(int g, const float* queries, float scale, int64_t begin, int64_t end,
                      float* scores) const {
  for (int i = 0; i < g; ++i) {
    DotRows(queries + static_cast<int64_t>(i) * dim_, keys_.data() + begin * dim_, dim_,
            end - begin, dim_, scale, scores + i * (end - begin));
  }
}

void FlatIndex::Reconstruct(int64_t begin, int64_t end, float* keys) const {
  std::copy_n(keys_.data() + begin * dim_, (end - begin) * dim_, keys);
}

std::unique_ptr<KeyIndex> FlatIndex::Clone() const {
  auto copy = std::make_unique<FlatIndex>(dim_);
  copy->Append(size_, keys_.data());
  return copy;
}

}  // namespace pqcache
