#pragma once

// Scores of the keys of one layer and KV head. Two forms of one interface: PqIndex (codes, small,
// approximate) and FlatIndex (the keys themselves, exact: the oracle of the other).
//
// Append needs exclusive access; const functions may run together from many threads.
// Row number = order of Append, from 0. Scores are scaled inner products; larger is better.

#include <cstdint>
#include <memory>

namespace pqcache {

class KeyIndex {
 public:
  virtual ~KeyIndex() = default;

  // keys: [N, D] float32, finite.
  virtual void Append(int64_t n, const float* keys) = 0;
  virtual int64_t size() const = 0;
  // scores [G, end - begin] = scale * <query g, key t> for queries [G, D] and rows t in
  // [begin, end), 0 <= begin <= end <= size().
  virtual void Score(int g, const float* queries, float scale, int64_t begin, int64_t end,
                     float* scores) const = 0;
  // keys [end - begin, D] as the index knows them (decoded codes, or exact).
  virtual void Reconstruct(int64_t begin, int64_t end, float* keys) const = 0;
  // Memory of codes or keys.
  virtual uint64_t bytes() const = 0;
  // An independent copy of the same kind and contents.
  virtual std::unique_ptr<KeyIndex> Clone() const = 0;
};

}  // namespace pqcache
