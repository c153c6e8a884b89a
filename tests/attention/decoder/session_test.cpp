// Sessions on a small real checkpoint: chunks, forks, refusals.

#include "attention/decoder/session.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "attention/decoder/self_text.h"
#include "storage/stores.h"
#include "tests/attention/decoder/small_decoder.h"
#include "tests/support/attention_fixture.h"
#include "tests/support/faulty_store.h"
#include "tests/support/status_matchers.h"

namespace pqcache::attention {
namespace {

using testing::ExpectError;
using testing::FaultyStore;

class SessionTest : public testing::SmallDecoderTest {
 protected:
  SessionTest() : SmallDecoderTest(60) {}
  void SetUp() override {
    SmallDecoderTest::SetUp();
    store_ = std::move(*storage::OpenPageStore("memory"));
    storage_.store = store_.get();
  }

  std::unique_ptr<Session> Start(CacheAttentionOptions options) {
    auto session = Session::Create(decoder_.get(), storage_, std::move(options));
    EXPECT_OK(session);
    return std::move(*session);
  }

  std::unique_ptr<PageStore> store_;
};

TEST_F(SessionTest, PrefillInPartsEqualsPrefillAtOnce) {
  const auto whole = Start(ExactAttention());
  const auto parts = Start(ExactAttention());
  std::vector<float> expected, found;
  ASSERT_OK(whole->Prefill(tokens_, 1, &expected));
  for (size_t begin = 0; begin < tokens_.size(); begin += 7) {
    const size_t count = std::min<size_t>(7, tokens_.size() - begin);
    ASSERT_OK(parts->Prefill(std::span(tokens_).subspan(begin, count), 1, &found));
  }
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-4);
}

TEST_F(SessionTest, ForkContinuesLikeASessionOfItsOwn) {
  const auto parent = Start(ExactAttention());
  ASSERT_OK(parent->Prefill(tokens_, 0, nullptr));
  const auto fork = parent->Fork(Flat(5));
  ASSERT_OK(fork);
  const auto alone = Start(Flat(5));
  ASSERT_OK(alone->Prefill(tokens_, 0, nullptr));
  std::vector<float> forked, expected;
  for (int64_t token : {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5}) {
    ASSERT_OK((*fork)->Step(token, &forked));
    ASSERT_OK(alone->Step(token, &expected));
    ASSERT_EQ(forked, expected);
  }
  EXPECT_EQ(parent->tokens(), 60);
}

// What a sticky step selects depends on the one before.
TEST_F(SessionTest, AForkGoesOnWithWhatItsParentRemembers) {
  const ModelSpec& spec = decoder_->spec();
  const std::vector<testing::Sequence> layers(
      static_cast<size_t>(spec.layers),
      testing::RandomSequence(1, 200, spec.heads, spec.kv_heads, spec.head_dim));
  auto codebooks = std::make_shared<CodebookSet>(*testing::RandomCodebooks(layers, "2x4"));
  codebooks->model = decoder_->fingerprint();
  storage_.codebooks = codebooks;
  CacheAttentionOptions sticky;
  sticky.policy = CreatePolicy("pq:sticky=0.99").value();
  sticky.budget.tokens = 4;
  const auto parent = Start(sticky), forgetful = Start(ExactAttention());
  std::vector<float> expected, found, forgotten;
  for (Session* session : {parent.get(), forgetful.get()}) {
    ASSERT_OK(session->Prefill(tokens_, 0, nullptr));
    for (int64_t token : {3, 1, 4, 1}) ASSERT_OK(session->Step(token, &expected));
  }
  const auto fork = parent->Fork(sticky), stranger = forgetful->Fork(sticky);
  ASSERT_OK(fork);
  ASSERT_OK(stranger);
  ASSERT_OK(parent->Step(5, &expected));
  ASSERT_OK((*fork)->Step(5, &found));
  ASSERT_OK((*stranger)->Step(5, &forgotten));
  EXPECT_EQ(found, expected);
  EXPECT_NE(forgotten, expected);
}

TEST_F(SessionTest, AskingIsSteppingWhereEverythingIsAttended) {
  for (const CacheAttentionOptions& options : {ExactAttention(), Flat(1000)}) {
    const auto asked = Start(options);
    const auto stepped = Start(options);
    std::vector<float> found, expected;
    for (const auto& session : {asked.get(), stepped.get()}) {
      ASSERT_OK(session->Prefill(tokens_, 0, nullptr));
    }
    const std::vector<int64_t> question = {3, 1, 4, 1, 5, 9, 2, 6, 5};
    ASSERT_OK(asked->Ask(question, &found));
    for (int64_t token : question) ASSERT_OK(stepped->Step(token, &expected));
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-4);
    EXPECT_EQ(asked->tokens(), 69);
    // Two tokens at a time: a quarter of the window.
    const HeadStats asked_stats = asked->stats().Total(), stepped_stats = stepped->stats().Total();
    EXPECT_EQ(asked_stats.steps * 9, stepped_stats.steps * 5);
  }
}

TEST_F(SessionTest, RefusesWhatTheModelCannotRun) {
  const auto session = Start(ExactAttention());
  std::vector<float> logits;
  ExpectError(session->Step(256, &logits), StatusCode::kInvalidArgument, "expected 0 to 255");
  ExpectError(session->Step(-1, &logits), StatusCode::kInvalidArgument, "token -1");
  const std::vector<int64_t> too_long(513, 1);
  ExpectError(session->Prefill(too_long, 0, nullptr), StatusCode::kInvalidArgument,
              "position 512, expected below the model's 512");
}

TEST_F(SessionTest, RefusesPoliciesThatTheCacheCannotServe) {
  storage_.keep_keys = false;
  ExpectError(Session::Create(decoder_.get(), storage_, Flat(5)), StatusCode::kInvalidArgument,
              "the cache keeps none");
  CacheAttentionOptions pq;
  pq.policy = std::move(*CreatePolicy("pq"));
  ExpectError(Session::Create(decoder_.get(), storage_, pq), StatusCode::kInvalidArgument,
              "no codebooks");
  CacheAttentionOptions tail = ExactAttention();
  tail.tail = TailMode::kEstimate;
  ExpectError(Session::Create(decoder_.get(), storage_, tail), StatusCode::kInvalidArgument,
              "needs a policy with scores");
}

TEST_F(SessionTest, AFailedStepEndsTheSession) {
  FaultyStore broken;
  storage_.store = &broken;
  const auto session = Start(ExactAttention());
  std::vector<float> logits;
  ASSERT_OK(session->Prefill(tokens_, 1, &logits));
  broken.loses = [](const PageKey& key) { return key.layer == 1; };
  // Layer 0 has the token, layers 1 and 2 do not: going on would mix them.
  ExpectError(session->Step(3, &logits), StatusCode::kNotFound, "layer 1");
  broken.loses = nullptr;
  ExpectError(session->Step(3, &logits), StatusCode::kNotFound, "layer 1");
  EXPECT_EQ(session->tokens(), 60);
}

TEST_F(SessionTest, PagesWithoutKeysTakeOnePrefill) {
  const ModelSpec& spec = decoder_->spec();
  auto set = std::make_shared<CodebookSet>();
  set->model = decoder_->fingerprint();
  set->rotation = "none";
  set->layers = static_cast<int>(spec.layers);
  set->kv_heads = spec.kv_heads;
  for (int i = 0; i < set->layers * set->kv_heads; ++i) {
    HeadCodebook::Parts parts;
    parts.shape = {spec.head_dim, 4, 4};
    for (int c = 0; c < 16 * spec.head_dim; ++c) {
      parts.centroids.push_back(static_cast<float>(c * 7 % 13) - 6.0f);
    }
    set->heads.push_back(std::move(*HeadCodebook::Create(std::move(parts))));
  }
  storage_.codebooks = set;
  storage_.keep_keys = false;
  storage_.value_only_pages = true;
  CacheAttentionOptions options;
  options.policy = std::move(*CreatePolicy("pq:codes_only"));
  options.budget.tokens = 5;
  const auto session = Start(options);
  std::vector<float> logits;
  ASSERT_OK(session->Prefill(tokens_, 1, &logits));
  ASSERT_OK(session->Step(3, &logits));
  ExpectError(session->Prefill(tokens_, 1, &logits), StatusCode::kInvalidArgument,
              "a second prefill after 61 tokens");
}

TEST_F(SessionTest, LoadNamesWhatIsMissing) {
  ExpectError(Decoder::Load("/no/such/model", ComputeDType::kAuto, &pool_), StatusCode::kNotFound,
              "config.json");
}

TEST_F(SessionTest, SelfTextDependsOnTheSeedAlone) {
  const SelfTextOptions options{.tokens = 100, .sequence_tokens = 20, .batch = 3, .seed = 5};
  const auto first = SampleSelfText(*decoder_, options);
  ASSERT_OK(first);
  ASSERT_EQ(first->size(), 5u);
  for (const auto& sequence : *first) EXPECT_EQ(sequence.size(), 20u);
  auto other_batch = options;
  other_batch.batch = 5;
  const auto second = SampleSelfText(*decoder_, other_batch);
  ASSERT_OK(second);
  EXPECT_EQ(*first, *second);
  auto other_seed = options;
  other_seed.seed = 6;
  EXPECT_NE(*first, *SampleSelfText(*decoder_, other_seed));
}

}  // namespace
}  // namespace pqcache::attention
