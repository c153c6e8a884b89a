#include "train/linear_algebra.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/support/status_matchers.h"
#include "tests/train/synthetic.h"

namespace pqcache::train {
namespace {

TEST(LinearAlgebraTest, ScatterOfHandWorkedRows) {
  const std::vector<float> rows = {1, 2, 3, 6};
  const std::vector<double> mean = MeanRow(rows, 2);
  EXPECT_EQ(mean, (std::vector<double>{2, 4}));
  EXPECT_EQ(ScatterMatrix(rows, mean), (std::vector<double>{2, 4, 4, 8}));
  EXPECT_EQ(ScatterMatrix(rows, std::vector<double>{0, 0}), (std::vector<double>{10, 20, 20, 40}));
  EXPECT_EQ(TotalVariance(rows, 2), 5);
}

// More rows than one BLAS call takes.
TEST(LinearAlgebraTest, ScatterOfManyRowsMatchesPlainLoops) {
  constexpr int kDim = 7;
  const std::vector<float> rows = testing::NormalRows(9000, kDim, 1);
  const std::vector<double> mean = MeanRow(rows, kDim);
  const std::vector<double> scatter = ScatterMatrix(rows, mean);
  for (int i = 0; i < kDim; ++i) {
    for (int j = 0; j < kDim; ++j) {
      double sum = 0;
      for (int64_t r = 0; r < 9000; ++r) {
        sum += (rows[r * kDim + i] - mean[i]) * (rows[r * kDim + j] - mean[j]);
      }
      EXPECT_NEAR(scatter[i * kDim + j], sum, 1e-8);
    }
  }
}

TEST(LinearAlgebraTest, EigenvectorsAreSortedAndSigned) {
  const SymmetricEigen eigen = DecomposeSymmetric({2, 1, 1, 2}, 2).value();
  EXPECT_NEAR(eigen.values[0], 3, 1e-12);
  EXPECT_NEAR(eigen.values[1], 1, 1e-12);
  const double h = std::sqrt(0.5);
  EXPECT_NEAR(eigen.vectors[0], h, 1e-12);
  EXPECT_NEAR(eigen.vectors[1], h, 1e-12);
  EXPECT_NEAR(std::abs(eigen.vectors[2]), h, 1e-12);
  EXPECT_NEAR(eigen.vectors[2] + eigen.vectors[3], 0, 1e-12);

  const SymmetricEigen negative = DecomposeSymmetric({1, 0, 0, 5}, 2).value();
  EXPECT_NEAR(negative.vectors[1], 1, 1e-12);
  EXPECT_NEAR(negative.vectors[2], 1, 1e-12);
}

TEST(LinearAlgebraTest, DecompositionRestoresTheMatrix) {
  constexpr int kDim = 24;
  const std::vector<float> rows = testing::NormalRows(100, kDim, 4);
  const std::vector<double> matrix = ScatterMatrix(rows, MeanRow(rows, kDim));
  const SymmetricEigen eigen = DecomposeSymmetric(matrix, kDim).value();
  EXPECT_TRUE(std::is_sorted(eigen.values.rbegin(), eigen.values.rend()));
  std::vector<double> restored(matrix.size(), 0.0);
  for (int e = 0; e < kDim; ++e) {
    const double* v = &eigen.vectors[e * kDim];
    double largest = 0;
    for (int i = 0; i < kDim; ++i) {
      if (std::abs(v[i]) > std::abs(largest)) largest = v[i];
      for (int j = 0; j < kDim; ++j) restored[i * kDim + j] += eigen.values[e] * v[i] * v[j];
    }
    EXPECT_GT(largest, 0) << "vector " << e;
  }
  for (size_t i = 0; i < matrix.size(); ++i) ASSERT_NEAR(restored[i], matrix[i], 1e-9);
}

TEST(LinearAlgebraTest, EigenRefusesNumbersThatAreNotFinite) {
  const double inf = std::numeric_limits<double>::infinity();
  testing::ExpectError(DecomposeSymmetric({1, inf, inf, 1}, 2), StatusCode::kInvalidArgument,
                       "not finite");
}

TEST(LinearAlgebraTest, ProductsMatchPlainLoops) {
  EXPECT_EQ(Multiply(std::vector<double>{1, 2, 3, 4}, std::vector<double>{5, 6, 7, 8}, 2),
            (std::vector<double>{19, 22, 43, 50}));
  constexpr int64_t kRows = 5000;
  const std::vector<float> rows = testing::NormalRows(kRows, 3, 1);
  const std::vector<float> matrix = testing::NormalRows(2, 3, 2);
  std::vector<float> out(kRows * 2);
  MultiplyTransposed(kRows, 2, 3, rows.data(), matrix.data(), out.data());
  for (int64_t i = 0; i < kRows; ++i) {
    for (int r = 0; r < 2; ++r) {
      float sum = 0;
      for (int d = 0; d < 3; ++d) sum += rows[i * 3 + d] * matrix[r * 3 + d];
      ASSERT_NEAR(out[i * 2 + r], sum, 1e-5);
    }
  }
}

}  // namespace
}  // namespace pqcache::train
