#include "train/rotation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tests/support/status_matchers.h"
#include "tests/train/synthetic.h"

namespace pqcache::train {
namespace {

using testing::AnisotropicRows;
using testing::ExpectError;
using testing::NormalRows;

constexpr PqShape kShape{.dim = 32, .subspaces = 8, .bits = 8};
constexpr int kDim = 32;
constexpr Rotation kBuilt[] = {Rotation::kPca, Rotation::kQuery};

std::vector<double> Map(const std::vector<float>& matrix, const float* x) {
  std::vector<double> y(kDim, 0.0);
  for (int i = 0; i < kDim; ++i) {
    for (int d = 0; d < kDim; ++d) y[i] += double{matrix[i * kDim + d]} * x[d];
  }
  return y;
}

double Dot(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

void ExpectIdentity(const KeyRotation& rotation) {
  ASSERT_EQ(rotation.key_transform.size(), size_t{kDim} * kDim);
  const std::vector<float> keys = NormalRows(50, kDim, 71);
  const std::vector<float> queries = NormalRows(50, kDim, 72);
  for (int i = 0; i < 50; ++i) {
    const std::vector<double> k(&keys[i * kDim], &keys[i * kDim] + kDim);
    const std::vector<double> q(&queries[i * kDim], &queries[i * kDim] + kDim);
    const double product = Dot(Map(rotation.query_transform, &queries[i * kDim]),
                               Map(rotation.key_transform, &keys[i * kDim]));
    ASSERT_NEAR(product, Dot(q, k), 1e-4 * std::sqrt(Dot(q, q) * Dot(k, k)));
  }
}

// log-variances [M] of the rotated keys.
std::vector<double> LogVariances(const KeyRotation& rotation, const std::vector<float>& keys) {
  const int64_t n = std::ssize(keys) / kDim;
  std::vector<double> sum(kDim, 0.0);
  std::vector<double> squares(kDim, 0.0);
  for (int64_t i = 0; i < n; ++i) {
    const std::vector<double> y = Map(rotation.key_transform, &keys[i * kDim]);
    for (int d = 0; d < kDim; ++d) {
      sum[d] += y[d] / static_cast<double>(n);
      squares[d] += y[d] * y[d] / static_cast<double>(n);
    }
  }
  std::vector<double> logs(static_cast<size_t>(kShape.subspaces), 0.0);
  for (int d = 0; d < kDim; ++d) {
    logs[d / kShape.sub_dim()] += std::log(squares[d] - sum[d] * sum[d]);
  }
  return logs;
}

TEST(RotationTest, NamesAndParsing) {
  for (const char* name : {"none", "pca", "query"}) {
    EXPECT_EQ(RotationName(ParseRotation(name).value()), name);
  }
  ExpectError(ParseRotation("opq"), StatusCode::kInvalidArgument, "none, pca or query");
}

TEST(RotationTest, NoneIsEmpty) {
  const KeyRotation rotation = BuildRotation(Rotation::kNone, kShape, {}, {}).value();
  EXPECT_TRUE(rotation.key_transform.empty());
  EXPECT_TRUE(rotation.query_transform.empty());
}

TEST(RotationTest, InnerProductsStay) {
  const std::vector<float> keys = AnisotropicRows(2000, kDim, 0.7f, 1, 2);
  const std::vector<float> queries = AnisotropicRows(2000, kDim, 0.6f, 3, 4);
  for (Rotation r : kBuilt) ExpectIdentity(BuildRotation(r, kShape, keys, queries).value());
}

// Eigenvectors in plain order would give the first and the last sub-space logarithms that differ by
// 2 * 4 * 28 * log(1 / 0.85) = 36.
TEST(RotationTest, SubspacesShareTheLogVariance) {
  const std::vector<float> keys = AnisotropicRows(4000, kDim, 0.85f, 1, 2);
  const std::vector<float> queries = AnisotropicRows(4000, kDim, 0.9f, 3, 4);
  for (Rotation r : kBuilt) {
    const auto rotation = BuildRotation(r, kShape, keys, queries).value();
    const std::vector<double> logs = LogVariances(rotation, keys);
    const auto [low, high] = std::minmax_element(logs.begin(), logs.end());
    EXPECT_LT(*high - *low, 2.5) << RotationName(r);
  }
}

TEST(RotationTest, PcaDecorrelatesKeys) {
  const std::vector<float> keys = AnisotropicRows(3000, kDim, 0.85f, 1, 2);
  const auto rotation = BuildRotation(Rotation::kPca, kShape, keys, {}).value();
  EXPECT_EQ(rotation.key_transform, rotation.query_transform);
  std::vector<std::vector<double>> rotated;
  for (int i = 0; i < 3000; ++i) rotated.push_back(Map(rotation.key_transform, &keys[i * kDim]));
  for (int a = 0; a < kDim; ++a) {
    for (int b = 0; b < a; ++b) {
      double ab = 0, aa = 0, bb = 0;
      for (const std::vector<double>& y : rotated) {
        ab += y[a] * y[b];
        aa += y[a] * y[a];
        bb += y[b] * y[b];
      }
      ASSERT_LT(std::abs(ab), 0.06 * std::sqrt(aa * bb));
    }
  }
}

// In the rotated space all directions matter alike: the queries' second moment is nearly the
// identity, up to the rotation.
TEST(RotationTest, QueryWhitensQueries) {
  const std::vector<float> keys = NormalRows(2000, kDim, 1);
  const std::vector<float> queries = AnisotropicRows(4000, kDim, 0.95f, 3, 4);
  const auto rotation = BuildRotation(Rotation::kQuery, kShape, keys, queries).value();
  std::vector<double> moments(kDim, 0.0);
  for (int i = 0; i < 4000; ++i) {
    const std::vector<double> y = Map(rotation.query_transform, &queries[i * kDim]);
    for (int d = 0; d < kDim; ++d) moments[d] += y[d] * y[d] / 4000;
  }
  const auto [low, high] = std::minmax_element(moments.begin(), moments.end());
  EXPECT_LT(*high / *low, 1.1);
}

TEST(RotationTest, DegenerateSamplesStayFinite) {
  const std::vector<float> zero(100 * kDim, 0.0f);
  const std::vector<float> one_row = NormalRows(1, kDim, 1);
  std::vector<float> rank_one;
  for (int i = 0; i < 100; ++i) {
    for (float x : one_row) rank_one.push_back(static_cast<float>(i - 50) * x);
  }
  std::vector<float> tiny = rank_one;
  for (float& x : tiny) x *= 1e-30f;
  const std::vector<std::vector<float>> degenerate = {zero, one_row, rank_one, tiny};
  for (Rotation r : kBuilt) {
    for (const std::vector<float>& keys : degenerate) {
      for (const std::vector<float>& queries : degenerate) {
        ExpectIdentity(BuildRotation(r, kShape, keys, queries).value());
      }
    }
  }
}

TEST(RotationTest, EqualSamplesGiveEqualBytes) {
  const std::vector<float> keys = AnisotropicRows(500, kDim, 0.8f, 1, 2);
  const auto a = BuildRotation(Rotation::kQuery, kShape, keys, keys).value();
  const auto b = BuildRotation(Rotation::kQuery, kShape, keys, keys).value();
  EXPECT_EQ(a.key_transform, b.key_transform);
  EXPECT_EQ(a.query_transform, b.query_transform);
}

TEST(RotationTest, Errors) {
  const std::vector<float> keys = NormalRows(10, kDim, 1);
  ExpectError(BuildRotation(Rotation::kPca, kShape, {}, {}), StatusCode::kInvalidArgument,
              "0 sample keys");
  ExpectError(BuildRotation(Rotation::kQuery, kShape, keys, {}), StatusCode::kInvalidArgument,
              "0 sample queries");
  std::vector<float> bad = keys;
  bad[3] = std::numeric_limits<float>::quiet_NaN();
  for (Rotation r : kBuilt) {
    ExpectError(BuildRotation(r, kShape, bad, keys), StatusCode::kInvalidArgument, "not finite");
  }
  ExpectError(BuildRotation(Rotation::kQuery, kShape, keys, bad), StatusCode::kInvalidArgument,
              "not finite");
}

TEST(BalanceVarianceTest, DealsToTheSmallestSumWithRoom) {
  // Logarithms over the floor: the large one fills its sub-space's share, the rest go elsewhere.
  EXPECT_EQ(BalanceVariance(std::vector<double>{8, 4, 2, 1}, 2), (std::vector<int>{0, 3, 1, 2}));
  EXPECT_EQ(BalanceVariance(std::vector<double>{1, 0, 0, 0}, 2), (std::vector<int>{0, 3, 1, 2}));
  EXPECT_EQ(BalanceVariance(std::vector<double>{3, 2, 1}, 1), (std::vector<int>{0, 1, 2}));
  std::vector<int> all = BalanceVariance(std::vector<double>(12, 0.0), 4);
  std::sort(all.begin(), all.end());
  for (int i = 0; i < 12; ++i) EXPECT_EQ(all[i], i);
}

}  // namespace
}  // namespace pqcache::train
