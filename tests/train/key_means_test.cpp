#include "train/key_means.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "pqcache/base/thread_pool.h"
#include "tests/support/status_matchers.h"
#include "tests/train/synthetic.h"
#include "train/codebook_trainer.h"

namespace pqcache::train {
namespace {

using namespace pqcache::testing;

constexpr int kDim = 16;
const std::vector<float> kFrequencies = {0.9f, 0.1f, 0.02f, 0.003f, 0.0005f, 0.0001f};
// Channels 12 to 15 are not turned.
const std::vector<float> kMean = {3, -2, 4, 1, -3, 2, 0, 5, -1, 2, 2, -4, 1, 2, 3, 4};

// kMean at every position, and noise.
HeadSamples SamplesAround(int64_t n, float noise, uint64_t seed) {
  HeadSamples samples;
  samples.query_positions.resize(static_cast<size_t>(n));
  samples.queries = NormalRows(n, kDim, MixSeed(seed, 1));
  samples.keys = NormalRows(n, kDim, MixSeed(seed, 2));
  Random random(seed);
  for (int64_t i = 0; i < n; ++i) {
    samples.positions.push_back(static_cast<int64_t>(random.Below(16000)));
    std::vector<float> mean = kMean;
    TurnByPositions(kFrequencies, static_cast<double>(samples.positions.back()), mean.data());
    for (int d = 0; d < kDim; ++d) {
      samples.keys[i * kDim + d] = noise * samples.keys[i * kDim + d] + mean[d];
    }
  }
  return samples;
}

TEST(KeyMeans, AreFoundAgain) {
  const HeadSamples samples = SamplesAround(4000, 1, 1);
  const auto mean = MeasurePositionMean(kDim, samples.keys, samples.positions, kFrequencies);
  ASSERT_OK(mean);
  for (int d = 0; d < kDim; ++d) {
    EXPECT_NEAR(mean->mean()[d], kMean[d], 5 / std::sqrt(4000.0)) << d;
  }
}

TEST(KeyMeans, LeaveWhatTheyDoNotSay) {
  const HeadSamples samples = SamplesAround(2000, 0, 2);
  const PositionMean mean =
      MeasurePositionMean(kDim, samples.keys, samples.positions, kFrequencies).value();
  std::vector<float> keys = samples.keys;
  SubtractPositionMean(mean, samples.positions, kDim, &keys);
  for (size_t i = 0; i < samples.positions.size(); ++i) {
    // Exactly nothing of channels that are not turned, little of those that turn slowly.
    for (int d = 12; d < kDim; ++d) EXPECT_NEAR(keys[i * kDim + d], 0, 1e-4);
    for (int pair : {3, 4, 5}) EXPECT_LT(std::abs(keys[i * kDim + pair]), 0.6);
  }
}

TEST(KeyMeans, SizesMustFit) {
  const std::vector<float> keys(3 * kDim, 1.0f);
  const std::vector<int64_t> positions = {1, 2, 3};
  ExpectError(MeasurePositionMean(kDim, keys, {}, kFrequencies), StatusCode::kInvalidArgument,
              "found 0 positions of 3 sample keys");
  ExpectError(MeasurePositionMean(kDim, keys, positions, {}), StatusCode::kInvalidArgument,
              "found 0 frequencies, expected 1 to 8");
  ExpectError(MeasurePositionMean(kDim, keys, positions, std::vector<float>(9, 0.1f)),
              StatusCode::kInvalidArgument, "found 9 frequencies");
}

// Mean squared error of decoded keys.
double ErrorOf(const HeadCodebook& codebook) {
  double error = 0;
  constexpr int64_t kKeys = 4096;
  std::vector<float> keys = NormalRows(kKeys, kDim, 9);
  for (int64_t t = 0; t < kKeys; ++t) {
    std::vector<float> mean = kMean;
    TurnByPositions(kFrequencies, static_cast<double>(t), mean.data());
    for (int d = 0; d < kDim; ++d) keys[t * kDim + d] = 0.5f * keys[t * kDim + d] + mean[d];
  }
  std::vector<uint8_t> codes(kKeys * codebook.shape().subspaces);
  std::vector<float> decoded(keys.size());
  codebook.Encode(0, kKeys, keys.data(), codes.data());
  codebook.Decode(0, kKeys, codes.data(), decoded.data());
  for (size_t i = 0; i < keys.size(); ++i) {
    error += (keys[i] - decoded[i]) * (keys[i] - decoded[i]) / kKeys;
  }
  return error;
}

TEST(KeyMeans, CodesOfTheSameSizeAreCloserWithThem) {
  KeySamples samples;
  samples.layers = samples.kv_heads = samples.group = 1;
  samples.dim = kDim;
  samples.heads.push_back(SamplesAround(6000, 0.5f, 3));
  TrainOptions options;
  options.shape = {kDim, 4, 4};
  ThreadPool pool(1);
  const auto without = TrainCodebooks(samples, options, &pool);
  ASSERT_OK(without);
  options.frequencies = kFrequencies;
  const auto with = TrainCodebooks(samples, options, &pool);
  ASSERT_OK(with);
  EXPECT_TRUE(without->head(0, 0).position_mean().empty());
  EXPECT_LT(ErrorOf(with->head(0, 0)), 0.5 * ErrorOf(without->head(0, 0)));
}

}  // namespace
}  // namespace pqcache::train
