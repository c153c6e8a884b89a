// MagicPIG: hashes that choose, and weights that make the choice an estimate of full attention.

#include "pqcache/policy/hash_selector.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/support/random_data.h"

namespace pqcache {
namespace {

using testing::RandomNormals;

constexpr int kDim = 16;
constexpr int64_t kTokens = 400;
constexpr SelectorStep kStep{0.25f, 0, kTokens, 0};

struct Sample {
  std::vector<int64_t> positions;
  std::vector<double> logits;  // adjusted
};

Sample Draw(const HashSettings& settings, const std::vector<float>& keys,
            const std::vector<float>& query) {
  const auto selector =
      CreateHashSelector(settings, MakeHashDirections(settings, kDim), {1, 1, kDim});
  selector->Append(0, kTokens, keys.data());
  selector->Score(0, query.data(), kStep);
  selector->Choose(kStep);
  Sample sample;
  const auto chosen = selector->chosen(0, 0);
  sample.positions.assign(chosen.begin(), chosen.end());
  std::vector<float> logits;
  for (const int64_t t : sample.positions) {
    double product = 0;
    for (int d = 0; d < kDim; ++d) {
      product += double{keys[static_cast<size_t>(t * kDim + d)]} * query[static_cast<size_t>(d)];
    }
    logits.push_back(static_cast<float>(kStep.scale * product));
  }
  selector->AdjustLogits(0, 0, sample.positions, logits.data());
  sample.logits.assign(logits.begin(), logits.end());
  return sample;
}

double WeightedSum(const Sample& sample, const std::vector<float>& values) {
  double sum = 0;
  for (size_t i = 0; i < sample.logits.size(); ++i) {
    sum += std::exp(sample.logits[i]) * values[static_cast<size_t>(sample.positions[i])];
  }
  return sum;
}

double ExactSum(const std::vector<float>& keys, const std::vector<float>& query,
                const std::vector<float>& values) {
  double sum = 0;
  for (int64_t t = 0; t < kTokens; ++t) {
    double product = 0;
    for (int d = 0; d < kDim; ++d) {
      product += double{keys[static_cast<size_t>(t * kDim + d)]} * query[static_cast<size_t>(d)];
    }
    sum += std::exp(kStep.scale * product) * values[static_cast<size_t>(t)];
  }
  return sum;
}

TEST(MagicPig, ManyTablesSampleEverythingAtFullWeight) {
  const std::vector<float> keys = RandomNormals(kTokens * kDim, 1), query = RandomNormals(kDim, 2);
  const Sample sample = Draw({.bits = 1, .tables = 200}, keys, query);
  EXPECT_EQ(std::ssize(sample.positions), kTokens);
  const std::vector<float> ones(kTokens, 1.0f);
  EXPECT_NEAR(WeightedSum(sample, ones) / ExactSum(keys, query, ones), 1, 2e-3);
}

TEST(MagicPig, TheSampleGrowsWithTablesAndShrinksWithBits) {
  const std::vector<float> keys = RandomNormals(kTokens * kDim, 3), query = RandomNormals(kDim, 4);
  const auto size = [&](int bits, int tables) {
    return Draw({.bits = bits, .tables = tables}, keys, query).positions.size();
  };
  EXPECT_LT(size(8, 50), size(8, 150));
  EXPECT_LT(size(8, 150), size(8, 600));
  EXPECT_GT(size(6, 150), size(8, 150));
  EXPECT_GT(size(8, 150), size(12, 150));
}

// Of the sums of weights and of weighted values, over random directions; single draws are far off.
TEST(MagicPig, TheEstimateIsUnbiased) {
  const std::vector<float> keys = RandomNormals(kTokens * kDim, 5), query = RandomNormals(kDim, 6);
  const std::vector<float> ones(kTokens, 1.0f);
  std::vector<float> values = RandomNormals(kTokens, 7);
  for (float& value : values) value += 1;
  constexpr int kDraws = 1000;
  std::vector<Sample> draws;
  for (int seed = 0; seed < kDraws; ++seed) {
    draws.push_back(
        Draw({.bits = 6, .tables = 40, .seed = static_cast<uint64_t>(seed)}, keys, query));
  }
  for (const std::vector<float>& weighted : {ones, values}) {
    double mean = 0, squares = 0;
    for (const Sample& draw : draws) {
      const double sum = WeightedSum(draw, weighted);
      mean += sum / kDraws;
      squares += sum * sum / kDraws;
    }
    const double deviation = std::sqrt((squares - mean * mean) / kDraws);
    const double exact = ExactSum(keys, query, weighted);
    EXPECT_LT(deviation, 0.05 * exact);
    EXPECT_LT(std::abs(mean - exact), 4 * deviation);
  }
}

// Keys that share a large mean all look alike to the hashes unless it is taken off.
TEST(MagicPig, WithoutCentringHashesTellNothingApart) {
  std::vector<float> keys = RandomNormals(kTokens * kDim, 7);
  const std::vector<float> query = RandomNormals(kDim, 8);
  for (int d = 0; d < kDim; ++d) {  // token 123 points where the query does
    keys[static_cast<size_t>(123 * kDim + d)] = 2 * query[static_cast<size_t>(d)];
  }
  for (float& x : keys) x += 30.0f;
  const auto found = [&](bool centre) {
    int hits = 0;
    for (uint64_t seed = 0; seed < 20; ++seed) {
      const Sample sample =
          Draw({.bits = 10, .tables = 20, .centre = centre, .seed = seed}, keys, query);
      const bool hit = std::binary_search(sample.positions.begin(), sample.positions.end(), 123);
      hits += hit && std::ssize(sample.positions) < kTokens / 4 ? 1 : 0;
    }
    return hits;
  };
  EXPECT_GE(found(true), 18);
  EXPECT_LE(found(false), 4);
}

TEST(MagicPig, TokensThatComeLaterAreHashedLikeTheFirst) {
  const std::vector<float> keys = RandomNormals(kTokens * kDim, 9), query = RandomNormals(kDim, 10);
  const HashSettings settings{.bits = 6, .tables = 40};
  const HashDirections directions = MakeHashDirections(settings, kDim);
  const auto selector = CreateHashSelector(settings, directions, {1, 1, kDim});
  selector->Append(0, 300, keys.data());
  selector->Append(0, 1, keys.data());  // token 300 is token 0 again
  EXPECT_EQ(selector->tokens(0), 301);
  selector->Score(0, query.data(), {0.25f, 0, 301, 0});
  const auto chosen = selector->chosen(0, 0);
  EXPECT_EQ(std::binary_search(chosen.begin(), chosen.end(), 0),
            std::binary_search(chosen.begin(), chosen.end(), 300));
}

}  // namespace
}  // namespace pqcache
