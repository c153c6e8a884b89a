#include "pqcache/index/pq_index.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "pqcache/index/adc_scan.h"

namespace pqcache {

PqIndex::PqIndex(std::shared_ptr<const HeadCodebook> codebook) : codebook_(std::move(codebook)) {}

void PqIndex::Append(int64_t n, const float* keys) {
  const PqShape& shape = codebook_->shape();
  std::vector<uint8_t> codes(static_cast<size_t>(n) * shape.subspaces);
  const int64_t unmeasured =
      codebook_->residual() == 0 ? n : std::clamp<int64_t>(kBlockTokens - size_, 0, n);
  codebook_->Encode(size_, unmeasured, keys, codes.data());
  Distances more{.rows = n - unmeasured};
  codebook_->Encode(size_ + unmeasured, more.rows, keys + unmeasured * shape.dim,
                    codes.data() + unmeasured * shape.subspaces, &more.sum);
  for (Distances* d : {&all_, &current_}) {
    d->sum += more.sum;
    d->rows += more.rows;
  }
  if (current_.rows >= kRecentRows) previous_ = std::exchange(current_, {});
  AppendCodes(n, codes.data());
}

void PqIndex::AppendCodes(int64_t n, const uint8_t* codes) {
  if (codebook_->shape().bits == 8) return AppendPacked(n, codes);
  std::vector<uint8_t> packed(static_cast<size_t>(n * lines()));
  for (size_t i = 0; i < packed.size(); ++i) {
    packed[i] = static_cast<uint8_t>(codes[2 * i] | (codes[2 * i + 1] << 4));
  }
  AppendPacked(n, packed.data());
}

void PqIndex::AppendPacked(int64_t n, const uint8_t* packed) {
  const int64_t blocks = (size_ + n + kBlockTokens - 1) / kBlockTokens;
  codes_.Resize(static_cast<size_t>(blocks) * lines() * kBlockTokens);
  for (int64_t row = size_; row < size_ + n; ++row) {
    for (int line = 0; line < lines(); ++line) codes_[ByteOf(row, line)] = *packed++;
  }
  size_ += n;
}

void PqIndex::CopyPacked(int64_t begin, int64_t end, uint8_t* packed) const {
  for (int64_t row = begin; row < end; ++row) {
    for (int line = 0; line < lines(); ++line) *packed++ = codes_[ByteOf(row, line)];
  }
}

void PqIndex::Score(int g, const float* queries, float scale, int64_t begin, int64_t end,
                    float* scores) const {
  const PqShape& s = codebook_->shape();
  const size_t table_size = static_cast<size_t>(s.subspaces) * s.centroids();
  thread_local std::vector<float> tables;
  tables.resize(static_cast<size_t>(g) * table_size);
  codebook_->BuildTables(g, queries, scale, tables.data());
  for (int i = 0; i < g; ++i) {
    AdcScanScalar({.codes = codes_.data(),
                   .table = tables.data() + static_cast<size_t>(i) * table_size,
                   .subspaces = s.subspaces,
                   .bits = s.bits,
                   .begin = begin,
                   .end = end},
                  scores + i * (end - begin));
  }
  AddPositions(g, queries, scale, begin, end, scores);
}

void PqIndex::AddPositions(int g, const float* queries, float scale, int64_t begin, int64_t end,
                           float* scores) const {
  const PositionMean& mean = codebook_->position_mean();
  if (mean.empty() || begin == end) return;
  const int64_t first = begin / kPositionBlock, last = (end - 1) / kPositionBlock;
  thread_local std::vector<float> of_blocks;
  of_blocks.resize(static_cast<size_t>((last - first + 1) * g));
  mean.Score(g, queries, first, last - first + 1, of_blocks.data());
  for (int64_t row = begin; row < end; ++row) {
    const float* of_block = &of_blocks[static_cast<size_t>((row / kPositionBlock - first) * g)];
    for (int i = 0; i < g; ++i) scores[i * (end - begin) + row - begin] += scale * of_block[i];
  }
}

uint8_t PqIndex::CodeAt(int64_t row, int subspace) const {
  const bool packed = codebook_->shape().bits == 4;
  const int line = packed ? subspace / 2 : subspace;
  const uint8_t byte = codes_[ByteOf(row, line)];
  if (!packed) return byte;
  return subspace % 2 == 0 ? byte & 15 : byte >> 4;
}

void PqIndex::CopyCodes(int64_t begin, int64_t end, uint8_t* codes) const {
  const int subspaces = codebook_->shape().subspaces;
  for (int64_t row = begin; row < end; ++row) {
    for (int m = 0; m < subspaces; ++m) *codes++ = CodeAt(row, m);
  }
}

void PqIndex::Reconstruct(int64_t begin, int64_t end, float* keys) const {
  std::vector<uint8_t> codes(static_cast<size_t>(end - begin) * codebook_->shape().subspaces);
  CopyCodes(begin, end, codes.data());
  codebook_->Decode(begin, end - begin, codes.data(), keys);
}

PqIndex::Residuals PqIndex::residuals() const {
  if (all_.rows == 0) return {};
  const Distances newest{previous_.sum + current_.sum, previous_.rows + current_.rows};
  const auto relative = [&](const Distances& d) {
    return d.sum / static_cast<double>(d.rows) / codebook_->residual();
  };
  return {all_.rows, relative(all_), relative(newest)};
}

PqIndex::PqIndex(const PqIndex& other)
    : codebook_(other.codebook_),
      size_(other.size_),
      all_(other.all_),
      current_(other.current_),
      previous_(other.previous_) {
  codes_.Resize(other.codes_.size());
  std::copy_n(other.codes_.data(), codes_.size(), codes_.data());
}

std::unique_ptr<KeyIndex> PqIndex::Clone() const { return std::make_unique<PqIndex>(*this); }

}  // namespace pqcache
