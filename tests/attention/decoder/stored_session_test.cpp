// Sessions over stored contexts: what a later process computes is what the first one would have.

#include "tests/attention/decoder/stored_session.h"

#include <gtest/gtest.h>

#include "storage/stores.h"
#include "tests/support/faulty_store.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace pqcache::attention {
namespace {

using testing::ExpectError;
using testing::FaultyStore;
using testing::StoredSession;

TEST_F(StoredSession, AnswersToTheBitLikeTheRunThatStoredIt) {
  const testing::TempDir dir;
  const std::string spec = "memory:limit=64M+rocksdb:path=" + dir.File("store");
  const auto expected = Uninterrupted();
  Save(storage::OpenPageStore(spec)->get());
  const auto store = *storage::OpenPageStore(spec);
  for (int question = 0; question < 2; ++question) {
    EXPECT_EQ(Ask(Open(store.get(), OnMissing::kFail).get()), expected);
  }
}

// What they remember of the keys is not stored: it is made again from the pages.
TEST_F(StoredSession, PoliciesThatRememberAnswerToTheBitLikeThatRun) {
  const auto flat = Uninterrupted();
  for (const char* policy : {"quest:page=4", "blocks:rep=mean,block=8", "blocks:rep=max,block=8",
                             "blocks:rep=fixed,block=8,token_step=3", "magicpig:K=2,L=8"}) {
    attention_.policy = CreatePolicy(policy).value();
    const auto expected = Uninterrupted();
    EXPECT_NE(expected, flat);
    const auto store = NewMemory();
    Save(store.get());
    EXPECT_EQ(Ask(Open(store.get(), OnMissing::kFail).get()), expected) << policy;
  }
}

TEST_F(StoredSession, ComputesAgainWhatWasLostAndAnswersTheSame) {
  const auto expected = Uninterrupted();
  const auto is_row = [](const PageKey& key) { return key.kind == PageKind::kRows; };
  const std::function<bool(const PageKey&)> hits[] = {
      [&](const PageKey& key) { return is_row(key) && key.layer == 1 && key.page == 5; },
      [&](const PageKey& key) { return is_row(key) && key.layer == 0 && key.page < 30; },
      [](const PageKey& key) { return key.kind == PageKind::kValueSums && key.layer == 1; },
      [](const PageKey& key) { return key.kind == PageKind::kValueSums && key.layer == 0; },
  };
  int computed = 0;
  for (const auto& hit : hits) {
    FaultyStore store;
    Save(&store);
    const ContextId stored = ContextCatalog(&store, {}).Find("c")->id();
    store.damages = [&](const PageKey& key) { return key.context == stored && hit(key); };
    const auto session = Open(&store, OnMissing::kRecompute);
    EXPECT_EQ(Ask(session.get()), expected);
    computed += session->recomputations();
  }
  EXPECT_GE(computed, 3);
  EXPECT_EQ(mended_, computed);
}

TEST_F(StoredSession, GoesOnInMemoryWhenItsStoreCannotBeUsed) {
  const auto expected = Uninterrupted();
  const auto is_lost = [](const PageKey& key) {
    return key.kind == PageKind::kRows && key.layer == 1 && key.page == 5;
  };
  for (const bool writable : {true, false}) {
    SCOPED_TRACE(writable ? "it loses pages again and again" : "nothing can be written");
    FaultyStore store;
    Save(&store);
    store.loses = is_lost;
    if (!writable) store.put_status = Status::IoError("no answer");
    const auto session = Open(&store, OnMissing::kRecompute);
    EXPECT_EQ(Ask(session.get()), expected);
    EXPECT_NE(&session->store(), &store);
    EXPECT_GE(session->bytes_read()["memory"], store.stats().bytes_read["memory"]);
  }
}

// The store begins to lose a page in the middle of the answer, and the recomputation needs it, too.
TEST_F(StoredSession, GoesOnInMemoryWhenTheRecomputationMissesPages) {
  const auto expected = Uninterrupted();
  FaultyStore store;
  Save(&store);
  const auto session = Open(&store, OnMissing::kRecompute);
  std::vector<std::vector<float>> logits(1);
  ASSERT_OK(session->Ask(question_, &logits.back()));
  store.loses = [](const PageKey& key) {
    return key.kind == PageKind::kRows && key.layer == 1 && key.page < 30;
  };
  for (int64_t token : {2, 7, 1, 8, 2, 8}) {
    logits.emplace_back();
    ASSERT_OK(session->Step(token, &logits.back()));
  }
  EXPECT_EQ(logits, expected);
  EXPECT_NE(&session->store(), &store);
}

TEST_F(StoredSession, AFailedRecomputationIsTheErrorOfEveryCall) {
  FaultyStore store;
  Save(&store);
  store.loses = [](const PageKey& key) { return key.layer == 1 && key.page == 5; };
  store.put_status = Status::IoError("no answer");
  const auto session = Open(&store, OnMissing::kRecompute, [] {
    auto full = std::make_unique<FaultyStore>();
    full->put_status = Status::OutOfMemory("no room");
    return full;
  });
  std::vector<float> logits;
  ExpectError(session->Ask(question_, &logits), StatusCode::kOutOfMemory, "no room");
  ExpectError(session->Step(1, &logits), StatusCode::kOutOfMemory, "no room");
}

TEST_F(StoredSession, FailsWhenThatIsTheChoice) {
  FaultyStore store;
  Save(&store);
  store.loses = [](const PageKey& key) { return key.kind == PageKind::kRows && key.page < 30; };
  ResumableOptions options;
  options.storage = storage_;
  options.attention = Flat(9);
  options.on_missing = OnMissing::kFail;
  const ContextManifest manifest = *ContextCatalog(&store, {}).Find("c");
  ExpectError(ResumableSession::Create(decoder_.get(), std::move(options),
                                       StoredPrefix{manifest, manifest.tokens}, tokens_),
              StatusCode::kNotFound, "the page is gone");
}

}  // namespace
}  // namespace pqcache::attention
