// Sessions under policies that drop tokens, on a small real checkpoint.

#include <gtest/gtest.h>

#include <cmath>

#include "attention/decoder/token_sampler.h"
#include "storage/stores.h"
#include "tests/attention/decoder/small_decoder.h"
#include "tests/support/status_matchers.h"

namespace pqcache::attention {
namespace {

using testing::ExpectError;

class DroppingSessionTest : public testing::SmallDecoderTest {
 protected:
  DroppingSessionTest() : SmallDecoderTest(200) {}
  void SetUp() override {
    SmallDecoderTest::SetUp();
    store_ = std::move(*storage::OpenPageStore("memory"));
    storage_.store = store_.get();
    storage_.keep_keys = false;
  }

  static CacheAttentionOptions Options(const std::string& policy, int64_t tokens = 10) {
    CacheAttentionOptions options;
    options.policy = std::move(*CreatePolicy(policy));
    options.budget.tokens = tokens;
    return options;
  }
  std::unique_ptr<Session> Start(CacheAttentionOptions options) {
    auto session = Session::Create(decoder_.get(), storage_, std::move(options));
    EXPECT_OK(session);
    return std::move(*session);
  }

  std::unique_ptr<PageStore> store_;
};

constexpr const char* kPolicies[] = {"streaming", "recent", "h2o", "snapkv"};

TEST_F(DroppingSessionTest, WhatIsDroppedIsFreed) {
  for (const std::string policy : kPolicies) {
    const auto session = Start(Options(policy));
    ASSERT_OK(session->Prefill(tokens_, 0, nullptr));
    const uint64_t before = store_->stats().resident_bytes;
    EXPECT_GT(before, session->full_bytes() / 2);
    EXPECT_FALSE(session->dropped());
    std::vector<float> logits;
    ASSERT_OK(session->Step(7, &logits));
    EXPECT_TRUE(session->dropped());
    EXPECT_EQ(store_->stats().resident_bytes, 0u) << policy;
    EXPECT_LT(session->memory_bytes_for(ScoreSource::kNone), session->full_bytes() / 2) << policy;
    const ModelSpec& spec = decoder_->spec();
    EXPECT_EQ(session->full_bytes(),
              uint64_t{201} * 2 * sizeof(float) *
                  static_cast<uint64_t>(spec.layers * spec.kv_heads * spec.head_dim));
  }
}

TEST_F(DroppingSessionTest, WithRoomForAllTokensAreThoseOfExactAttention) {
  const auto exact = Start(ExactAttention());
  ASSERT_OK(exact->Prefill(tokens_, 0, nullptr));
  for (const std::string policy : kPolicies) {
    const auto session = Start(Options(policy, 1000));
    ASSERT_OK(session->Prefill(tokens_, 0, nullptr));
    const auto fork = exact->Fork(ExactAttention());
    ASSERT_OK(fork);
    std::vector<float> found, expected;
    int64_t token = 11;
    for (int i = 0; i < 20; ++i) {
      ASSERT_OK(session->Step(token, &found));
      ASSERT_OK((*fork)->Step(token, &expected));
      token = ArgMax(expected);
      ASSERT_EQ(ArgMax(found), token) << policy;
    }
  }
}

TEST_F(DroppingSessionTest, AForkDropsWhatItsParentKeeps) {
  for (const std::string policy : kPolicies) {
    CacheAttentionOptions exact = ExactAttention();
    exact.needs = CreatePolicy(policy).value()->prompt_needs();
    const auto parent = Start(exact);
    ASSERT_OK(parent->Prefill(tokens_, 0, nullptr));
    const auto fork = parent->Fork(Options(policy));
    ASSERT_OK(fork);
    const auto alone = Start(Options(policy));
    ASSERT_OK(alone->Prefill(tokens_, 0, nullptr));
    std::vector<float> forked, expected;
    for (const int64_t token : {3, 1, 4, 1, 5, 9, 2, 6}) {
      ASSERT_OK((*fork)->Step(token, &forked));
      ASSERT_OK(alone->Step(token, &expected));
      ASSERT_EQ(forked, expected) << policy;
    }
    EXPECT_EQ((*fork)->stats().Total().steps, alone->stats().Total().steps);
  }
}

// The model has 512 positions.
TEST_F(DroppingSessionTest, AStreamGoesOnBeyondTheModelsPositions) {
  const auto session = Start(Options("streaming", 20));
  std::vector<float> logits;
  uint64_t bytes = 0;
  for (int64_t t = 0; t < 2000; ++t) {
    ASSERT_OK(session->Step(tokens_[static_cast<size_t>(t % 200)], &logits));
    for (const float x : logits) ASSERT_TRUE(std::isfinite(x)) << t;
    if (t == 100) bytes = session->memory_bytes_for(ScoreSource::kNone);
  }
  EXPECT_EQ(session->memory_bytes_for(ScoreSource::kNone), bytes);
  EXPECT_EQ(store_->stats().resident_bytes, 0u);

  const auto positions = Start(Options("streaming:positions=text", 20));
  ASSERT_OK(positions->Prefill(tokens_, 0, nullptr));
  std::vector<int64_t> rest(400, 5);
  ExpectError(positions->Ask(rest, &logits), StatusCode::kInvalidArgument,
              "expected below the model's 512");
}

TEST_F(DroppingSessionTest, RefusesWhatNeedsAllTokens) {
  const auto session = Start(Options("streaming"));
  ASSERT_OK(session->Prefill(tokens_, 0, nullptr));
  std::vector<float> logits;
  ASSERT_OK(session->Step(7, &logits));
  ExpectError(session->Prefill(tokens_, 0, nullptr), StatusCode::kInvalidArgument, "dropped");
  ExpectError(session->Fork(ExactAttention()), StatusCode::kInvalidArgument, "dropped");
  ExpectError(session->Save("name", tokens_), StatusCode::kInvalidArgument, "dropped");
  ASSERT_OK(session->Step(7, &logits));
}

TEST_F(DroppingSessionTest, RefusesAPromptThatWasNotWatched) {
  const auto parent = Start(ExactAttention());
  ASSERT_OK(parent->Prefill(tokens_, 0, nullptr));
  ExpectError(parent->Fork(Options("h2o")), StatusCode::kInvalidArgument, "recorded");
}

}  // namespace
}  // namespace pqcache::attention
