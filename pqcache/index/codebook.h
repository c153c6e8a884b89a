#pragma once

// Product-quantisation codebooks: one per layer and KV head, trained offline (train/), immutable
// once made and shared by any number of threads.
//
// What is coded of a key k is what its position does not say already (position_mean.h): k - m for
// the mean key m of its position. That is done in a rotated space: key_transform A maps the key,
// query_transform B maps the query, with <B q, A k> = <q, k> exactly (B = A^-T). Each of the M
// sub-vectors of A (k - m) is replaced by the number of its nearest centroid (L2). The score of a
// key is the inner product with what its codes say, plus <q, m>; larger is better.
// Source of the method: Jegou, Douze, Schmid, "Product quantization for nearest neighbor search",
// 2011; the query-aware rotation is described in train/rotation.h.
//
// Alphabet: D head size, M sub-spaces, K = 2^bits centroids each, D/M sub-dimension, N rows,
// G queries. All arrays are dense, row-major, float32.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pqcache/base/aligned_buffer.h"
#include "pqcache/base/checksum.h"
#include "pqcache/base/status.h"
#include "pqcache/index/position_mean.h"

namespace pqcache {

// "M x bits" over vectors of size dim.
struct PqShape {
  int dim = 0;
  int subspaces = 0;
  int bits = 0;

  int centroids() const { return 1 << bits; }
  int sub_dim() const { return dim / subspaces; }
  int bytes_per_key() const { return subspaces * bits / 8; }
  // "16x8"
  std::string Name() const;
  bool operator==(const PqShape&) const = default;

  // bits 4 or 8, M divides dim, and M even when bits is 4.
  Status Validate() const;
  // From "16x8".
  static Result<PqShape> Parse(std::string_view text, int dim);
};

// Of one layer and KV head.
class HeadCodebook {
 public:
  struct Parts {
    PqShape shape;
    std::vector<float> centroids;             // [M, K, D/M]
    std::vector<float> key_transform = {};    // A [D, D], or empty for the identity
    std::vector<float> query_transform = {};  // B [D, D], or empty for the identity
    PositionMean position_mean = {};          // of D channels, or empty
    // Mean squared distance of keys like those it was trained on, better of none of them, to what
    // their codes say, in the rotated space; 0: not known. ScoreNats goes by it, and keys that lie
    // much farther away are not what the codebook was made for.
    float residual = 0;
  };

  // Checks sizes and that every number is finite.
  static Result<HeadCodebook> Create(Parts parts);

  const PqShape& shape() const { return parts_.shape; }
  std::span<const float> centroids() const { return parts_.centroids; }
  std::span<const float> key_transform() const { return parts_.key_transform; }
  std::span<const float> query_transform() const { return parts_.query_transform; }
  const PositionMean& position_mean() const { return parts_.position_mean; }
  float residual() const { return parts_.residual; }
  // The same codebook with another residual.
  Result<HeadCodebook> WithResidual(float residual) const;
  // [M, K] half the squared lengths of the centroids.
  std::span<const float> half_norms() const { return half_norms_; }

  // codes [N, M], one byte a sub-space, of keys [N, D] at positions first, first + 1, ... A tie
  // goes to the lower centroid. The squared distances that residual() is the mean of are added to
  // *residuals, unless it is null.
  void Encode(int64_t first, int64_t n, const float* keys, uint8_t* codes,
              double* residuals = nullptr) const;
  // distances [N], in the rotated space, of keys [N, D] at those positions to what their codes
  // [N, M] say; not less than they are, whatever floats round.
  void Distances(int64_t first, int64_t n, const float* keys, const uint8_t* codes,
                 float* distances) const;
  // |score - <q, k>| of a query [D], without a scale, is at most its `slope` times the distance of
  // the key plus its `rounding`: <q, k> - score = <B q, A (k - m) - code>.
  struct ScoreError {
    float slope = 0, rounding = 0;
  };
  ScoreError ScoreErrorOf(const float* query) const;
  // By how many nats the mean exponential of a query's [D] logits, of keys that share a code, is
  // more than the exponential of their score times `scale`: half the variance of the logits, if
  // residuals are normal, as long as residual() says and as large in one channel as in another. 0
  // where it is not known.
  float ScoreNats(const float* query, float scale) const;
  // keys [N, D] of codes [N, M] at those positions: A^-1 applied to the centroids, plus the mean.
  void Decode(int64_t first, int64_t n, const uint8_t* codes, float* keys) const;
  // tables [G, M, K]: inner products of the transformed queries [G, D] with every centroid, times
  // `scale`. The score of a key is the sum of its M entries, and what the position mean adds.
  void BuildTables(int g, const float* queries, float scale, float* tables) const;

 private:
  explicit HeadCodebook(Parts parts);
  class Remainder;
  void EncodeBlock(int64_t first, const float* keys, Remainder* remainder, uint8_t* codes,
                   double* residuals) const;
  double RotatedLength(const float* query) const;  // |B q|
  double SquaredDistance(int subspace, int centroid, const float* point, int64_t stride) const;
  Parts parts_;
  std::vector<float> transposed_;  // [M, D/M, K] the centroids once more, for loops over K
  std::vector<float> half_norms_;  // [M, K]
};

// Of a whole model.
struct CodebookSet {
  Fingerprint model;     // of the checkpoint it was trained for
  std::string rotation;  // "none", "pca" or "query"
  std::string report;    // training report, JSON text
  int layers = 0;
  int kv_heads = 0;
  std::vector<HeadCodebook> heads;  // [layers, kv_heads]

  const HeadCodebook& head(int layer, int kv_head) const {
    return heads[static_cast<size_t>(layer) * kv_heads + kv_head];
  }
  const PqShape& shape() const { return heads.front().shape(); }
};

// InvalidArgument if the codebooks were trained for another model; `set` may be null.
Status CheckModelOf(const CodebookSet* set, const Fingerprint& model);

// Names what codes depend on: shapes, position means, transforms and centroids of all heads.
Fingerprint CodebooksFingerprint(const CodebookSet& set);

// One file, described in codebook_format.md. Load verifies magic, version, sizes and checksums
// before it uses a byte, and names the damaged block.
Status SaveCodebooks(const CodebookSet& set, const std::string& path);
Result<std::shared_ptr<const CodebookSet>> LoadCodebooks(const std::string& path);

// The same for the bytes of a file.
Result<std::string> EncodeCodebooks(const CodebookSet& set);
Result<std::shared_ptr<const CodebookSet>> DecodeCodebooks(std::string_view bytes);

}  // namespace pqcache
