#include "pqcache/index/flat_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "tests/support/random_data.h"
#include "tests/support/tolerances.h"

namespace pqcache {
namespace {

using testing::RandomNormals;
using testing::Tolerance;

constexpr float kScale = 0.125f;

std::vector<float> Scores(const KeyIndex& index, int g, const std::vector<float>& queries,
                          int64_t begin, int64_t end) {
  std::vector<float> scores(static_cast<size_t>(g * (end - begin)) + 1, -7.0f);
  index.Score(g, queries.data(), kScale, begin, end, scores.data());
  EXPECT_EQ(scores.back(), -7.0f);
  scores.pop_back();
  return scores;
}

TEST(FlatIndex, ScoresMatchDouble) {
  const int g = 3;
  for (const int dim : {1, 16, 64, 80, 128}) {
    const std::vector<float> queries = RandomNormals(g * dim, 1);
    for (const int64_t n : {1, 33, 500}) {
      const std::vector<float> keys = RandomNormals(n * dim, 2);
      FlatIndex index(dim);
      index.Append(n, keys.data());
      EXPECT_EQ(index.bytes(), static_cast<uint64_t>(n * dim) * 4);
      for (const int64_t begin : {int64_t{0}, n / 3, n}) {
        const std::vector<float> scores = Scores(index, g, queries, begin, n);
        for (int q = 0; q < g; ++q) {
          for (int64_t t = begin; t < n; ++t) {
            double sum = 0;
            double magnitude = 0;
            for (int d = 0; d < dim; ++d) {
              const double term = double{queries[q * dim + d]} * keys[t * dim + d];
              sum += term;
              magnitude += std::abs(term);
            }
            ASSERT_NEAR(scores[q * (n - begin) + t - begin], kScale * sum,
                        Tolerance(DType::kF32, kScale * magnitude));
          }
        }
      }
    }
  }
}

TEST(FlatIndex, AppendingInPiecesEqualsBulk) {
  const int dim = 20;
  const int64_t n = 77;
  const std::vector<float> keys = RandomNormals(n * dim, 3);
  FlatIndex index(dim);
  for (int64_t t = 0; t < n; ++t) index.Append(1, &keys[t * dim]);
  index.Append(0, nullptr);
  ASSERT_EQ(index.size(), n);
  std::vector<float> kept(keys.size());
  index.Reconstruct(0, n, kept.data());
  EXPECT_EQ(kept, keys);  // exactly
  std::vector<float> part(static_cast<size_t>(5 * dim));
  index.Reconstruct(30, 35, part.data());
  EXPECT_TRUE(std::equal(part.begin(), part.end(), keys.begin() + 30 * dim));
}

TEST(FlatIndex, CloneIsIndependent) {
  const int dim = 8;
  FlatIndex index(dim);
  index.Append(3, RandomNormals(3 * dim, 4).data());
  const std::vector<float> query = RandomNormals(dim, 5);
  const std::vector<float> before = Scores(index, 1, query, 0, 3);
  const std::unique_ptr<KeyIndex> clone = index.Clone();
  clone->Append(2, RandomNormals(2 * dim, 6).data());
  index.Append(1, RandomNormals(dim, 7).data());
  EXPECT_EQ(clone->size(), 5);
  EXPECT_EQ(index.size(), 4);
  EXPECT_EQ(Scores(*clone, 1, query, 0, 3), before);
  EXPECT_EQ(Scores(index, 1, query, 0, 3), before);
  EXPECT_NE(Scores(*clone, 1, query, 3, 4), Scores(index, 1, query, 3, 4));
}

TEST(FlatIndex, EmptyIndexHasNothing) {
  const FlatIndex index(8);
  EXPECT_EQ(index.size(), 0);
  EXPECT_EQ(index.bytes(), 0u);
  EXPECT_TRUE(Scores(index, 1, RandomNormals(8, 8), 0, 0).empty());
  EXPECT_EQ(index.Clone()->size(), 0);
}

}  // namespace
}  // namespace pqcache
