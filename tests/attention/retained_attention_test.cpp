// Decode steps under the policies that drop tokens: StreamingLLM, H2O, its local baseline, SnapKV.

#include "attention/retained_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "tests/support/rotated_sequence.h"
#include "tests/support/status_matchers.h"

namespace pqcache::attention {
namespace {

using testing::ExactHead;
using testing::ExpectError;
using testing::MaxDifference;
using testing::RandomSequence;
using testing::Rig;
using testing::RigOptions;
using testing::Sequence;
using testing::SmallSplit;

using Layers = std::vector<Sequence>;

constexpr const char* kPolicies[] = {
    "streaming",     "streaming:positions=text", "recent",          "h2o",
    "h2o:heavy=0.8", "snapkv:window=8",          "snapkv:share=max"};

// A prompt that ran exactly, and the policy's steps behind it.
class Retained {
 public:
  Retained(const Layers* layers, const std::string& policy, int64_t prompt, int64_t tokens,
           int threads = 1)
      : layers_(layers), pool_(threads) {
    const SelectionBudget budget{.tokens = std::max<int64_t>(0, tokens - 28)};
    options_.policy = CreatePolicy(policy).value();
    options_.heads = layers->front().heads;
    options_.budget = budget;
    options_.rope = testing::SmallRope(layers->front().dim);
    RigOptions exact = SmallSplit("exact", {});  // 4 first tokens and a window of 24
    exact.attention.needs = options_.policy->prompt_needs();
    rig_ = std::make_unique<Rig>(layers, exact);
    if (prompt > 0) rig_->Prefill(0, prompt);
    attention_ =
        RetainedAttention::Create(options_, rig_->cache(), rig_->attention().record().get(), &pool_)
            .value();
  }

  // [layers, Hq, D]
  std::vector<float> Decode(int64_t t) { return DecodeTogether(t, t + 1); }
  std::vector<float> DecodeTogether(int64_t begin, int64_t end) {
    return testing::AttendLayers(*layers_, begin, end, attention_.get()).value();
  }
  // Of a query head: what its last step attended to.
  std::vector<int64_t> Kept(int layer, int head) const {
    const int group = layers_->front().group();
    const RetainedHead& h = attention_->head(layer, head / group);
    const auto positions = h.positions(h.lists() > 1 ? head % group : 0);
    return {positions.begin(), positions.end()};
  }
  const RetainedAttention& attention() const { return *attention_; }

 private:
  const Layers* layers_;
  CacheAttentionOptions options_;
  ThreadPool pool_;
  std::unique_ptr<Rig> rig_;
  std::unique_ptr<RetainedAttention> attention_;
};

// Exact attention of a query head at token t over the given tokens.
std::vector<double> Over(const Sequence& s, int64_t t, int head,
                         const std::vector<int64_t>& tokens) {
  std::vector<bool> keep(static_cast<size_t>(t + 1), false);
  for (const int64_t i : tokens) keep[static_cast<size_t>(i)] = true;
  const auto all = ExactHead(s, t, head / s.group(), keep);
  const auto first = all.begin() + head % s.group() * s.dim;
  return {first, first + s.dim};
}

TEST(RetainedAttention, OutputsAreThoseOfWhatIsKept) {
  const Layers layers = {RandomSequence(1, 140, 4, 2, 32), RandomSequence(2, 140, 4, 2, 32)};
  for (const std::string policy : kPolicies) {
    if (policy == "streaming") continue;  // its positions are others: see below
    Retained retained(&layers, policy, 120, 40);
    for (int64_t t = 120; t < 140; ++t) {
      const std::vector<float> out = retained.Decode(t);
      for (int layer = 0; layer < 2; ++layer) {
        for (int head = 0; head < 4; ++head) {
          const auto expected =
              Over(layers[static_cast<size_t>(layer)], t, head, retained.Kept(layer, head));
          const auto found = std::span(out).subspan(static_cast<size_t>(layer * 4 + head) * 32, 32);
          ASSERT_LT(MaxDifference(found, expected), 1e-5) << policy << " token " << t;
        }
      }
    }
  }
}

TEST(RetainedAttention, WithRoomForAllItIsExact) {
  const Layers layers = {RandomSequence(3, 100, 4, 2, 32)};
  for (const std::string policy : kPolicies) {
    for (const int64_t prompt : {0, 90}) {
      if (prompt == 0 && CreatePolicy(policy).value()->prompt_needs().any()) continue;
      Retained retained(&layers, policy, prompt, 1000);
      for (int64_t t = prompt; t < 100; ++t) {
        ASSERT_LT(MaxDifference(retained.Decode(t), testing::ExactRow(layers[0], t)), 1e-5)
            << policy << " " << t;
      }
    }
  }
}

TEST(RetainedAttention, TheBudgetIsKeptToTheToken) {
  const Layers layers = {RandomSequence(4, 140, 4, 2, 16)};
  for (const std::string policy : kPolicies) {
    Retained retained(&layers, policy, 120, 40);
    const bool grows = policy.starts_with("snapkv");
    for (int64_t t = 120; t < 140; ++t) {
      retained.Decode(t);
      for (int head = 0; head < 4; ++head) {
        EXPECT_EQ(std::ssize(retained.Kept(0, head)), grows ? 40 + t - 119 : 40) << policy;
      }
    }
  }
}

TEST(RetainedAttention, MemoryStaysWhereItIs) {
  const Layers layers = {RandomSequence(5, 400, 4, 2, 16)};
  for (const std::string policy : {"streaming", "recent", "h2o"}) {
    Retained retained(&layers, policy, 60, 32);
    for (int64_t t = 60; t < 100; ++t) retained.Decode(t);
    const uint64_t bytes = retained.attention().bytes();
    for (int64_t t = 100; t < 400; ++t) retained.Decode(t);
    EXPECT_LE(retained.attention().bytes(), 2 * bytes) << policy;  // rows that heads share vary
    EXPECT_LT(retained.attention().bytes(), uint64_t{400} * 2 * 2 * 16 * 4) << policy;
  }
}

TEST(RetainedAttention, ThreadsDoNotMatter) {
  const Layers layers = {RandomSequence(6, 130, 4, 4, 16)};
  for (const std::string policy : kPolicies) {
    Retained one(&layers, policy, 120, 40), three(&layers, policy, 120, 40, 3);
    for (int64_t t = 120; t < 130; ++t) EXPECT_EQ(one.Decode(t), three.Decode(t)) << policy;
  }
}

TEST(RetainedAttention, SeveralTokensInOneStepSeeNoneBehindThem) {
  const Layers layers = {RandomSequence(7, 130, 4, 2, 16)};
  for (const std::string policy : {"streaming:positions=text", "snapkv:share=mean"}) {
    Retained retained(&layers, policy, 120, 60);
    const std::vector<float> out = retained.DecodeTogether(120, 130);
    for (int64_t i = 0; i < 10; ++i) {
      for (int head = 0; head < 4; ++head) {
        std::vector<int64_t> kept = retained.Kept(0, head);
        while (kept.back() > 120 + i) kept.pop_back();
        EXPECT_LT(MaxDifference(std::span(out).subspan(static_cast<size_t>(i * 4 + head) * 16, 16),
                                Over(layers[0], 120 + i, head, kept)),
                  1e-5);
      }
    }
  }
}

TEST(RetainedAttention, AStepIsNoLongerThanTheRulesAllow) {
  const Layers grouped = {RandomSequence(12, 130, 4, 2, 16)},
               single = {RandomSequence(13, 130, 2, 2, 16)};
  const auto most = [](const Layers& layers, const std::string& policy) {
    return Retained(&layers, policy, 120, 40).attention().MaxStepTokens();
  };
  EXPECT_EQ(most(grouped, "h2o"), 1);
  EXPECT_EQ(most(single, "h2o"), 1);  // one query head a KV head does not change its rule
  EXPECT_EQ(most(grouped, "streaming"), 9);
  EXPECT_EQ(most(grouped, "streaming:tokens=8"), 1);
  EXPECT_EQ(most(grouped, "snapkv"), 64);
}

// Sums of attention decide, those of the prompt and those of the steps.
TEST(H2o, SumsAreOfEveryTokenSoFar) {
  const Layers layers = {RandomSequence(8, 130, 2, 1, 16)};
  const Sequence& s = layers[0];
  Retained retained(&layers, "h2o", 100, 40);
  std::vector<std::vector<double>> sums(2, std::vector<double>(130, 0.0));
  std::vector<std::vector<int64_t>> kept(2);
  const auto add = [&](int head, int64_t t, const std::vector<int64_t>& tokens) {
    double sum = 0;
    std::vector<double> weights;
    for (const int64_t i : tokens) {
      double logit = 0;
      for (int d = 0; d < 16; ++d) logit += double{s.query(t, head)[d]} * s.key(i, 0)[d];
      weights.push_back(std::exp(logit / 4));
      sum += weights.back();
    }
    for (size_t i = 0; i < tokens.size(); ++i) {
      sums[static_cast<size_t>(head)][static_cast<size_t>(tokens[i])] += weights[i] / sum;
    }
  };
  // The `heavy` largest of tokens [0, end) of a list, and then all behind them.
  const auto keep = [&](int head, std::vector<int64_t> tokens, int64_t end, size_t heavy) {
    std::vector<int64_t> recent, old;
    for (const int64_t t : tokens) (t < end ? old : recent).push_back(t);
    std::stable_sort(old.begin(), old.end(), [&](int64_t a, int64_t b) {
      return sums[static_cast<size_t>(head)][static_cast<size_t>(a)] >
             sums[static_cast<size_t>(head)][static_cast<size_t>(b)];
    });
    old.resize(std::min(old.size(), heavy));
    std::sort(old.begin(), old.end());
    old.insert(old.end(), recent.begin(), recent.end());
    return old;
  };
  for (int head = 0; head < 2; ++head) {
    std::vector<int64_t> all;
    for (int64_t t = 0; t < 100; ++t) {
      all.push_back(t);
      add(head, t, all);
    }
    kept[static_cast<size_t>(head)] = keep(head, all, 80, 20);
  }
  for (int64_t t = 100; t < 130; ++t) {
    retained.Decode(t);
    for (int head = 0; head < 2; ++head) {
      std::vector<int64_t>& list = kept[static_cast<size_t>(head)];
      list = keep(head, list, t - 19, 20);
      list.push_back(t);
      EXPECT_EQ(retained.Kept(0, head), list) << t;
      add(head, t, list);
    }
  }
}

TEST(SnapKv, OnlyThePromptDecides) {
  Sequence s = RandomSequence(9, 130, 2, 1, 16);
  const Layers layers = {s};
  Sequence other = s;
  for (size_t i = static_cast<size_t>(120 * 2 * 16); i < other.queries.size(); ++i) {
    other.queries[i] = -other.queries[i];
  }
  const Layers others = {other};
  Retained a(&layers, "snapkv:window=8", 120, 40), b(&others, "snapkv:window=8", 120, 40);
  for (int64_t t = 120; t < 130; ++t) {
    a.Decode(t);
    b.Decode(t);
  }
  for (int head = 0; head < 2; ++head) EXPECT_EQ(a.Kept(0, head), b.Kept(0, head));
}

// Positions are places in the cache: the first tokens stay as far away as the cache is long.
TEST(Streaming, DistancesAreThoseInTheCache) {
  const Sequence plain = RandomSequence(10, 160, 4, 2, 32);
  const auto rope = testing::SmallRope(32);
  const Layers layers = {testing::Rotated(plain, *rope)};
  for (const int64_t prompt : {0, 20, 100}) {
    Retained retained(&layers, "streaming", prompt, 40);
    for (int64_t t = prompt; t < 160; ++t) {
      const std::vector<float> out = retained.Decode(t);
      const int64_t gone = std::max<int64_t>(0, t + 1 - 40);
      for (int head = 0; head < 4; ++head) {
        const auto expected = testing::AttendAtDistances(
            plain, *rope, t, head, [&](int64_t i) { return i < 4 || i >= 4 + gone; },
            [&](int64_t i) { return i < 4 ? t - gone - i : t - i; });
        ASSERT_LT(
            MaxDifference(std::span(out).subspan(static_cast<size_t>(head) * 32, 32), expected),
            1e-4)
            << t;
      }
    }
  }
}

// The tokens of a step make room for all of them first, so they have one place for a first token.
TEST(Streaming, TokensOfOneStepSeeTheSamePlaces) {
  const Sequence plain = RandomSequence(14, 160, 4, 2, 32);
  const auto rope = testing::SmallRope(32);
  const Layers layers = {testing::Rotated(plain, *rope)};
  Retained retained(&layers, "streaming", 100, 40);
  for (int64_t begin = 100; begin < 160; begin += 6) {
    const int64_t gone = begin + 6 - 40;
    const std::vector<float> out = retained.DecodeTogether(begin, begin + 6);
    for (int64_t t = begin; t < begin + 6; ++t) {
      for (int head = 0; head < 4; ++head) {
        const auto expected = testing::AttendAtDistances(
            plain, *rope, t, head, [&](int64_t i) { return i < 4 || i >= 4 + gone; },
            [&](int64_t i) { return i < 4 ? t - gone - i : t - i; });
        const auto row = static_cast<size_t>((t - begin) * 4 + head) * 32;
        ASSERT_LT(MaxDifference(std::span(out).subspan(row, 32), expected), 1e-4) << t;
      }
    }
  }
}

TEST(RetainedAttention, RefusesWhatHasNoMeaning) {
  const Layers layers = {RandomSequence(11, 60, 2, 1, 8)};
  Rig rig(&layers, SmallSplit("exact", {}));
  rig.Prefill(0, 50);
  ThreadPool pool(1);
  const auto create = [&](const std::string& policy, auto change) {
    CacheAttentionOptions options;
    options.heads = 2;
    options.policy = CreatePolicy(policy).value();
    options.budget = {.tokens = 9};
    options.rope = testing::SmallRope(8);
    change(&options);
    return RetainedAttention::Create(options, rig.cache(), nullptr, &pool).status();
  };
  using Options = CacheAttentionOptions;
  constexpr auto kInvalid = StatusCode::kInvalidArgument;
  EXPECT_OK(create("streaming", [](Options*) {}));
  ExpectError(create("h2o", [](Options*) {}), kInvalid, "nothing of it was recorded");
  storage::MemoryPageStore store(storage::kNoMemoryLimit);
  KvCacheOptions kept;
  kept.layers = kept.kv_heads = 1;
  kept.page.dim = 8;
  const auto empty = KvCache::Create(kept, nullptr, &store, &pool).value();
  for (const char* policy : {"streaming:ratio=0.3", "snapkv", "h2o"}) {
    Options options;
    options.heads = 1;
    options.policy = CreatePolicy(policy).value();
    ExpectError(RetainedAttention::Create(options, *empty, nullptr, &pool), kInvalid,
                "follows from a prompt");
  }
  ExpectError(create("streaming", [](Options* o) { o->budget = {.mass = 0.9}; }), kInvalid, "mass");
  ExpectError(create("streaming", [](Options* o) { o->shadow_every = 1; }), kInvalid, "shadow");
  ExpectError(create("streaming", [](Options* o) { o->tail = TailMode::kEstimate; }), kInvalid,
              "tail");
}

}  // namespace
}  // namespace pqcache::attention
