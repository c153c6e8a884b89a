#pragma once

// Product-quantisation codes of one layer and KV head, scored by table look-up. Codes are never
// unpacked to wider types in memory. Row t is the key at position t: codebooks know what keys are
// on average at a position.
//
// Layout: blocks of 64 tokens; inside a block one line of 64 bytes per sub-space (8 bits), or per
// pair of sub-spaces (4 bits: the even one in the low nibble). A line is what one vector load
// takes, so SIMD scans need no other layout.

#include <memory>

#include "pqcache/base/aligned_buffer.h"
#include "pqcache/index/codebook.h"
#include "pqcache/index/key_index.h"

namespace pqcache {

class PqIndex : public KeyIndex {
 public:
  static constexpr int kBlockTokens = 64;

  // Shares ownership of the set that `codebook` is part of.
  explicit PqIndex(std::shared_ptr<const HeadCodebook> codebook);
  PqIndex(const PqIndex& other);

  void Append(int64_t n, const float* keys) override;
  // codes: [N, M], one byte each, as HeadCodebook::Encode writes them.
  void AppendCodes(int64_t n, const uint8_t* codes);
  // packed: [N, bytes_per_key()], the form that is stored: a byte per sub-space, or per pair of
  // sub-spaces with the even one in the low nibble.
  void AppendPacked(int64_t n, const uint8_t* packed);
  void CopyPacked(int64_t begin, int64_t end, uint8_t* packed) const;
  int64_t size() const override { return size_; }
  // Mean squared distances of keys to what their codes say, over the codebook's residual: about 1
  // for text like that of its training. Rows that came as codes do not count, nor does
  // the first block, where attention sinks lie far from everything.
  struct Residuals {
    int64_t rows = 0;   // that all of it is the mean of; 0: the rest means nothing
    double all = 0;     // of these rows
    double newest = 0;  // of the newest of them, kRecentRows or a little more
  };
  static constexpr int64_t kRecentRows = 512;
  Residuals residuals() const;
  const HeadCodebook& codebook() const { return *codebook_; }
  // Codes in the layout above, for scans.
  const uint8_t* blocks() const { return codes_.data(); }
  void Score(int g, const float* queries, float scale, int64_t begin, int64_t end,
             float* scores) const override;
  void Reconstruct(int64_t begin, int64_t end, float* keys) const override;
  uint64_t bytes() const override { return codes_.size(); }
  std::unique_ptr<KeyIndex> Clone() const override;

  // codes [end - begin, M], one byte each.
  void CopyCodes(int64_t begin, int64_t end, uint8_t* codes) const;

 private:
  void AddPositions(int g, const float* queries, float scale, int64_t begin, int64_t end,
                    float* scores) const;
  int lines() const { return codebook_->shape().bytes_per_key(); }  // of a block
  size_t ByteOf(int64_t row, int line) const {
    return static_cast<size_t>((row / kBlockTokens * lines() + line) * kBlockTokens +
                               row % kBlockTokens);
  }
  uint8_t CodeAt(int64_t row, int subspace) const;

  std::shared_ptr<const HeadCodebook> codebook_;
  int64_t size_ = 0;
  struct Distances {
    double sum = 0;  // of squares
    int64_t rows = 0;
  };
  Distances all_, current_, previous_;  // the last two of kRecentRows or more
  AlignedBuffer<uint8_t> codes_;
};

}  // namespace pqcache
