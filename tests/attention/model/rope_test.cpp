#include "attention/model/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <optional>
#include <string>
#include <vector>

#include "attention/model/checkpoint.h"
#include "pqcache/base/random.h"
#include "tests/support/status_matchers.h"

namespace pqcache::attention {
namespace {

RopeSpec Spec(int rotary_dim, double theta) {
  RopeSpec spec;
  spec.rotary_dim = rotary_dim;
  spec.theta = theta;
  return spec;
}

TEST(Rope, FrequenciesByHand) {
  EXPECT_EQ(Rope(Spec(2, 10000)).frequencies(), std::vector<double>{1.0});
  const Rope rope(Spec(8, 10000));
  const double expected[] = {1.0, 0.1, 0.01, 0.001};
  ASSERT_EQ(rope.frequencies().size(), 4u);
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(rope.frequencies()[i], expected[i], 1e-15);
}

TEST(Rope, LinearScalingSlowsEveryPair) {
  RopeSpec spec = Spec(8, 10000);
  spec.kind = RopeSpec::Kind::kLinear;
  spec.factor = 4.0;
  const double expected[] = {0.25, 0.025, 0.0025, 0.00025};
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(Rope(spec).frequencies()[i], expected[i], 1e-15);
}

// Written as in the text of the release, by wavelengths.
TEST(Rope, Llama3Scaling) {
  RopeSpec spec = Spec(128, 500000);
  spec.kind = RopeSpec::Kind::kLlama3;
  spec.factor = 8.0;
  spec.low_freq_factor = 1.0;
  spec.high_freq_factor = 4.0;
  spec.original_max_positions = 8192;
  const Rope rope(spec);
  int kept = 0, slowed = 0, between = 0;
  for (int i = 0; i < 64; ++i) {
    const double base = std::exp(-std::log(500000.0) * (2.0 * i) / 128.0);
    const double wavelength = 2.0 * std::numbers::pi / base;
    double expected = 0;
    if (wavelength < 8192.0 / 4.0) {
      expected = base;
      ++kept;
    } else if (wavelength > 8192.0 / 1.0) {
      expected = base / 8.0;
      ++slowed;
    } else {
      const double smooth = (8192.0 / wavelength - 1.0) / (4.0 - 1.0);
      expected = (1.0 - smooth) * base / 8.0 + smooth * base;
      ++between;
    }
    EXPECT_NEAR(rope.frequencies()[static_cast<size_t>(i)] / expected, 1.0, 1e-12) << "pair " << i;
  }
  EXPECT_GT(kept, 20);
  EXPECT_GT(slowed, 20);
  EXPECT_GT(between, 4);
}

TEST(Rope, RotatesByHand) {
  // One pair of frequency 1 (channels 0 and 2) and one of 0.01 (1 and 3); channel 4 stays.
  const Rope rope(Spec(4, 10000));
  const std::vector<int64_t> positions = {0, 2};
  std::vector<float> x = {1, 2, 3, 4, 5, 1, 2, 3, 4, 5};
  rope.Apply(2, positions.data(), 1, 5, x.data());
  EXPECT_EQ(std::vector<float>(x.begin(), x.begin() + 5), (std::vector<float>{1, 2, 3, 4, 5}));
  EXPECT_NEAR(x[5], 1 * std::cos(2.0) - 3 * std::sin(2.0), 1e-6);
  EXPECT_NEAR(x[7], 3 * std::cos(2.0) + 1 * std::sin(2.0), 1e-6);
  EXPECT_NEAR(x[6], 2 * std::cos(0.02) - 4 * std::sin(0.02), 1e-6);
  EXPECT_NEAR(x[8], 4 * std::cos(0.02) + 2 * std::sin(0.02), 1e-6);
  EXPECT_EQ(x[9], 5.0f);
}

TEST(Rope, EveryHeadOfARowGetsTheSameRotation) {
  const Rope rope(Spec(6, 10000));
  Random random(5);
  const std::vector<int64_t> positions = {7, 3, 100000};
  std::vector<float> x(3 * 4 * 8);
  for (float& v : x) v = random.Normal();
  std::vector<float> one_by_one = x;
  rope.Apply(3, positions.data(), 4, 8, x.data());
  for (size_t row = 0; row < 3; ++row) {
    for (size_t head = 0; head < 4; ++head) {
      rope.Apply(1, &positions[row], 1, 8, &one_by_one[(row * 4 + head) * 8]);
    }
  }
  EXPECT_EQ(x, one_by_one);
}

TEST(Rope, ScoresDependOnTheDistanceOnly) {
  const Rope rope(Spec(64, 10000));
  Random random(9);
  std::vector<float> q(64), k(64);
  for (float& v : q) v = random.Normal();
  for (float& v : k) v = random.Normal();
  const auto score = [&](int64_t at_q, int64_t at_k) {
    std::vector<float> a = q, b = k;
    rope.Apply(1, &at_q, 1, 64, a.data());
    rope.Apply(1, &at_k, 1, 64, b.data());
    double sum = 0;
    for (size_t i = 0; i < 64; ++i) sum += double{a[i]} * b[i];
    return sum;
  };
  // Angles in single precision would fail here.
  EXPECT_NEAR(score(1000, 900), score(67108863, 67108763), 1e-4);
  EXPECT_GT(std::abs(score(1000, 900) - score(1000, 901)), 1e-3);
}

TEST(Rope, NoRows) { Rope(Spec(4, 10000)).Apply(0, nullptr, 2, 4, nullptr); }

// Keys of the first layer as transformers computed them: embedding, norm, projection, rotation.
class ReferenceKeys : public ::testing::TestWithParam<std::string> {
 protected:
  std::vector<float> Weights(const std::string& module, const char* kind) {
    return *model_->ReadFloats(ModuleFor(module, 0) + kind);
  }
  void Norm(const std::string& module, double eps, float* x, size_t width);
  std::optional<Checkpoint> model_;
};

void ReferenceKeys::Norm(const std::string& module, double eps, float* x, size_t width) {
  const std::vector<float> weight = Weights(module, ".weight");
  const bool centered = model_->Find(ModuleFor(module, 0) + ".bias") != nullptr;
  const std::vector<float> bias =
      centered ? Weights(module, ".bias") : std::vector<float>(width, 0.0f);
  double mean = 0, square = 0;
  for (size_t i = 0; centered && i < width; ++i) mean += x[i] / static_cast<double>(width);
  for (size_t i = 0; i < width; ++i) square += (x[i] - mean) * (x[i] - mean);
  const double scale = 1.0 / std::sqrt(square / static_cast<double>(width) + eps);
  for (size_t i = 0; i < width; ++i) {
    x[i] = static_cast<float>((x[i] - mean) * scale * weight[i] + bias[i]);
  }
}

TEST_P(ReferenceKeys, AreReproduced) {
  const std::string dir = std::string(PQCACHE_SOURCE_DIR) + "/tests/fixtures/hf/" + GetParam();
  const ModelSpec spec = *LoadModelSpec(dir);
  model_.emplace(*Checkpoint::Open(dir));
  const Checkpoint reference = *Checkpoint::Open(dir + "/reference.safetensors");
  std::vector<int64_t> tokens(64);
  ASSERT_OK(reference.Read("input_ids", tokens.data(), tokens.size() * 8));
  const std::vector<float> expected = *reference.ReadFloats("keys.0");
  const size_t stored = static_cast<size_t>(reference.Find("keys.0")->shape[2]);

  const bool fused = !spec.names.fused_qkv.empty();
  const std::string module = fused ? spec.names.fused_qkv : spec.names.key;
  const std::vector<float> embedding = Weights(spec.names.embedding, ".weight");
  const std::vector<float> weight = Weights(module, ".weight");
  const std::vector<float> bias = spec.qkv_bias ? Weights(module, ".bias") : std::vector<float>();
  const size_t hidden = static_cast<size_t>(spec.hidden), dim = static_cast<size_t>(spec.head_dim);
  const size_t heads = static_cast<size_t>(spec.kv_heads);
  const Rope rope(spec.rope);
  // With a window the reference has kept the last keys only.
  for (size_t t = tokens.size() - stored; t < tokens.size(); ++t) {
    const float* row = &embedding[static_cast<size_t>(tokens[t]) * hidden];
    std::vector<float> x(row, row + hidden);
    Norm(spec.names.attention_norm, spec.norm_eps, x.data(), hidden);
    std::vector<float> keys(heads * dim);
    for (size_t i = 0; i < keys.size(); ++i) {
      const size_t out = fused ? (i / dim * 3 + 1) * dim + i % dim : i;
      double sum = bias.empty() ? 0.0 : bias[out];
      for (size_t j = 0; j < hidden; ++j) sum += double{weight[out * hidden + j]} * x[j];
      keys[i] = static_cast<float>(sum);
    }
    for (size_t head = 0; head < heads && !spec.names.key_norm.empty(); ++head) {
      Norm(spec.names.key_norm, spec.norm_eps, &keys[head * dim], dim);
    }
    const int64_t position = static_cast<int64_t>(t);
    rope.Apply(1, &position, spec.kv_heads, spec.head_dim, keys.data());
    for (size_t i = 0; i < keys.size(); ++i) {
      const size_t at = (i / dim * stored + t - (tokens.size() - stored)) * dim + i % dim;
      ASSERT_NEAR(keys[i], expected[at], 2e-4) << "token " << t << " channel " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Fixtures, ReferenceKeys,
                         ::testing::Values("llama_mha", "llama_gqa_rope3_tied", "mistral_window",
                                           "qwen2", "qwen3", "gpt_neox_parallel"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace pqcache::attention
