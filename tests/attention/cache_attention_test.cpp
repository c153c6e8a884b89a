// Attention through the cache equals exact attention wherever it must: with a budget for
// everything, or over the tokens that the split leaves, whatever the shapes.

#include "attention/cache_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "pqcache/base/half.h"
#include "tests/support/attention_fixture.h"
#include "tests/support/status_matchers.h"

namespace pqcache::attention {
namespace {

using testing::ExactRow;
using testing::ExpectError;
using testing::kAll;
using testing::MaxDifference;
using testing::RandomSequence;
using testing::Rig;
using testing::RigOptions;
using testing::RulePolicy;
using testing::Sequence;
using testing::Split;

using Layers = std::vector<Sequence>;

RigOptions Options(const std::string& policy, SelectionBudget budget = kAll) {
  return testing::SmallSplit(policy, budget);
}

// Decodes [begin, s.tokens) after a prefill; every row must equal exact attention over `keep`.
void ExpectExactDecode(const Layers& layers, const RigOptions& options, int64_t begin,
                       const Sequence& expected) {
  Rig rig(&layers, options);
  if (begin > 0) rig.Prefill(0, begin);
  for (int64_t t = begin; t < layers[0].tokens; ++t) {
    const auto exact = ExactRow(expected, t, {}, options.attention.sliding_window);
    ASSERT_LT(MaxDifference(rig.Decode(t), exact), 1e-5) << "token " << t;
  }
}

TEST(CacheAttention, WithABudgetForAllItIsExactForEveryShape) {
  for (const int group : {1, 4, 7}) {
    for (const int dim : {64, 80, 128}) {
      const Layers layers = {RandomSequence(1, 150, 2 * group, 2, dim)};
      for (const char* policy : {"flat", "pq", "exact"}) {
        for (const bool per_head : {false, true}) {
          SCOPED_TRACE(std::string(policy) + " group " + std::to_string(group) + " dim " +
                       std::to_string(dim) + (per_head ? " per head" : ""));
          RigOptions options = Options(policy);
          options.attention.per_head = per_head;
          if (options.policy == "pq") options.codebooks = testing::RandomCodebooks(layers, "16x4");
          ExpectExactDecode(layers, options, 140, layers[0]);
        }
      }
    }
  }
}

TEST(CacheAttention, CodesOnlyWithABudgetForAllIsExactOverDecodedKeys) {
  for (const int group : {1, 4, 7}) {
    for (const int dim : {64, 80, 128}) {
      for (const char* pq : {"8x8", "16x4"}) {
        const Layers layers = {RandomSequence(2, 150, 2 * group, 2, dim)};
        for (const bool per_head : {false, true}) {
          RigOptions options = Options("pq:codes_only");
          options.cache.page.layout = PageLayout::kValueOnly;
          options.attention.per_head = per_head;
          options.codebooks = testing::RandomCodebooks(layers, pq, dim != 80);
          Rig rig(&layers, options);
          rig.Prefill(0, 145);
          for (int64_t t = 145; t < 150; ++t) {
            const Sequence decoded =
                testing::WithDecodedKeys(layers[0], *options.codebooks, 0, 4, t + 1 - 24);
            EXPECT_LT(MaxDifference(rig.Decode(t), ExactRow(decoded, t)), 1e-5)
                << pq << " group " << group << " dim " << dim << " token " << t;
          }
        }
      }
    }
  }
}

// Where sinks, window, pages and the open page meet: all of the tokens, every third, and none.
TEST(CacheAttention, EverySplitIntoSinksWindowAndPagesIsTheSame) {
  const Layers layers = {RandomSequence(3, 330, 2, 1, 16)};
  const auto every_third = std::make_shared<RulePolicy>(testing::EveryThird);
  for (const int n_sink : {0, 1, 16, 100}) {
    for (const int window : {1, 2, 63, 64, 65, 300}) {
      for (const int page_tokens : {1, 2, 63, 64}) {
        SCOPED_TRACE("n_sink " + std::to_string(n_sink) + " window " + std::to_string(window) +
                     " page_tokens " + std::to_string(page_tokens));
        RigOptions options = Options("flat");
        options.cache.n_sink = n_sink;
        options.cache.local_window = window;
        options.cache.page.page_tokens = page_tokens;
        RigOptions third = options, nothing = options;
        third.attention.policy = every_third;
        nothing.attention.budget = {};
        Rig all_rig(&layers, options), third_rig(&layers, third), none_rig(&layers, nothing);
        for (Rig* rig : {&all_rig, &third_rig, &none_rig}) rig->Prefill(0, 160);
        for (int64_t t = 160; t < 330; ++t) {
          const auto all = all_rig.Decode(t), thirds = third_rig.Decode(t),
                     none = none_rig.Decode(t);
          if (t % 41 != 0 && t < 325) continue;  // judging every step would take too long
          const Split split = all_rig.SplitAt(t);
          std::vector<int64_t> chosen;
          for (int64_t i = split.begin + 1; i < split.end; i += 3) chosen.push_back(i);
          ASSERT_LT(MaxDifference(all, ExactRow(layers[0], t)), 1e-5) << t;
          ASSERT_LT(MaxDifference(thirds, ExactRow(layers[0], t, split.Keep(t + 1, chosen))), 1e-5)
              << t;
          ASSERT_LT(MaxDifference(none, ExactRow(layers[0], t, split.Keep(t + 1))), 1e-5) << t;
        }
      }
    }
  }
}

TEST(CacheAttention, ContextsOfEveryLengthFromNothing) {
  const Layers layers = {RandomSequence(4, 70, 4, 2, 16)};
  for (const int page_tokens : {1, 4, 16}) {
    for (const int window : {1, 5, 16}) {
      for (const char* policy : {"flat", "pq", "pq:codes_only"}) {
        RigOptions options = Options(policy);
        options.cache.n_sink = 0;
        options.cache.local_window = window;
        options.cache.page.page_tokens = page_tokens;
        options.attention.tail = TailMode::kEstimate;
        options.attention.shadow_every = 1;
        options.codebooks = testing::RandomCodebooks(layers, "8x8");
        const bool codes_only = options.policy == "pq:codes_only";
        Rig rig(&layers, options);
        for (int64_t t = 0; t < 70; ++t) {
          const Sequence expected =
              codes_only ? testing::WithDecodedKeys(layers[0], *options.codebooks, 0, 0,
                                                    std::max<int64_t>(0, t + 1 - window))
                         : layers[0];
          ASSERT_LT(MaxDifference(rig.Decode(t), ExactRow(expected, t)), 1e-5)
              << policy << " token " << t;
        }
      }
    }
  }
}

TEST(CacheAttention, PrefillOfOneTokenThenDecode) {
  const Layers layers = {RandomSequence(5, 20, 4, 2, 16)};
  ExpectExactDecode(layers, Options("flat"), 1, layers[0]);
}

TEST(CacheAttention, DecodeEqualsTheRowOfPrefill) {
  const Layers layers = {RandomSequence(6, 120, 4, 2, 32), RandomSequence(7, 120, 4, 2, 32)};
  Rig prefill(&layers, Options("exact")), decode(&layers, Options("flat"));
  const std::vector<float> rows = prefill.Prefill(0, 120);
  decode.Prefill(0, 60);
  const size_t row = 4 * 32;
  for (size_t t = 60; t < 120; ++t) {
    const std::vector<float> out = decode.Decode(static_cast<int64_t>(t));
    for (size_t layer = 0; layer < 2; ++layer) {
      EXPECT_LT(MaxDifference(std::span(out).subspan(layer * row, row),
                              std::span(rows).subspan((layer * 120 + t) * row, row)),
                1e-5);
    }
  }
}

TEST(CacheAttention, OutputsDoNotDependOnHowTokensWereAppended) {
  const Layers layers = {RandomSequence(8, 140, 4, 2, 32)};
  for (const char* policy : {"flat", "pq", "pq:codes_only"}) {
    RigOptions options = Options(policy, {.tokens = 10});
    options.attention.tail = TailMode::kEstimate;
    options.codebooks = testing::RandomCodebooks(layers, "8x4");
    Rig bulk(&layers, options), chunks(&layers, options), single(&layers, options);
    bulk.Prefill(0, 130);
    for (int64_t t = 0; t < 130; t += 26) chunks.Prefill(t, t + 26);
    for (int64_t t = 0; t < 130; ++t) single.Decode(t);
    for (int64_t t = 130; t < 140; ++t) {
      const std::vector<float> out = bulk.Decode(t);
      EXPECT_EQ(chunks.Decode(t), out);
      EXPECT_EQ(single.Decode(t), out);
    }
  }
}

TEST(CacheAttention, RowsInBrainFloatsAreUsedAsStored) {
  const Layers layers = {RandomSequence(9, 100, 4, 2, 64)};
  Sequence rounded = layers[0];
  for (float& x : rounded.keys) x = BFloat16ToFloat(FloatToBFloat16(x));
  for (float& x : rounded.values) x = BFloat16ToFloat(FloatToBFloat16(x));
  for (const char* policy : {"flat", "pq"}) {
    RigOptions options = Options(policy);
    options.cache.page.dtype = DType::kBF16;
    options.codebooks = testing::RandomCodebooks(layers, "16x8");
    ExpectExactDecode(layers, options, 90, rounded);
  }
  EXPECT_LT(MaxDifference(ExactRow(rounded, 99), ExactRow(layers[0], 99)), 0.05);
}

TEST(CacheAttention, SlidingWindowsHideWhatTheModelDoesNotSee) {
  const Layers layers = {RandomSequence(10, 130, 4, 2, 16)};
  for (const int64_t sliding_window : {1, 2, 10, 23, 24, 25, 40, 112, 113, 126, 500}) {
    for (const char* policy : {"flat", "exact", "pq"}) {
      SCOPED_TRACE(std::string(policy) + " sliding window " + std::to_string(sliding_window));
      RigOptions options = Options(policy);
      options.attention.sliding_window = sliding_window;
      options.attention.shadow_every = 1;
      options.codebooks = testing::RandomCodebooks(layers, "8x4");
      ExpectExactDecode(layers, options, 110, layers[0]);
      options.attention.per_head = true;
      options.cache.n_sink = 120;  // sinks in memory beyond the window of the model, too
      ExpectExactDecode(layers, options, 110, layers[0]);
    }
  }
}

TEST(CacheAttention, DenseLayersAttendToEverything) {
  const Layers layers = {RandomSequence(11, 100, 4, 2, 32), RandomSequence(12, 100, 4, 2, 32),
                         RandomSequence(13, 100, 4, 2, 32)};
  RigOptions options = Options("flat", {});
  options.attention.dense_layers = 2;
  Rig rig(&layers, options);
  rig.Prefill(0, 99);
  const std::vector<float> out = rig.Decode(99);
  const size_t row = 4 * 32;
  for (size_t layer = 0; layer < 3; ++layer) {
    const std::vector<bool> keep = rig.SplitAt(99).Keep(100);
    const auto exact = layer < 2 ? ExactRow(layers[layer], 99) : ExactRow(layers[layer], 99, keep);
    EXPECT_LT(MaxDifference(std::span(out).subspan(layer * row, row), exact), 1e-5) << layer;
  }
  EXPECT_EQ(rig.stats().Layer(0).selected, 2 * 72);  // of 100 tokens, without 4 and 24
  EXPECT_EQ(rig.stats().Layer(2).selected, 0);
}

TEST(CacheAttention, DenseLayersWithoutStoredKeysUseAllCodes) {
  const Layers layers = {RandomSequence(14, 100, 4, 2, 32), RandomSequence(15, 100, 4, 2, 32)};
  RigOptions options = Options("pq:codes_only", {.tokens = 0});
  options.cache.page.layout = PageLayout::kValueOnly;
  options.attention.dense_layers = 1;
  options.attention.tail = TailMode::kEstimate;
  options.codebooks = testing::RandomCodebooks(layers, "8x8");
  Rig rig(&layers, options);
  rig.Prefill(0, 99);
  const std::vector<float> out = rig.Decode(99);
  const Sequence decoded = testing::WithDecodedKeys(layers[0], *options.codebooks, 0, 4, 76);
  EXPECT_LT(MaxDifference(std::span(out).first(4 * 32), ExactRow(decoded, 99)), 1e-5);
  EXPECT_EQ(rig.stats().Layer(0).estimated, 0);
  EXPECT_EQ(rig.stats().Layer(1).estimated, 2 * 72);
}

TEST(CacheAttention, RefusesWhatTheCacheCannotServe) {
  const Layers layers = {RandomSequence(16, 10, 2, 1, 8)};
  ThreadPool pool(1);
  storage::MemoryPageStore store(storage::kNoMemoryLimit);
  const auto create = [&](const std::string& policy, SelectionBudget budget, TailMode tail,
                          PageLayout layout, bool codes) {
    KvCacheOptions cache_options;
    cache_options.layers = cache_options.kv_heads = 1;
    cache_options.page.dim = 8;
    cache_options.page.layout = layout;
    const auto codebooks = codes ? testing::RandomCodebooks(layers, "2x4") : nullptr;
    const auto cache = KvCache::Create(cache_options, codebooks, &store, &pool).value();
    CacheAttentionOptions options;
    options.heads = 2;
    options.policy = CreatePolicy(policy).value();
    options.budget = budget;
    options.tail = tail;
    return CacheAttention::Create(options, cache.get(), &pool).status();
  };
  constexpr auto kInvalid = StatusCode::kInvalidArgument;
  constexpr auto kRows = PageLayout::kKeyValue;
  constexpr auto kDrop = TailMode::kDrop;
  EXPECT_OK(create("pq", {.tokens = 8}, TailMode::kEstimate, kRows, true));
  EXPECT_OK(create("pq:codes_only", {.ratio = 0.5}, kDrop, PageLayout::kValueOnly, true));
  ExpectError(create("pq", {.tokens = 8}, kDrop, kRows, false), kInvalid, "codebooks");
  ExpectError(create("flat", {.tokens = 8}, kDrop, kRows, true), kInvalid, "exact keys");
  for (const char* policy : {"pq", "exact", "quest"}) {
    ExpectError(create(policy, {.tokens = 8}, kDrop, PageLayout::kValueOnly, true), kInvalid,
                "pages hold no keys");
  }
  ExpectError(create("exact", {}, TailMode::kEstimate, kRows, true), kInvalid, "tail=estimate");
  for (const SelectionBudget& budget :
       {SelectionBudget{.tokens = -1}, SelectionBudget{.ratio = -0.1},
        SelectionBudget{.ratio = 1.1}, SelectionBudget{.mass = -0.1},
        SelectionBudget{.mass = 1.1}}) {
    ExpectError(create("pq", budget, kDrop, kRows, true), kInvalid, "budget");
  }
}

}  // namespace
}  // namespace pqcache::attention
