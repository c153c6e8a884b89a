// Attention over real and failing stores, forks, and any number of threads.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "attention/cache_attention.h"
#include "storage/stores.h"
#include "tests/support/attention_fixture.h"
#include "tests/support/faulty_store.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace pqcache::attention {
namespace {

using testing::ExpectError;
using testing::FaultyStore;
using testing::kAll;
using testing::RandomSequence;
using testing::Rig;
using testing::RigOptions;
using testing::RulePolicy;
using testing::Sequence;
using testing::SmallSplit;
using testing::TempDir;

using Layers = std::vector<Sequence>;

Layers TwoLayers(int64_t tokens, int heads, int kv_heads, int dim) {
  return {RandomSequence(21, tokens, heads, kv_heads, dim),
          RandomSequence(22, tokens, heads, kv_heads, dim)};
}

// Outputs of a prefill of half of the tokens and of decoding the other half.
std::vector<float> RunAll(Rig* rig, int64_t tokens) {
  std::vector<float> all = rig->Prefill(0, tokens / 2);
  for (int64_t t = tokens / 2; t < tokens; ++t) {
    const std::vector<float> out = rig->Decode(t);
    all.insert(all.end(), out.begin(), out.end());
  }
  return all;
}

TEST(CacheAttentionStore, EveryStoreGivesTheSameOutputs) {
  const Layers layers = TwoLayers(300, 4, 2, 32);
  for (const char* policy : {"pq", "pq:codes_only", "exact"}) {
    RigOptions options = SmallSplit(policy, {.tokens = 20});
    options.codebooks = testing::RandomCodebooks(layers, "8x8");
    options.attention.shadow_every = 7;
    if (options.policy == "pq:codes_only") options.cache.page.layout = PageLayout::kValueOnly;
    const std::vector<float> expected = [&] {
      Rig rig(&layers, options);
      return RunAll(&rig, 300);
    }();
    const TempDir plain, tiered;
    for (const std::string& spec : {std::string("memory:limit=64M"), "rocksdb:path=" + plain.path(),
                                    "memory:limit=150k+rocksdb:path=" + tiered.path()}) {
      const auto store = storage::OpenPageStore(spec).value();
      options.store = store.get();
      Rig rig(&layers, options);
      EXPECT_EQ(RunAll(&rig, 300), expected) << policy << " " << spec;
    }
  }
}

TEST(CacheAttentionStore, MemoryStaysUnderTheLimit) {
  const Layers layers = TwoLayers(700, 4, 2, 64);
  RigOptions options = SmallSplit("pq", {.tokens = 30});
  options.codebooks = testing::RandomCodebooks(layers, "16x4");
  constexpr uint64_t kLimit = 200 << 10;  // exact keys and values take over six times as much
  const TempDir folder;
  const auto store =
      storage::OpenPageStore("memory:limit=200k+rocksdb:path=" + folder.path()).value();
  options.store = store.get();
  Rig rig(&layers, options);
  for (int64_t t = 0; t < 600; t += 60) {
    rig.Prefill(t, t + 60);
    EXPECT_LE(store->stats().resident_bytes + rig.cache().memory_bytes(), kLimit);
  }
  for (int64_t t = 600; t < 700; ++t) {
    rig.Decode(t);
    EXPECT_LE(store->stats().resident_bytes + rig.cache().memory_bytes(), kLimit);
  }
  EXPECT_GT(rig.cache().full_bytes(), 6 * kLimit);
  EXPECT_GT(store->stats().resident_bytes, 0u);
  EXPECT_GT(store->stats().bytes_read["rocksdb"], 0u);
}

TEST(CacheAttentionStore, ALimitThatIsTooSmallIsRefusedNotExceeded) {
  const Layers layers = TwoLayers(400, 4, 2, 64);
  const TempDir folder;
  RigOptions options = SmallSplit("flat", {.tokens = 10});
  for (const std::string& spec :
       {std::string("memory:limit=300k"), "memory:limit=300k+rocksdb:path=" + folder.path()}) {
    const auto store = storage::OpenPageStore(spec).value();
    options.store = store.get();
    Rig rig(&layers, options);
    Status status;
    int64_t t = 0;
    for (; t < 400 && status.ok(); ++t) status = rig.TryDecode(t).status();
    ExpectError(status, StatusCode::kOutOfMemory, "expected at most");
    EXPECT_GT(t, 50);
  }
}

TEST(CacheAttentionStore, PagesThatAreLostOrDamagedAreNamed) {
  const Layers layers = TwoLayers(200, 4, 2, 32);
  for (const bool damaged : {false, true}) {
    for (const char* policy : {"exact", "pq", "pq:codes_only"}) {
      FaultyStore store;
      RigOptions options = SmallSplit(policy, kAll);
      options.store = &store;
      options.threads = 3;
      options.codebooks = testing::RandomCodebooks(layers, "8x4");
      if (options.policy == "pq:codes_only") options.cache.page.layout = PageLayout::kValueOnly;
      Rig rig(&layers, options);
      rig.Prefill(0, 190);
      EXPECT_OK(rig.TryDecode(190));
      (damaged ? store.damages : store.loses) = [](const PageKey& key) {
        return key.layer == 1 && key.head == 0 && key.page == 3;
      };
      ExpectError(rig.TryDecode(191), damaged ? StatusCode::kCorruption : StatusCode::kNotFound,
                  "layer 1 head 0 page 3");
    }
  }
}

TEST(CacheAttentionStore, AFullPageThatCannotBePutIsReported) {
  const Layers layers = TwoLayers(200, 4, 2, 32);
  FaultyStore store;
  RigOptions options = SmallSplit("flat", {.tokens = 4});
  options.store = &store;
  Rig rig(&layers, options);
  rig.Prefill(0, 24 + 15);
  store.put_status = Status::IoError("disk full");
  ExpectError(rig.TryDecode(24 + 15), StatusCode::kIoError, "disk full");
}

TEST(CacheAttentionStore, OnlyPagesWithSelectedTokensAreReadOnceAStep) {
  const Layers layers = {RandomSequence(23, 600, 6, 3, 8)};
  const auto reads_of = [&](const RigOptions& base, int page_tokens) {
    FaultyStore store;
    RigOptions options = base;
    options.store = &store;
    options.cache.page.page_tokens = page_tokens;
    Rig rig(&layers, options);
    rig.Prefill(0, 599);
    store.pages_read.clear();
    rig.Decode(599);
    EXPECT_LE(store.largest_batch, 128u);  // what is held at once has a bound
    return store.pages_read;
  };
  EXPECT_TRUE(reads_of(SmallSplit("flat", {.tokens = 0}), 16).empty());

  // 576 tokens are in pages; candidate 0 is token 4.
  RigOptions one = SmallSplit("", {});
  one.attention.policy = std::make_shared<RulePolicy>([](int64_t t) { return t == 96; });
  EXPECT_EQ(reads_of(one, 16), (std::map<int64_t, int>{{6, 3}}));
  RigOptions open = SmallSplit("", {});
  open.attention.policy = std::make_shared<RulePolicy>([](int64_t t) { return t >= 566; });
  EXPECT_TRUE(reads_of(open, 19).empty());  // page 30 is open: tokens 570 to 575

  RigOptions all = SmallSplit("flat", kAll);
  for (const bool per_head : {false, true}) {
    all.attention.per_head = per_head;
    const std::map<int64_t, int> pages = reads_of(all, 1);
    EXPECT_EQ(pages.size(), 572u);  // neither sinks nor window
    EXPECT_TRUE(std::ranges::all_of(pages, [](const auto& page) { return page.second == 3; }));
  }
}

TEST(CacheAttentionStore, ThreadsAndRepetitionDoNotChangeABit) {
  const Layers layers = TwoLayers(260, 15, 5, 32);
  struct Case {
    const char* policy;
    SelectionBudget budget;
    bool per_head;
    TailMode tail;
  };
  for (const Case& c : {Case{"pq", {.tokens = 20}, false, TailMode::kEstimate},
                        Case{"pq", {.mass = 0.8}, true, TailMode::kDrop},
                        Case{"flat", {.ratio = 0.1}, true, TailMode::kEstimate},
                        Case{"pq:codes_only", {.mass = 0.7}, false, TailMode::kEstimate}}) {
    RigOptions options = SmallSplit(c.policy, c.budget);
    options.attention.per_head = c.per_head;
    options.attention.tail = c.tail;
    options.attention.shadow_every = 3;
    options.codebooks = testing::RandomCodebooks(layers, "8x8");
    std::vector<float> expected;
    HeadStats expected_stats;
    for (const int threads : {1, 1, 2, 3, 8}) {
      options.threads = threads;
      Rig rig(&layers, options);
      const std::vector<float> out = RunAll(&rig, 260);
      const HeadStats stats = rig.stats().Total();
      if (expected.empty()) {
        expected = out;
        expected_stats = stats;
      }
      EXPECT_EQ(out, expected) << c.policy << " " << threads << " threads";
      EXPECT_EQ(stats.selected, expected_stats.selected);
      EXPECT_EQ(stats.missed_mass, expected_stats.missed_mass);
      EXPECT_EQ(stats.recall, expected_stats.recall);
      EXPECT_EQ(stats.output_error, expected_stats.output_error);
    }
  }
}

TEST(CacheAttentionStore, AForkContinuesAsIfItHadNoParent) {
  const Layers layers = TwoLayers(200, 4, 2, 32);
  Layers other = layers;
  for (Sequence& s : other) {
    const Sequence fresh = RandomSequence(31, 200, 4, 2, 32);
    std::copy(fresh.queries.begin() + 120 * 128, fresh.queries.end(),
              s.queries.begin() + 120 * 128);
    std::copy(fresh.keys.begin() + 120 * 64, fresh.keys.end(), s.keys.begin() + 120 * 64);
    std::copy(fresh.values.begin() + 120 * 64, fresh.values.end(), s.values.begin() + 120 * 64);
  }
  const TempDir folder;
  for (const char* policy : {"pq", "flat", "pq:codes_only"}) {
    const auto store =
        storage::OpenPageStore("memory:limit=1M+rocksdb:path=" + folder.path()).value();
    RigOptions options = SmallSplit(policy, {.tokens = 12});
    options.store = store.get();
    options.attention.tail = TailMode::kEstimate;
    options.codebooks = testing::RandomCodebooks(layers, "8x8");
    if (options.policy == "pq:codes_only") options.cache.page.layout = PageLayout::kValueOnly;
    Rig straight(&layers, options), straight_other(&other, options), parent(&layers, options);
    straight.Prefill(0, 120);
    straight_other.Prefill(0, 120);
    parent.Prefill(0, 120);
    {
      Rig fork(parent, &other);
      for (int64_t t = 120; t < 200; ++t) ASSERT_EQ(fork.Decode(t), straight_other.Decode(t));
    }
    for (int64_t t = 120; t < 200; ++t) ASSERT_EQ(parent.Decode(t), straight.Decode(t));
  }
}

}  // namespace
}  // namespace pqcache::attention
