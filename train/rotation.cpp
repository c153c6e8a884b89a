#include "train/rotation.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "pqcache/base/vector_math.h"
#include "train/linear_algebra.h"

namespace pqcache::train {
namespace {

constexpr double kDiagonalLoad = 1e-3;
constexpr double kSmallestEigenvalue = 1e-4;
constexpr double kSmallestVariance = 1e-6;

struct RotationRow {
  Rotation rotation;
  std::string_view name;
};
constexpr RotationRow kRotations[] = {
    {Rotation::kNone, "none"}, {Rotation::kPca, "pca"}, {Rotation::kQuery, "query"}};

// C^(1/2) and C^(-1/2) of the queries' second moment C.
struct Weighting {
  std::vector<double> root;          // W [D, D]
  std::vector<double> inverse_root;  // W^-1 [D, D]
};

std::vector<double> Identity(int dim) {
  std::vector<double> identity(static_cast<size_t>(dim) * dim, 0.0);
  for (int i = 0; i < dim; ++i) identity[static_cast<size_t>(i) * dim + i] = 1.0;
  return identity;
}

// Sum over i of scale_i v_i v_i^T.
std::vector<double> Compose(const SymmetricEigen& eigen, std::span<const double> scales, int dim) {
  std::vector<double> matrix(static_cast<size_t>(dim) * dim, 0.0);
  for (int i = 0; i < dim; ++i) {
    const double* v = eigen.vectors.data() + static_cast<size_t>(i) * dim;
    for (int r = 0; r < dim; ++r) {
      for (int c = 0; c < dim; ++c) matrix[r * dim + c] += scales[i] * v[r] * v[c];
    }
  }
  return matrix;
}

Result<Weighting> WeightingOf(std::span<const float> queries, int dim) {
  const std::vector<double> origin(static_cast<size_t>(dim), 0.0);
  std::vector<double> moment = ScatterMatrix(queries, origin);
  double mean_diagonal = 0;
  for (int i = 0; i < dim; ++i) mean_diagonal += moment[i * dim + i] / dim;
  if (mean_diagonal < std::numeric_limits<double>::min()) {
    return Weighting{Identity(dim), Identity(dim)};
  }
  // A mean diagonal of one keeps keys and queries at their scale.
  for (double& x : moment) x /= mean_diagonal;
  for (int i = 0; i < dim; ++i) moment[i * dim + i] += kDiagonalLoad;
  PQCACHE_ASSIGN_OR_RETURN(const SymmetricEigen eigen, DecomposeSymmetric(std::move(moment), dim));
  std::vector<double> roots;
  std::vector<double> inverse_roots;
  for (double value : eigen.values) {
    roots.push_back(std::sqrt(std::max(value, kSmallestEigenvalue * eigen.values.front())));
    inverse_roots.push_back(1.0 / roots.back());
  }
  return Weighting{Compose(eigen, roots, dim), Compose(eigen, inverse_roots, dim)};
}

// R [D, D]: orthonormal rows, dealt to the sub-spaces.
Result<std::vector<double>> BalancedEigenvectors(std::vector<double> covariance,
                                                 const PqShape& shape) {
  PQCACHE_ASSIGN_OR_RETURN(const SymmetricEigen eigen,
                           DecomposeSymmetric(std::move(covariance), shape.dim));
  std::vector<double> rotation;
  for (int i : BalanceVariance(eigen.values, shape.subspaces)) {
    const auto row = eigen.vectors.begin() + int64_t{i} * shape.dim;
    rotation.insert(rotation.end(), row, row + shape.dim);
  }
  return rotation;
}

}  // namespace

std::string_view RotationName(Rotation rotation) {
  for (const RotationRow& row : kRotations) {
    if (row.rotation == rotation) return row.name;
  }
  return "unknown";
}

Result<Rotation> ParseRotation(std::string_view text) {
  for (const RotationRow& row : kRotations) {
    if (row.name == text) return row.rotation;
  }
  return Status::InvalidArgument("rotation is '" + std::string(text) +
                                 "', expected none, pca or query");
}

std::vector<int> BalanceVariance(std::span<const double> variances, int subspaces) {
  const size_t room = variances.size() / static_cast<size_t>(subspaces);
  std::vector<std::vector<int>> dealt(static_cast<size_t>(subspaces));
  std::vector<double> sums(static_cast<size_t>(subspaces), 0.0);
  const double smallest =
      std::max(kSmallestVariance * variances.front(), std::numeric_limits<double>::min());
  for (size_t i = 0; i < variances.size(); ++i) {
    size_t target = 0;
    double least = std::numeric_limits<double>::infinity();
    for (size_t m = 0; m < dealt.size(); ++m) {
      if (dealt[m].size() < room && sums[m] < least) {
        least = sums[m];
        target = m;
      }
    }
    dealt[target].push_back(static_cast<int>(i));
    // Logarithms from the floor up: a sub-space with more directions never counts as smaller.
    sums[target] += std::log(std::max(variances[i], smallest) / smallest);
  }
  std::vector<int> order;
  for (const std::vector<int>& m : dealt) order.insert(order.end(), m.begin(), m.end());
  return order;
}

Result<KeyRotation> BuildRotation(Rotation rotation, const PqShape& shape,
                                  std::span<const float> keys, std::span<const float> queries) {
  PQCACHE_RETURN_IF_ERROR(shape.Validate());
  if (rotation == Rotation::kNone) return KeyRotation{};
  const int dim = shape.dim;
  const int64_t n = std::ssize(keys) / dim;
  if (n < 1) return Status::InvalidArgument("rotation: found 0 sample keys, expected at least 1");
  if (rotation == Rotation::kQuery && std::ssize(queries) < dim) {
    return Status::InvalidArgument("rotation query: found 0 sample queries, expected at least 1");
  }
  std::vector<double> covariance = ScatterMatrix(keys, MeanRow(keys, dim));
  for (double& x : covariance) x /= static_cast<double>(n);
  Weighting weighting{Identity(dim), Identity(dim)};
  if (rotation == Rotation::kQuery) {
    PQCACHE_ASSIGN_OR_RETURN(weighting, WeightingOf(queries, dim));
    covariance = Multiply(Multiply(weighting.root, covariance, dim), weighting.root, dim);
  }
  PQCACHE_ASSIGN_OR_RETURN(const std::vector<double> rotated,
                           BalancedEigenvectors(std::move(covariance), shape));
  const std::vector<double> a = Multiply(rotated, weighting.root, dim);
  const std::vector<double> b = Multiply(rotated, weighting.inverse_root, dim);
  return KeyRotation{{a.begin(), a.end()}, {b.begin(), b.end()}};
}

}  // namespace pqcache::train
