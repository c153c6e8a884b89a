// Sessions over stored contexts: what a later process computes is what the first one would have.

#include <gtest/gtest.h>

#include "attention/decoder/resumable_session.h"
#include "pqcache/cache/context_catalog.h"
#include "storage/memory_page_store.h"
#include "storage/stores.h"
#include "tests/attention/decoder/small_decoder.h"
#include "tests/support/faulty_store.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace pqcache::attention {
namespace {

using testing::ExpectError;
using testing::FaultyStore;

class StoredSession : public testing::SmallDecoderTest {
 protected:
  StoredSession() : SmallDecoderTest(150) {}

  // Logits behind the question, and behind each token of an answer.
  template <typename S>
  std::vector<std::vector<float>> Ask(S* session) {
    std::vector<std::vector<float>> logits(1);
    EXPECT_OK(session->Ask(question_, &logits.back()));
    for (int64_t token : {2, 7, 1, 8, 2, 8}) {
      logits.emplace_back();
      EXPECT_OK(session->Step(token, &logits.back()));
    }
    return logits;
  }
  // What a run gives that computes the context and goes on.
  std::vector<std::vector<float>> Uninterrupted() {
    storage::MemoryPageStore store(storage::kNoMemoryLimit);
    storage_.store = &store;
    const auto session = Session::Create(decoder_.get(), storage_, Flat(9));
    EXPECT_OK((*session)->Prefill(tokens_, 0, nullptr));
    return Ask(session->get());
  }
  void Save(PageStore* store) {
    storage_.store = store;
    const auto session = Session::Create(decoder_.get(), storage_, ExactAttention());
    ASSERT_OK((*session)->Prefill(tokens_, 0, nullptr));
    const auto published = (*session)->Save("c", tokens_);
    ASSERT_OK(published);
    ASSERT_TRUE(*published);
  }
  static std::unique_ptr<PageStore> NewMemory() {
    return std::make_unique<storage::MemoryPageStore>(storage::kNoMemoryLimit);
  }
  std::unique_ptr<ResumableSession> Open(
      PageStore* store, OnMissing on_missing,
      const std::function<std::unique_ptr<PageStore>()>& make_memory_store = NewMemory) {
    ResumableOptions options;
    options.storage = storage_;
    options.storage.store = store;
    options.attention = Flat(9);
    options.on_missing = on_missing;
    options.make_memory_store = make_memory_store;
    options.on_recomputed = [this](Session*) { ++mended_; };
    const ContextManifest manifest = *ContextCatalog(store, {}).Find("c");
    auto session = ResumableSession::Create(decoder_.get(), std::move(options),
                                            StoredPrefix{manifest, manifest.tokens}, tokens_);
    EXPECT_OK(session);
    return std::move(*session);
  }

  const std::vector<int64_t> question_ = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5};
  int mended_ = 0;
};

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
    EXPECT_GT(session->bytes_read()["memory"], store.stats().bytes_read["memory"]);
  }
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
