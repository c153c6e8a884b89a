#include "attention/decoder/token_sampler.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/status_matchers.h"

namespace pqcache::attention {
namespace {

using testing::ExpectError;

std::vector<double> Frequencies(const SamplingOptions& options, const std::vector<float>& logits) {
  TokenSampler sampler(options);
  std::vector<double> counts(logits.size(), 0.0);
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i)
    counts[static_cast<size_t>(sampler.Pick(logits))] += 1.0 / kDraws;
  return counts;
}

const std::vector<float> kLogits = {std::log(0.1f), std::log(0.5f), std::log(0.4f)};

TEST(TokenSamplerTest, GreedyTakesTheLowestOfEqualIds) {
  TokenSampler sampler({});
  EXPECT_EQ(sampler.Pick(std::vector<float>{1, 3, 3, 2}), 1);
}

TEST(TokenSamplerTest, TemperatureOneFollowsTheDistribution) {
  const auto f = Frequencies({.temperature = 1}, kLogits);
  EXPECT_NEAR(f[0], 0.1, 0.02);
  EXPECT_NEAR(f[1], 0.5, 0.02);
}

TEST(TokenSamplerTest, FiltersKeepWhatTheySay) {
  EXPECT_NEAR(Frequencies({.temperature = 1, .top_k = 1}, kLogits)[1], 1.0, 1e-9);
  const auto top_p = Frequencies({.temperature = 1, .top_p = 0.8}, kLogits);
  EXPECT_EQ(top_p[0], 0.0);
  EXPECT_NEAR(top_p[1], 5.0 / 9, 0.02);
  const auto min_p = Frequencies({.temperature = 1, .min_p = 0.5}, kLogits);
  EXPECT_EQ(min_p[0], 0.0);
  EXPECT_NEAR(min_p[2], 4.0 / 9, 0.02);
}

TEST(TokenSamplerTest, SeedDecides) {
  TokenSampler a({.temperature = 1, .seed = 7}), b({.temperature = 1, .seed = 7});
  for (int i = 0; i < 100; ++i) EXPECT_EQ(a.Pick(kLogits), b.Pick(kLogits));
}

TEST(TokenSamplerTest, RefusesBadOptions) {
  ExpectError((SamplingOptions{.temperature = -1}).Validate(), StatusCode::kInvalidArgument,
              "temp");
  ExpectError((SamplingOptions{.top_k = -1}).Validate(), StatusCode::kInvalidArgument, "top-k");
  ExpectError((SamplingOptions{.top_p = 0}).Validate(), StatusCode::kInvalidArgument, "top-p");
  ExpectError((SamplingOptions{.min_p = 2}).Validate(), StatusCode::kInvalidArgument, "min-p");
  ExpectError((SamplingOptions{.temperature = std::nan("")}).Validate(),
              StatusCode::kInvalidArgument, "temp");
}

TEST(TokenSamplerTest, LogProbability) {
  EXPECT_NEAR(LogProbability(kLogits, 2), std::log(0.4), 1e-6);
}

}  // namespace
}  // namespace pqcache::attention
