#include "pqcache/index/codebook.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "pqcache/base/vector_clones.h"
#include "pqcache/base/vector_math.h"
#include "pqcache/base/vector_registers.h"
#include "pqcache/index/nearest_centroid.h"

namespace pqcache {
namespace {

// Keys that are encoded together.
constexpr int64_t kEncodeBlock = 2 * kPointBlock;

// Relative to the lengths of its vectors in the rotated space, a score of rounded transforms and
// float32 sums is off by less than this: of transforms as train/rotation.h makes them, which
// stretch no direction 100 times as much as another, by a fortieth of it in the worst direction
// seen.
constexpr double kRounding = 0x1p-15;

Status CheckArray(std::span<const float> values, size_t expected, bool may_be_empty,
                  std::string_view name) {
  if (may_be_empty && values.empty()) return Status::Ok();
  if (values.size() != expected) {
    return Status::InvalidArgument(std::string(name) + " has " + std::to_string(values.size()) +
                                   " numbers, expected " + std::to_string(expected));
  }
  if (!AllFinite(values.data(), static_cast<int64_t>(values.size()))) {
    return Status::InvalidArgument(std::string(name) + " has numbers that are not finite");
  }
  return Status::Ok();
}

// y [D] = transform [D, D] x [D], or a copy when the transform is empty.
void Transform(std::span<const float> transform, int dim, const float* x, float* y) {
  if (transform.empty()) {
    std::copy_n(x, dim, y);
    return;
  }
  DotRows(x, transform.data(), dim, dim, dim, 1.0f, y);
}

// tables [G, K] = queries [G, sub_dim] times centroids, given transposed as [sub_dim, K]; rows of
// the queries and of the tables lie apart.
template <int kQueries>
PQCACHE_INLINE void Tables(const float* transposed, int sub_dim, int k, const float* queries,
                           int64_t query_stride, float* tables, int64_t table_stride) {
  for (int c = 0; c < k; c += 16) {
    Floats16 sums[kQueries] = {};
    for (int d = 0; d < sub_dim; ++d) {
      const Floats16 centroids = LoadFloats(transposed + d * k + c);
      for (int q = 0; q < kQueries; ++q) sums[q] += queries[q * query_stride + d] * centroids;
    }
    for (int q = 0; q < kQueries; ++q) {
      StoreFloats(sums[q], tables + q * table_stride + c);
    }
  }
}

constexpr int kTableQueries = 4;
PQCACHE_VECTOR_CLONES void FourTables(const float* transposed, int sub_dim, int k,
                                      const float* queries, int64_t query_stride, float* tables,
                                      int64_t table_stride) {
  Tables<kTableQueries>(transposed, sub_dim, k, queries, query_stride, tables, table_stride);
}
PQCACHE_VECTOR_CLONES void OneTable(const float* transposed, int sub_dim, int k,
                                    const float* queries, int64_t query_stride, float* tables,
                                    int64_t table_stride) {
  Tables<1>(transposed, sub_dim, k, queries, query_stride, tables, table_stride);
}

}  // namespace

std::string PqShape::Name() const { return std::to_string(subspaces) + "x" + std::to_string(bits); }

Status PqShape::Validate() const {
  if (bits != 4 && bits != 8) {
    return Status::InvalidArgument("PQ shape " + Name() + " has " + std::to_string(bits) +
                                   " bits, expected 4 or 8");
  }
  if (dim < 1 || dim > 4096) {
    return Status::InvalidArgument("PQ shape has head size " + std::to_string(dim) +
                                   ", expected 1 to 4096");
  }
  if (subspaces < 1 || dim % subspaces != 0) {
    return Status::InvalidArgument("PQ shape " + Name() + " does not divide the head size " +
                                   std::to_string(dim) + ", expected M that divides it");
  }
  if (bits == 4 && subspaces % 2 != 0) {
    return Status::InvalidArgument("PQ shape " + Name() +
                                   " has an odd number of 4-bit codes, expected an even M");
  }
  return Status::Ok();
}

Result<PqShape> PqShape::Parse(std::string_view text, int dim) {
  PqShape shape{.dim = dim};
  const char* end = text.data() + text.size();
  auto [x, first_error] = std::from_chars(text.data(), end, shape.subspaces);
  bool ok = first_error == std::errc() && x != end && *x == 'x';
  if (ok) {
    auto [rest, second_error] = std::from_chars(x + 1, end, shape.bits);
    ok = second_error == std::errc() && rest == end;
  }
  if (!ok) {
    return Status::InvalidArgument("PQ shape is '" + std::string(text) +
                                   "', expected MxBITS such as 16x8 or 32x4");
  }
  PQCACHE_RETURN_IF_ERROR(shape.Validate());
  return shape;
}

Result<HeadCodebook> HeadCodebook::WithResidual(float residual) const {
  Parts parts = parts_;
  parts.residual = residual;
  return Create(std::move(parts));
}

HeadCodebook::HeadCodebook(Parts parts) : parts_(std::move(parts)) {
  const PqShape& s = parts_.shape;
  const int k = s.centroids();
  const int sub = s.sub_dim();
  half_norms_.resize(static_cast<size_t>(s.subspaces) * k);
  transposed_.resize(parts_.centroids.size());
  for (int m = 0; m < s.subspaces; ++m) {
    for (int c = 0; c < k; ++c) {
      const float* centroid = parts_.centroids.data() + (static_cast<size_t>(m) * k + c) * sub;
      double norm = 0;
      for (int d = 0; d < sub; ++d) {
        norm += double{centroid[d]} * centroid[d];
        transposed_[(static_cast<size_t>(m) * sub + d) * k + c] = centroid[d];
      }
      half_norms_[static_cast<size_t>(m) * k + c] = static_cast<float>(0.5 * norm);
    }
  }
}

Result<HeadCodebook> HeadCodebook::Create(Parts parts) {
  PQCACHE_RETURN_IF_ERROR(parts.shape.Validate());
  const size_t dim = static_cast<size_t>(parts.shape.dim);
  const size_t k = static_cast<size_t>(parts.shape.centroids());
  PQCACHE_RETURN_IF_ERROR(CheckArray(parts.centroids, k * dim, false, "centroids"));
  PQCACHE_RETURN_IF_ERROR(CheckArray(parts.key_transform, dim * dim, true, "key transform"));
  PQCACHE_RETURN_IF_ERROR(CheckArray(parts.query_transform, dim * dim, true, "query transform"));
  if (parts.key_transform.empty() != parts.query_transform.empty()) {
    return Status::InvalidArgument("one of the key and query transforms is absent, expected both");
  }
  if (!std::isfinite(parts.residual) || parts.residual < 0) {
    return Status::InvalidArgument("residual is " + std::to_string(parts.residual) +
                                   ", expected a finite number that is not negative");
  }
  const PositionMean& mean = parts.position_mean;
  if (!mean.empty() && mean.mean().size() != dim) {
    return Status::InvalidArgument("position mean has " + std::to_string(mean.mean().size()) +
                                   " numbers, expected " + std::to_string(dim));
  }
  return HeadCodebook(std::move(parts));
}

// A key without the mean of its position, in the rotated space. Keys come in order of position.
class HeadCodebook::Remainder {
 public:
  explicit Remainder(const Parts& parts)
      : parts_(parts),
        means_(parts.position_mean, parts.shape.dim),
        centred_(static_cast<size_t>(parts.shape.dim)) {}

  // out [D].
  void Of(int64_t position, const float* key, float* out) {
    const int dim = parts_.shape.dim;
    if (!parts_.position_mean.empty()) {
      const std::vector<float>& mean = means_.At(position);
      for (size_t d = 0; d < centred_.size(); ++d) centred_[d] = key[d] - mean[d];
      key = centred_.data();
    }
    Transform(parts_.key_transform, dim, key, out);
  }

 private:
  const Parts& parts_;
  BlockMeans means_;
  std::vector<float> centred_;
};

// Of a sub-vector whose coordinates lie `stride` apart.
double HeadCodebook::SquaredDistance(int subspace, int centroid, const float* point,
                                     int64_t stride) const {
  const int sub = parts_.shape.sub_dim();
  const size_t row = static_cast<size_t>(subspace) * parts_.shape.centroids() + centroid;
  const float* c = &parts_.centroids[row * sub];
  double sum = 0;
  for (int d = 0; d < sub; ++d)
    sum += double{point[d * stride] - c[d]} * (point[d * stride] - c[d]);
  return sum;
}

void HeadCodebook::Encode(int64_t first, int64_t n, const float* keys, uint8_t* codes,
                          double* residuals) const {
  const PqShape& s = parts_.shape;
  Remainder remainder(parts_);
  while (n >= kEncodeBlock) {
    EncodeBlock(first, keys, &remainder, codes, residuals);
    first += kEncodeBlock;
    n -= kEncodeBlock;
    keys += kEncodeBlock * s.dim;
    codes += kEncodeBlock * s.subspaces;
  }
  const int k = s.centroids();
  const int sub = s.sub_dim();
  std::vector<float> rotated(static_cast<size_t>(s.dim));
  for (int64_t i = 0; i < n; ++i) {
    remainder.Of(first + i, keys + i * s.dim, rotated.data());
    double distance = 0;
    for (int m = 0; m < s.subspaces; ++m) {
      codes[i * s.subspaces + m] =
          FindNearestCentroid({.dim = sub,
                               .centroids = k,
                               .point = rotated.data() + m * sub,
                               .columns = &transposed_[static_cast<size_t>(m) * sub * k],
                               .half_norms = &half_norms_[static_cast<size_t>(m) * k]});
      if (residuals != nullptr) {
        distance += SquaredDistance(m, codes[i * s.subspaces + m], rotated.data() + m * sub, 1);
      }
    }
    if (residuals != nullptr) *residuals += distance;
  }
}

// The same codes to the bit as one by one: each sum is taken in the same order.
void HeadCodebook::EncodeBlock(int64_t first, const float* keys, Remainder* remainder,
                               uint8_t* codes, double* residuals) const {
  const PqShape& s = parts_.shape;
  const int sub = s.sub_dim();
  const auto k = static_cast<size_t>(s.centroids());
  thread_local AlignedBuffer<float> coordinates;  // [D, block]
  coordinates.Resize(static_cast<size_t>(s.dim * kEncodeBlock));
  std::vector<float> rotated(static_cast<size_t>(s.dim));
  for (int64_t i = 0; i < kEncodeBlock; ++i) {
    remainder->Of(first + i, keys + i * s.dim, rotated.data());
    for (int d = 0; d < s.dim; ++d) coordinates[d * kEncodeBlock + i] = rotated[d];
  }
  uint8_t nearest[kEncodeBlock];
  double distances[kEncodeBlock] = {};
  for (int m = 0; m < s.subspaces; ++m) {
    const size_t row = static_cast<size_t>(m) * k;
    FindNearestCentroids({.points = kEncodeBlock,
                          .dim = sub,
                          .centroids = s.centroids(),
                          .coordinates = coordinates.data() + int64_t{m} * sub * kEncodeBlock,
                          .centroid_rows = parts_.centroids.data() + row * sub,
                          .half_norms = half_norms_.data() + row},
                         nearest);
    const float* points = coordinates.data() + int64_t{m} * sub * kEncodeBlock;
    for (int64_t i = 0; i < kEncodeBlock; ++i) {
      codes[i * s.subspaces + m] = nearest[i];
      if (residuals != nullptr) {
        distances[i] += SquaredDistance(m, nearest[i], points + i, kEncodeBlock);
      }
    }
  }
  if (residuals == nullptr) return;
  for (const double distance : distances) *residuals += distance;
}

void HeadCodebook::Distances(int64_t first, int64_t n, const float* keys, const uint8_t* codes,
                             float* distances) const {
  const PqShape& s = parts_.shape;
  Remainder remainder(parts_);
  std::vector<float> rotated(static_cast<size_t>(s.dim));
  for (int64_t i = 0; i < n; ++i) {
    remainder.Of(first + i, keys + i * s.dim, rotated.data());
    double distance = 0;
    for (int m = 0; m < s.subspaces; ++m) {
      distance +=
          SquaredDistance(m, codes[i * s.subspaces + m], rotated.data() + m * s.sub_dim(), 1);
    }
    distances[i] =
        static_cast<float>(std::sqrt(distance) + kRounding * Length(rotated.data(), s.dim));
  }
}

HeadCodebook::ScoreError HeadCodebook::ScoreErrorOf(const float* query) const {
  const std::span<const float> mean = parts_.position_mean.mean();
  const double of_mean = Length(mean.data(), std::ssize(mean)) * Length(query, parts_.shape.dim);
  return {static_cast<float>((1 + kRounding) * RotatedLength(query)),
          static_cast<float>(kRounding * of_mean)};
}

float HeadCodebook::ScoreNats(const float* query, float scale) const {
  if (parts_.residual == 0) return 0;
  const double length = scale * RotatedLength(query);
  return static_cast<float>(0.5 * length * length * parts_.residual / parts_.shape.dim);
}

double HeadCodebook::RotatedLength(const float* query) const {
  thread_local std::vector<float> rotated;
  rotated.resize(static_cast<size_t>(parts_.shape.dim));
  Transform(parts_.query_transform, parts_.shape.dim, query, rotated.data());
  return Length(rotated.data(), parts_.shape.dim);
}

void HeadCodebook::Decode(int64_t first, int64_t n, const uint8_t* codes, float* keys) const {
  const PqShape& s = parts_.shape;
  const int sub = s.sub_dim();
  std::vector<float> rotated(static_cast<size_t>(s.dim));
  BlockMeans means(parts_.position_mean, s.dim);
  for (int64_t i = 0; i < n; ++i) {
    for (int m = 0; m < s.subspaces; ++m) {
      const size_t row = static_cast<size_t>(m) * s.centroids() + codes[i * s.subspaces + m];
      std::copy_n(&parts_.centroids[row * sub], sub, &rotated[static_cast<size_t>(m) * sub]);
    }
    float* key = keys + i * s.dim;
    std::copy_n(means.At(first + i).data(), s.dim, key);
    if (parts_.query_transform.empty()) {
      AddScaled(1.0f, rotated.data(), s.dim, key);
      continue;
    }
    // A^-1 = B^T, because <B q, A k> = <q, k> for all q and k.
    for (int d = 0; d < s.dim; ++d) {
      AddScaled(rotated[static_cast<size_t>(d)],
                &parts_.query_transform[static_cast<size_t>(d) * s.dim], s.dim, key);
    }
  }
}

void HeadCodebook::BuildTables(int g, const float* queries, float scale, float* tables) const {
  const PqShape& s = parts_.shape;
  const int k = s.centroids();
  const int sub = s.sub_dim();
  const int64_t table_size = int64_t{s.subspaces} * k;
  thread_local std::vector<float> rotated;
  rotated.resize(static_cast<size_t>(g) * s.dim);
  for (int i = 0; i < g; ++i) {
    Transform(parts_.query_transform, s.dim, queries + static_cast<size_t>(i) * s.dim,
              &rotated[static_cast<size_t>(i) * s.dim]);
  }
  for (float& x : rotated) x *= scale;
  for (int m = 0; m < s.subspaces; ++m) {
    const float* centroids = &transposed_[static_cast<size_t>(m) * sub * k];
    int i = 0;
    for (; i + kTableQueries <= g; i += kTableQueries) {
      FourTables(centroids, sub, k, &rotated[static_cast<size_t>(i * s.dim + m * sub)], s.dim,
                 tables + i * table_size + m * k, table_size);
    }
    for (; i < g; ++i) {
      OneTable(centroids, sub, k, &rotated[static_cast<size_t>(i * s.dim + m * sub)], s.dim,
               tables + i * table_size + m * k, table_size);
    }
  }
}

Status CheckModelOf(const CodebookSet* set, const Fingerprint& model) {
  if (set == nullptr || set->model == model) return Status::Ok();
  return Status::InvalidArgument("codebooks were trained for model " + set->model.Hex() +
                                 ", expected " + model.Hex() +
                                 ": train them again for this checkpoint");
}

Fingerprint CodebooksFingerprint(const CodebookSet& set) {
  std::string text = std::to_string(set.layers) + " " + std::to_string(set.kv_heads);
  for (const HeadCodebook& head : set.heads) {
    text += " " + std::to_string(head.shape().dim) + " " + head.shape().Name();
    std::vector<std::span<const float>> parts = {head.centroids(), head.key_transform(),
                                                 head.query_transform()};
    if (const PositionMean& mean = head.position_mean(); !mean.empty()) {
      parts.insert(parts.end(), {mean.mean(), mean.frequencies()});
    }
    for (const std::span<const float> part : parts) {
      const std::string_view bytes(reinterpret_cast<const char*>(part.data()), part.size_bytes());
      text += " " + FingerprintOf(bytes).Hex();
    }
  }
  return FingerprintOf(text);
}

}  // namespace pqcache
