// Decode steps under the policies that remember something of the keys: Quest, InfLLM,
// KTransformers' blocks and MagicPIG.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "attention/cache_attention.h"
#include "tests/support/rotated_sequence.h"
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
using testing::Sequence;
using testing::SmallSplit;

using Layers = std::vector<Sequence>;

// Small blocks, so that 150 tokens have many.
constexpr const char* kBlockPolicies[] = {
    "quest:page=4,dense=0",
    "quest:page=4,dense=0,share=max",
    "infllm:block=8,distance=true",
    "blocks:block=8,rep=dynamic",
    "blocks:block=8,rep=mean,share=sum",
    "blocks:block=8,rep=max,mode=released",
    "blocks:block=8,rep=fixed,anchors=3",
    "blocks:block=8,rep=quest,token_step=2",
    "blocks:block=8,rep=mean,token_step=10",
    "blocks:block=8,rep=mean,preselect=3",
};

std::vector<float> DecodeAfter(const Layers& layers, const RigOptions& options, int64_t prompt) {
  Rig rig(&layers, options);
  rig.Prefill(0, prompt);
  std::vector<float> all;
  for (int64_t t = prompt; t < layers[0].tokens; ++t) {
    const std::vector<float> out = rig.Decode(t);
    all.insert(all.end(), out.begin(), out.end());
  }
  return all;
}

TEST(SelectorPolicies, WithABudgetForAllTheyAreExact) {
  const Layers layers = {RandomSequence(1, 150, 4, 2, 32)};
  for (const std::string policy : kBlockPolicies) {
    if (policy.find("preselect") != std::string::npos) continue;  // leaves blocks out by design
    SCOPED_TRACE(policy);
    Rig rig(&layers, SmallSplit(policy, kAll));
    rig.Prefill(0, 140);
    for (int64_t t = 140; t < 150; ++t) {
      ASSERT_LT(MaxDifference(rig.Decode(t), ExactRow(layers[0], t)), 1e-5) << t;
    }
  }
}

TEST(SelectorPolicies, TheBudgetIsKept) {
  const Layers layers = {RandomSequence(2, 150, 4, 2, 32)};
  for (const std::string policy : kBlockPolicies) {
    for (const int64_t tokens : {24, 41}) {
      SCOPED_TRACE(policy + " " + std::to_string(tokens));
      Rig rig(&layers, SmallSplit(policy, {.tokens = tokens}));
      rig.Prefill(0, 140);
      HeadStats total;
      for (int64_t t = 140; t < 150; ++t) {
        rig.Decode(t);
        const HeadStats now = rig.stats().Total();
        EXPECT_LE(now.selected - total.selected,
                  static_cast<double>(tokens * (now.steps - total.steps)));
        total = now;
      }
      if (policy.find("preselect") != std::string::npos) continue;  // has no more to give
      EXPECT_GT(total.selected, static_cast<double>((tokens - 8) * total.steps));
    }
  }
}

TEST(SelectorPolicies, NeitherThreadsNorASecondRunMatter) {
  const Layers layers = {RandomSequence(3, 150, 4, 4, 32), RandomSequence(4, 150, 4, 4, 32)};
  std::vector<std::string> policies(std::begin(kBlockPolicies), std::end(kBlockPolicies));
  policies.insert(policies.end(), {"infllm:block=8", "magicpig:K=4,L=20,dense_every=0"});
  for (const std::string& policy : policies) {
    RigOptions options = SmallSplit(policy, {.tokens = 20});
    options.attention.rope = testing::SmallRope(32);
    RigOptions threads = options;
    threads.threads = 3;
    EXPECT_EQ(DecodeAfter(layers, options, 140), DecodeAfter(layers, threads, 140)) << policy;
  }
}

// Those that need nothing of the prompt remember the same of a token that was decoded.
TEST(SelectorPolicies, DecodedTokensAreRememberedLikeThePrompt) {
  const Layers layers = {RandomSequence(5, 150, 4, 2, 32)};
  for (const std::string policy : {"quest:page=4,dense=0", "blocks:block=8,rep=mean,share=sum"}) {
    Rig late(&layers, SmallSplit(policy, {.tokens = 20}));
    late.Prefill(0, 149);
    Rig early(&layers, SmallSplit(policy, {.tokens = 20}));
    early.Prefill(0, 60);
    for (int64_t t = 60; t < 149; ++t) early.Decode(t);
    EXPECT_LT(MaxDifference(early.Decode(149), late.Decode(149)), 1e-5) << policy;
  }
}

// A block of one token is that token: the best blocks are the best tokens.
TEST(SelectorPolicies, BlocksOfOneTokenAreTopK) {
  const Layers layers = {RandomSequence(6, 150, 4, 2, 32)};
  RigOptions flat = SmallSplit("flat", {.tokens = 11});
  flat.attention.per_head = true;
  const auto expected = DecodeAfter(layers, flat, 140);
  for (const std::string policy :
       {"quest:page=1,min_pages=0,dense=0", "blocks:rep=mean,block=1,share=each",
        "blocks:rep=quest,block=1,share=each", "blocks:rep=dynamic,block=1,share=each"}) {
    const auto found = DecodeAfter(layers, SmallSplit(policy, {.tokens = 11}), 140);
    EXPECT_LT(MaxDifference(found, expected), 1e-5) << policy;
  }
}

TEST(SelectorPolicies, QuestIsKTransformersWithItsRepresentativesPerHead) {
  const Layers layers = {RandomSequence(7, 152, 4, 2, 32)};
  // Of full pages only: KTransformers attends to the open one always.
  const auto quest =
      DecodeAfter(layers, SmallSplit("quest:page=4,dense=0,share=sum", {.tokens = 16}), 151);
  const auto blocks =
      DecodeAfter(layers, SmallSplit("blocks:rep=quest,block=4,share=sum", {.tokens = 16}), 151);
  EXPECT_LT(MaxDifference(quest, blocks), 1e-6);
}

TEST(SelectorPolicies, LayersCanShareAChoiceAndAttendToEverything) {
  // The second layer's keys are the first one's backwards: its own choice would be another.
  Layers layers = {RandomSequence(8, 150, 2, 1, 32), RandomSequence(9, 150, 2, 1, 32),
                   RandomSequence(8, 150, 2, 1, 32)};
  const size_t row = 2 * 32;
  const auto step = [&](const std::string& policy) {
    Rig rig(&layers, SmallSplit(policy, {.tokens = 16}));
    rig.Prefill(0, 149);
    return rig.Decode(149);
  };
  const auto alone = step("blocks:rep=mean,block=8"),
             shared = step("blocks:rep=mean,block=8,layer_step=2");
  const auto layer = [&](const std::vector<float>& out, size_t l) {
    return std::span(out).subspan(l * row, row);
  };
  EXPECT_EQ(MaxDifference(layer(alone, 0), layer(shared, 0)), 0);
  EXPECT_GT(MaxDifference(layer(alone, 1), layer(shared, 1)), 1e-3);
  EXPECT_EQ(MaxDifference(layer(alone, 2), layer(shared, 2)), 0);
  const auto dense = step("quest:page=4");
  EXPECT_LT(MaxDifference(layer(dense, 0), ExactRow(layers[0], 149)), 1e-5);
  EXPECT_LT(MaxDifference(layer(dense, 1), ExactRow(layers[1], 149)), 1e-5);
  EXPECT_GT(MaxDifference(layer(dense, 2), ExactRow(layers[2], 149)), 1e-3);
}

// Everything outside the window counts as if it stood at the window's end.
TEST(InfLlm, FarTokensAreAsFarAsTheWindowIsLong) {
  const Sequence plain = RandomSequence(10, 120, 4, 2, 32);
  const auto rope = testing::SmallRope(32);
  const Layers layers = {testing::Rotated(plain, *rope)};
  RigOptions options = SmallSplit("infllm:block=8", kAll);
  options.attention.rope = rope;
  Rig rig(&layers, options);
  rig.Prefill(0, 110);
  for (int64_t t = 110; t < 120; ++t) {
    const std::vector<float> out = rig.Decode(t);
    for (int head = 0; head < 4; ++head) {
      const auto expected = testing::AttendAtDistances(
          plain, *rope, t, head, [](int64_t) { return true; },
          [&](int64_t i) { return i > t - 24 ? t - i : 24; });
      EXPECT_LT(MaxDifference(std::span(out).subspan(static_cast<size_t>(head) * 32, 32), expected),
                1e-4)
          << t;
    }
  }
}

TEST(InfLlm, WithinTheWindowItIsExact) {
  const Sequence plain = RandomSequence(11, 24, 4, 2, 32);
  const auto rope = testing::SmallRope(32);
  const Layers layers = {testing::Rotated(plain, *rope)};
  RigOptions options = SmallSplit("infllm", {.tokens = 1});
  options.attention.rope = rope;
  Rig rig(&layers, options);
  rig.Prefill(0, 20);
  for (int64_t t = 20; t < 24; ++t) {
    EXPECT_LT(MaxDifference(rig.Decode(t), ExactRow(layers[0], t)), 1e-5);
  }
}

// A block whose keys look like the query is found, wherever it is.
TEST(InfLlm, APlantedBlockIsChosen) {
  for (const int64_t planted : {8, 40, 104}) {
    Sequence s = RandomSequence(12, 150, 2, 1, 32);
    for (int64_t t = planted; t < planted + 8; ++t) {
      for (int d = 0; d < 32; ++d) s.key(t, 0)[d] = s.query(149, 0)[d] + s.query(149, 1)[d];
    }
    const Layers layers = {s};
    RigOptions options = SmallSplit("infllm:block=8,distance=true", {.tokens = 15});
    options.attention.shadow_every = 1;
    Rig rig(&layers, options);
    rig.Prefill(0, 149);
    rig.Decode(149);
    EXPECT_GT(rig.stats().Total().mass, 0.99) << planted;
  }
}

// The same where far tokens count as if they stood at the window's end: keys look like the query
// as it is there.
TEST(InfLlm, APlantedBlockIsChosenByItsKeysWithoutPositions) {
  const auto rope = testing::SmallRope(32);
  for (const int64_t planted : {8, 40, 104}) {
    Sequence plain = RandomSequence(17, 150, 2, 1, 32);
    std::vector<float> query(plain.query(149, 0), plain.query(149, 0) + 2 * 32);
    const int64_t far = 24;
    rope->Apply(1, &far, 2, 32, query.data());
    for (int64_t t = planted; t < planted + 8; ++t) {
      for (size_t d = 0; d < 32; ++d) plain.key(t, 0)[d] = query[d] + query[32 + d];
    }
    const Layers layers = {testing::Rotated(plain, *rope)};
    RigOptions options = SmallSplit("infllm:block=8", {.tokens = 15});
    options.attention.rope = rope;
    Rig rig(&layers, options);
    rig.Prefill(0, 149);
    const std::vector<float> out = rig.Decode(149);
    for (int head = 0; head < 2; ++head) {
      const auto expected = testing::AttendAtDistances(
          plain, *rope, 149, head,
          // First tokens, the block, what fills no block yet, and the window.
          [&](int64_t i) { return i < 4 || (i >= planted && i < planted + 8) || i >= 120; },
          [&](int64_t i) { return i > 149 - far ? 149 - i : far; });
      EXPECT_LT(MaxDifference(std::span(out).subspan(static_cast<size_t>(head) * 32, 32), expected),
                1e-4)
          << planted;
    }
  }
}

TEST(MagicPig, WithAHashForEverythingItIsNearlyExact) {
  const Layers layers = {RandomSequence(13, 400, 4, 2, 32)};
  Rig rig(&layers, SmallSplit("magicpig:K=1,L=300,dense_every=0", {.tokens = 1}));
  rig.Prefill(0, 395);
  for (int64_t t = 395; t < 400; ++t) {
    EXPECT_LT(MaxDifference(rig.Decode(t), ExactRow(layers[0], t)), 2e-3) << t;
  }
}

// Of the output, over random directions: a mean of many is closer than one.
TEST(MagicPig, OutputsScatterAroundTheExactOne) {
  const Layers layers = {RandomSequence(14, 400, 1, 1, 16)};
  const auto exact = ExactRow(layers[0], 399);
  std::vector<double> mean(16, 0.0);
  double one = 0;
  constexpr int kDraws = 60;
  for (int seed = 0; seed < kDraws; ++seed) {
    const std::string policy = "magicpig:K=5,L=30,dense_every=0,seed=" + std::to_string(seed);
    Rig rig(&layers, SmallSplit(policy, {.tokens = 1}));
    rig.Prefill(0, 399);
    const auto out = rig.Decode(399);
    for (size_t d = 0; d < 16; ++d) mean[d] += out[d] / kDraws;
    one += MaxDifference(out, exact) / kDraws;
  }
  EXPECT_LT(MaxDifference(mean, exact), 0.3 * one);
}

// Nothing has left the window when the first token is decoded.
TEST(SelectorPolicies, APromptMayBeShorterThanTheWindow) {
  const Layers layers = {RandomSequence(16, 120, 4, 2, 32)};
  for (const std::string policy : kBlockPolicies) {
    if (policy.find("preselect") != std::string::npos) continue;
    SCOPED_TRACE(policy);
    Rig rig(&layers, SmallSplit(policy, kAll));
    rig.Prefill(0, 10);
    for (int64_t t = 10; t < 120; ++t) {
      ASSERT_LT(MaxDifference(rig.Decode(t), ExactRow(layers[0], t)), 1e-5) << t;
    }
  }
  Rig hashes(&layers, SmallSplit("magicpig:dense_every=0", {.tokens = 1}));
  hashes.Prefill(0, 10);
  for (int64_t t = 10; t < 120; ++t) {  // too few for a mean: all are chosen
    ASSERT_LT(MaxDifference(hashes.Decode(t), ExactRow(layers[0], t)), 1e-5) << t;
  }
}

TEST(SelectorPolicies, DenseLayersInFrontDoNotChooseForOthers) {
  const Layers layers = {RandomSequence(17, 150, 2, 1, 32), RandomSequence(18, 150, 2, 1, 32),
                         RandomSequence(19, 150, 2, 1, 32), RandomSequence(20, 150, 2, 1, 32)};
  for (const std::string policy :
       {"blocks:rep=mean,block=8,layer_step=2", "blocks:rep=mean,block=8,layer_step=3,dense=1"}) {
    for (const int dense_layers : {0, 1, 2}) {
      RigOptions options = SmallSplit(policy, kAll);
      options.attention.dense_layers = dense_layers;
      Rig rig(&layers, options);
      rig.Prefill(0, 149);
      const std::vector<float> out = rig.Decode(149);
      for (size_t layer = 0; layer < 4; ++layer) {
        EXPECT_LT(
            MaxDifference(std::span(out).subspan(layer * 64, 64), ExactRow(layers[layer], 149)),
            1e-5)
            << policy << " " << dense_layers << " layer " << layer;
      }
    }
  }
}

// What was preselected stays, and what leaves the window later joins it.
TEST(SelectorPolicies, PreselectionIsMadeOnce) {
  const Layers layers = {RandomSequence(21, 300, 2, 1, 32)};
  RigOptions options = SmallSplit("blocks:block=8,rep=mean,preselect=2", kAll);
  options.attention.shadow_every = 1;
  Rig rig(&layers, options);
  rig.Prefill(0, 150);
  double last = 0;
  for (int64_t t = 150; t < 300; ++t) {
    rig.Decode(t);
    const double selected = rig.stats().Total().selected;
    const double now = selected - last;
    last = selected;
    // Two blocks, and everything that has left the window since.
    EXPECT_NEAR(now, 16 + static_cast<double>(t + 1 - 24 - (151 - 24) / 8 * 8), 4.1) << t;
  }
}

TEST(SelectorPolicies, Bfloat16RowsAreAttendedAsTheyAreStored) {
  const Sequence plain = RandomSequence(22, 120, 4, 2, 32);
  const auto rope = testing::SmallRope(32);
  const Layers layers = {testing::Rotated(plain, *rope)};
  RigOptions options = SmallSplit("infllm:block=8", kAll);
  options.attention.rope = rope;
  Rig exact_rows(&layers, options);
  options.cache.page.dtype = DType::kBF16;
  Rig rounded(&layers, options);
  for (Rig* rig : {&exact_rows, &rounded}) rig->Prefill(0, 110);
  for (int64_t t = 110; t < 120; ++t) {
    EXPECT_LT(MaxDifference(rounded.Decode(t), exact_rows.Decode(t)), 3e-2);
  }
}

TEST(SelectorPolicies, RefuseWhatTheyCannotDo) {
  const Layers layers = {RandomSequence(15, 60, 2, 1, 8)};
  ThreadPool pool(1);
  storage::MemoryPageStore store(storage::kNoMemoryLimit);
  KvCacheOptions kept;
  kept.layers = kept.kv_heads = 1;
  kept.page.dim = 8;
  const auto cache = KvCache::Create(kept, nullptr, &store, &pool).value();
  const auto create = [&](const std::string& policy, SelectionBudget budget) {
    CacheAttentionOptions options;
    options.heads = 2;
    options.policy = CreatePolicy(policy).value();
    options.budget = budget;
    return CacheAttention::Create(options, cache.get(), &pool).status();
  };
  constexpr auto kInvalid = StatusCode::kInvalidArgument;
  ExpectError(create("quest", {.mass = 0.9}), kInvalid, "which the policy does not take");
  ExpectError(create("infllm", {.tokens = 9}), kInvalid, "rotary embedding");
  ExpectError(create("h2o", {.tokens = 9}), kInvalid, "drops tokens");
  for (const char* policy : {"quest:page=0", "blocks:rep=best", "blocks:anchors=0", "quest:size=3",
                             "infllm:distance=near", "magicpig:K=17", "snapkv:kernel=4",
                             "streaming:ratio=1.5", "h2o:ratio=0.1,tokens=5", "recent:n_sink=4"}) {
    EXPECT_EQ(CreatePolicy(policy).status().code(), kInvalid) << policy;
  }
}

}  // namespace
}  // namespace pqcache::attention
