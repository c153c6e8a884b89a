#include "pqcache/index/residual_norms.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "tests/pqcache/index/codebook_samples.h"
#include "tests/support/tolerances.h"

namespace pqcache {
namespace {

using namespace pqcache::testing;

constexpr float kScale = 0.125f;

struct Case {
  const char* name;
  PqShape shape;
  bool rotated, position_mean;
};

class ResidualNormsTest : public ::testing::TestWithParam<Case> {
 protected:
  static constexpr int64_t kRows = 700;

  ResidualNormsTest() {
    HeadCodebook::Parts parts = RandomParts(shape_, GetParam().rotated, 1);
    if (GetParam().position_mean) {
      parts.position_mean = RandomPositionMean(shape_.dim, shape_.dim / 2, 2, 3.0f);
    }
    index_ = std::make_unique<PqIndex>(
        std::make_shared<const HeadCodebook>(HeadCodebook::Create(std::move(parts)).value()));
    index_->Append(kRows, keys_.data());
  }

  double Exact(const float* query, int64_t row) const {
    double sum = 0;
    for (int d = 0; d < shape_.dim; ++d) sum += double{query[d]} * keys_[row * shape_.dim + d];
    return kScale * sum;
  }
  // Length of the row's residual in the rotated space, times that of the query there.
  double Width(const float* query, int64_t row) const {
    const HeadCodebook& codebook = index_->codebook();
    std::vector<float> decoded(static_cast<size_t>(shape_.dim));
    index_->Reconstruct(row, row + 1, decoded.data());
    for (int d = 0; d < shape_.dim; ++d) decoded[d] -= keys_[row * shape_.dim + d];
    double widths[2];
    for (const bool of_query : {false, true}) {
      const auto y =
          TransformInDouble(of_query ? codebook.query_transform() : codebook.key_transform(),
                            shape_.dim, of_query ? query : decoded.data());
      widths[of_query] = 0;
      for (const double x : y) widths[of_query] += x * x;
    }
    return kScale * std::sqrt(widths[0] * widths[1]);
  }

  PqShape shape_ = GetParam().shape;
  std::vector<float> keys_ = RandomNormals(kRows * shape_.dim, 3);
  std::unique_ptr<PqIndex> index_;
};

TEST_P(ResidualNormsTest, BoundsAreAboveEveryExactScoreAndNotFarAboveTheCodeScore) {
  ResidualNorms norms;
  norms.Append(*index_, 1, keys_.data());  // in parts, at any row
  norms.Append(*index_, kRows - 1, keys_.data() + shape_.dim);
  EXPECT_EQ(norms.size(), kRows);
  EXPECT_EQ(norms.bytes(), static_cast<uint64_t>(kRows));
  constexpr int64_t kBegin = 3, kEnd = kRows - 2;
  std::vector<float> scores(kEnd - kBegin), bounds(kEnd - kBegin);
  double tightest = std::numeric_limits<double>::infinity();
  for (uint64_t q = 0; q < 4; ++q) {
    // The last query looks along a residual: nothing below the bound would do.
    std::vector<float> query = RandomNormals(shape_.dim, MixSeed(4, q));
    if (q == 3) {
      index_->Reconstruct(kBegin, kBegin + 1, query.data());
      for (int d = 0; d < shape_.dim; ++d) {
        query[d] = keys_[kBegin * shape_.dim + d] - query[d];
      }
    }
    index_->Score(1, query.data(), kScale, kBegin, kEnd, scores.data());
    norms.Bounds(*index_, query.data(), kScale, kBegin, kEnd, scores.data(), bounds.data());
    for (int64_t i = 0; i < kEnd - kBegin; ++i) {
      const double exact = Exact(query.data(), kBegin + i), width = Width(query.data(), kBegin + i);
      EXPECT_GE(bounds[i], exact);
      EXPECT_LE(bounds[i], scores[i] + 1.1 * width + 1e-2) << "row " << kBegin + i;
      tightest = std::min(tightest, (bounds[i] - exact) / width);
    }
  }
  if (!GetParam().rotated) {
    EXPECT_LT(tightest, 0.1);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, ResidualNormsTest,
                         ::testing::Values(Case{"plain", {64, 16, 8}, false, false},
                                           Case{"rotated", {64, 32, 4}, true, false},
                                           Case{"position_mean", {80, 10, 8}, true, true},
                                           Case{"wide", {128, 16, 4}, true, true}),
                         [](const auto& test) { return test.param.name; });

TEST(ResidualNorms, OfAKeyBeyondMeasureNothingIsKnown) {
  const PqShape shape{8, 2, 4};
  PqIndex index(std::make_shared<const HeadCodebook>(RandomCodebook(shape, false, 1)));
  std::vector<float> keys = RandomNormals(3 * shape.dim, 2);
  keys[0] = 1e6f;
  keys[static_cast<size_t>(shape.dim)] = 1e30f;
  index.Append(3, keys.data());
  ResidualNorms norms;
  norms.Append(index, 3, keys.data());
  const std::vector<float> query = RandomNormals(shape.dim, 3), scores(3, 0.0f);
  std::vector<float> bounds(3);
  norms.Bounds(index, query.data(), kScale, 0, 3, scores.data(), bounds.data());
  EXPECT_TRUE(std::isinf(bounds[0]) && bounds[0] > 0);
  EXPECT_TRUE(std::isinf(bounds[1]) && bounds[1] > 0);
  EXPECT_TRUE(std::isfinite(bounds[2]));
}

TEST(ResidualNorms, AKeyThatIsItsCodeHasItsScore) {
  const PqShape shape{8, 2, 4};
  const auto codebook = std::make_shared<const HeadCodebook>(RandomCodebook(shape, false, 1));
  PqIndex index(codebook);
  std::vector<float> key(CentroidOf(*codebook, 0, 3), CentroidOf(*codebook, 0, 3) + 4);
  key.insert(key.end(), CentroidOf(*codebook, 1, 9), CentroidOf(*codebook, 1, 9) + 4);
  index.Append(1, key.data());
  ResidualNorms norms;
  norms.Append(index, 1, key.data());
  const std::vector<float> query = RandomNormals(shape.dim, 3);
  float score = 0, bound = 0;
  index.Score(1, query.data(), kScale, 0, 1, &score);
  norms.Bounds(index, query.data(), kScale, 0, 1, &score, &bound);
  EXPECT_GE(bound, score);
  EXPECT_NEAR(bound, score, 1e-3);
}

}  // namespace
}  // namespace pqcache
