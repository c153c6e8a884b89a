#include "pqcache/index/position_mean.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "pqcache/index/pq_index.h"
#include "tests/pqcache/index/codebook_samples.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tolerances.h"

namespace pqcache {
namespace {

using namespace pqcache::testing;

constexpr int kDim = 16;

// Mean key of a block by the definition: the average over its positions of the mean turned there.
std::vector<double> AverageOverBlock(const PositionMean& mean, int64_t block) {
  const size_t pairs = mean.frequencies().size();
  std::vector<double> key(mean.mean().begin(), mean.mean().end());
  for (size_t i = 0; i < pairs; ++i) {
    const double a = mean.mean()[i], b = mean.mean()[i + pairs];
    key[i] = key[i + pairs] = 0;
    for (int64_t p = block * kPositionBlock; p < (block + 1) * kPositionBlock; ++p) {
      const double angle = static_cast<double>(p) * mean.frequencies()[i];
      key[i] += (a * std::cos(angle) - b * std::sin(angle)) / kPositionBlock;
      key[i + pairs] += (b * std::cos(angle) + a * std::sin(angle)) / kPositionBlock;
    }
  }
  return key;
}

class PositionMeanTest : public ::testing::TestWithParam<int> {};

// All channels turned, and only the first half of them.
INSTANTIATE_TEST_SUITE_P(Pairs, PositionMeanTest, ::testing::Values(8, 4));

TEST_P(PositionMeanTest, IsTheAverageOverTheBlock) {
  const PositionMean mean = RandomPositionMean(kDim, GetParam(), 1);
  for (const int64_t block : {0, 1, 7, 300, 16384}) {
    std::vector<float> key(kDim);
    mean.OfBlock(block, kDim, key.data());
    const std::vector<double> expected = AverageOverBlock(mean, block);
    for (int d = 0; d < kDim; ++d) {
      EXPECT_NEAR(key[d], expected[d], Tolerance(DType::kF32, 4)) << block << " " << d;
    }
  }
}

TEST_P(PositionMeanTest, ScoresAreProductsWithIt) {
  const PositionMean mean = RandomPositionMean(kDim, GetParam(), 2);
  constexpr int kQueries = 3;
  const std::vector<float> queries = RandomNormals(kQueries * kDim, 3);
  std::vector<float> all(600 * kQueries);
  mean.Score(kQueries, queries.data(), 0, 600, all.data());
  for (int64_t block = 0; block < 600; ++block) {
    const std::vector<double> key = AverageOverBlock(mean, block);
    for (int g = 0; g < kQueries; ++g) {
      double expected = 0, magnitude = 0;
      for (int d = 0; d < kDim; ++d) {
        expected += queries[g * kDim + d] * key[d];
        magnitude += std::abs(queries[g * kDim + d]) * 4;
      }
      const float score = all[block * kQueries + g];
      EXPECT_NEAR(score, expected, Tolerance(DType::kF32, magnitude));
      EXPECT_LE(std::abs(score), mean.Bound(&queries[g * kDim]) * 1.0001f);
    }
  }
  // The same numbers wherever a caller begins.
  for (const int64_t first : {1, 63, 64, 65, 517}) {
    std::vector<float> some((600 - first) * kQueries);
    mean.Score(kQueries, queries.data(), first, 600 - first, some.data());
    EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin() + first * kQueries)) << first;
  }
}

TEST(PositionMean, EmptyOneAddsNothing) {
  std::vector<float> key(kDim, 1.0f);
  PositionMean().OfBlock(5, kDim, key.data());
  EXPECT_EQ(key, std::vector<float>(kDim, 0.0f));
}

TEST(PositionMean, RefusesWhatDoesNotFit) {
  const std::vector<float> mean(kDim, 1.0f), frequencies(kDim / 2, 0.5f);
  EXPECT_OK(PositionMean::Create(kDim, mean, frequencies));
  ExpectError(PositionMean::Create(kDim + 1, mean, frequencies), StatusCode::kInvalidArgument,
              "has 16 numbers, expected 17");
  ExpectError(PositionMean::Create(kDim, mean, {}), StatusCode::kInvalidArgument,
              "has 0 frequencies, expected 1 to 8");
  ExpectError(PositionMean::Create(kDim, mean, std::vector<float>(9, 0.5f)),
              StatusCode::kInvalidArgument, "has 9 frequencies, expected 1 to 8");
  for (const float bad : {NAN, INFINITY}) {
    ExpectError(PositionMean::Create(kDim, std::vector<float>(kDim, bad), frequencies),
                StatusCode::kInvalidArgument, "not finite");
    ExpectError(PositionMean::Create(kDim, mean, {bad}), StatusCode::kInvalidArgument,
                "not finite");
  }
}

// Codes are those of the keys without their mean; scores and decoded keys have it again. Whole
// blocks of keys and single ones are encoded by different loops.
TEST(PositionMean, CodesAreOfWhatItLeaves) {
  constexpr PqShape kShape = {kDim, 4, 8};
  constexpr int64_t kKeys = 333;
  HeadCodebook::Parts parts = RandomParts(kShape, true, 1);
  const HeadCodebook plain = *HeadCodebook::Create(parts);
  parts.position_mean = RandomPositionMean(kDim, 8, 2);
  const auto codebook = std::make_shared<const HeadCodebook>(*HeadCodebook::Create(parts));
  const std::vector<float> keys = RandomNormals(kKeys * kDim, 3);

  PqIndex index(codebook);
  index.Append(100, keys.data());
  for (int64_t t = 100; t < 140; ++t) index.Append(1, keys.data() + t * kDim);
  index.Append(kKeys - 140, keys.data() + 140 * kDim);
  std::vector<float> centred = keys, mean(kDim);
  for (int64_t t = 0; t < kKeys; ++t) {
    parts.position_mean.OfBlock(t / kPositionBlock, kDim, mean.data());
    for (int d = 0; d < kDim; ++d) centred[t * kDim + d] -= mean[d];
  }
  std::vector<uint8_t> expected(kKeys * kShape.subspaces), codes(expected.size());
  plain.Encode(0, kKeys, centred.data(), expected.data());
  index.CopyCodes(0, kKeys, codes.data());
  EXPECT_EQ(codes, expected);

  constexpr int64_t kBegin = 50, kEnd = 300;
  std::vector<float> decoded((kEnd - kBegin) * kDim), scores(2 * (kEnd - kBegin));
  index.Reconstruct(kBegin, kEnd, decoded.data());
  const std::vector<float> queries = RandomNormals(2 * kDim, 4);
  index.Score(2, queries.data(), 0.5f, kBegin, kEnd, scores.data());
  std::vector<float> without(decoded.size());
  plain.Decode(0, kEnd - kBegin, expected.data() + kBegin * kShape.subspaces, without.data());
  for (int64_t t = 0; t < kEnd - kBegin; ++t) {
    parts.position_mean.OfBlock((kBegin + t) / kPositionBlock, kDim, mean.data());
    double score[2] = {}, magnitude = 0;
    for (int d = 0; d < kDim; ++d) {
      const float key = decoded[t * kDim + d];
      EXPECT_NEAR(key, without[t * kDim + d] + mean[d], Tolerance(DType::kF32, 20));
      for (int g = 0; g < 2; ++g) score[g] += 0.5 * queries[g * kDim + d] * key;
      magnitude += std::abs(key) * 4;
    }
    for (int g = 0; g < 2; ++g) {
      EXPECT_NEAR(scores[g * (kEnd - kBegin) + t], score[g], Tolerance(DType::kF32, magnitude));
    }
  }
}

TEST(PositionMean, OfAnotherHeadSizeIsRefused) {
  HeadCodebook::Parts parts = RandomParts({kDim, 4, 8}, false, 1);
  parts.position_mean = RandomPositionMean(8, 4, 2);
  ExpectError(HeadCodebook::Create(parts), StatusCode::kInvalidArgument,
              "position mean has 8 numbers, expected 16");
}

}  // namespace
}  // namespace pqcache
