#pragma once

// A stored context of a small checkpoint and questions about it, beside the run that computes it.

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <vector>

#include "attention/decoder/resumable_session.h"
#include "pqcache/cache/context_catalog.h"
#include "storage/memory_page_store.h"
#include "tests/attention/decoder/small_decoder.h"
#include "tests/support/status_matchers.h"

namespace pqcache::testing {

using attention::OnMissing;
using attention::ResumableOptions;
using attention::ResumableSession;
using attention::Session;

class StoredSession : public SmallDecoderTest {
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
    const auto session = Session::Create(decoder_.get(), storage_, attention_);
    EXPECT_OK((*session)->Prefill(tokens_, 0, nullptr));
    return Ask(session->get());
  }
  void Save(PageStore* store) {
    storage_.store = store;
    const auto session = Session::Create(decoder_.get(), storage_, attention::ExactAttention());
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
    options.attention = attention_;
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
  attention::CacheAttentionOptions attention_ = Flat(9);
  int mended_ = 0;
};

}  // namespace pqcache::testing
