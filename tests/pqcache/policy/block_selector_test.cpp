// Quest, InfLLM and KTransformers' blocks: what their representatives promise, and how blocks are
// chosen.

#include "pqcache/policy/block_selector.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "pqcache/policy/block_summaries.h"
#include "tests/support/positions.h"
#include "tests/support/random_data.h"

namespace pqcache {
namespace {

using testing::Joined;
using testing::RandomNormals;
using testing::Range;

constexpr int kDim = 16;

double Product(const float* a, const float* b) {
  double sum = 0;
  for (int d = 0; d < kDim; ++d) sum += double{a[d]} * b[d];
  return sum;
}

BlockSettings Quest(int64_t page = 16) {
  BlockSettings settings;
  settings.block_tokens = page;
  settings.keys = BlockKeys::kMinMax;
  settings.sharing = BlockSharing::kEach;
  settings.score_open_block = true;
  return settings;
}

BlockSettings Of(BlockKeys keys, int64_t block, int anchors = 1) {
  BlockSettings settings;
  settings.block_tokens = block;
  settings.keys = keys;
  settings.anchors = anchors;
  settings.sharing = BlockSharing::kSum;
  return settings;
}

// One KV head of `group` query heads.
std::vector<int64_t> Chosen(LayerSelector* selector, const std::vector<float>& queries,
                            const SelectorStep& step, int query = 0) {
  selector->Score(0, queries.data(), step);
  selector->Choose(step);
  const auto chosen = selector->chosen(0, query);
  return {chosen.begin(), chosen.end()};
}

TEST(Quest, NoKeyOfAPageExceedsItsScoreAndASingleKeyReachesIt) {
  for (const int64_t page : {1, 2, 16}) {
    const std::vector<float> keys = RandomNormals(203 * kDim, 1);
    BlockSummaries summaries(Quest(page), 1, kDim);
    summaries.Append(203, keys.data());
    for (uint64_t seed = 2; seed < 12; ++seed) {
      const std::vector<float> query = RandomNormals(kDim, seed);
      double best_product = -INFINITY, score_of_best = 0, best_score = -INFINITY;
      for (int64_t t = 0; t < 203; ++t) {
        const double product = Product(query.data(), &keys[static_cast<size_t>(t * kDim)]);
        const double score = summaries.Score(t / page, 0, query.data());
        EXPECT_GE(score, product - 1e-4);
        if (page == 1) {
          EXPECT_NEAR(score, product, 1e-4);
        }
        if (product > best_product)
          std::tie(best_product, score_of_best) = std::tie(product, score);
        best_score = std::max(best_score, score);
      }
      EXPECT_GE(score_of_best, best_product - 1e-4);
      EXPECT_GE(best_score, score_of_best);
    }
  }
}

TEST(Quest, AppendingKeysOneByOneIsBuildingAtOnce) {
  const std::vector<float> keys = RandomNormals(77 * kDim, 3), query = RandomNormals(kDim, 4);
  for (const BlockKeys kind :
       {BlockKeys::kMinMax, BlockKeys::kMean, BlockKeys::kMax, BlockKeys::kFixed}) {
    BlockSettings settings = Quest();
    settings.keys = kind;
    settings.anchors = 3;
    for (const bool open : {true, false}) {
      settings.score_open_block = open;
      BlockSummaries whole(settings, 1, kDim), grown(settings, 1, kDim);
      whole.Append(77, keys.data());
      for (int64_t t = 0; t < 77; ++t) grown.Append(1, &keys[static_cast<size_t>(t * kDim)]);
      ASSERT_EQ(whole.blocks(), open ? 5 : 4);
      ASSERT_EQ(grown.blocks(), whole.blocks());
      for (int64_t b = 0; b < whole.blocks(); ++b) {
        EXPECT_EQ(whole.Score(b, 0, query.data()), grown.Score(b, 0, query.data()));
      }
    }
  }
}

TEST(Quest, TheOpenPageIsBoundByItsOwnKeysAlone) {
  std::vector<float> keys(17 * kDim, -1.0f);  // zeros in the unfilled places would raise the bound
  BlockSummaries summaries(Quest(), 1, kDim);
  summaries.Append(17, keys.data());
  const std::vector<float> query(kDim, 1.0f);
  EXPECT_EQ(summaries.Score(1, 0, query.data()), -kDim);
}

TEST(Quest, EveryQueryHeadChoosesItsPagesAndAtLeastThree) {
  BlockSettings settings = Quest(4);
  settings.min_blocks = 3;
  const auto selector = CreateBlockSelector(settings, {1, 2, kDim});
  const std::vector<float> keys = RandomNormals(40 * kDim, 5);
  std::vector<float> queries = RandomNormals(2 * kDim, 6);
  selector->Append(0, 40, keys.data());
  EXPECT_TRUE(selector->per_query());
  const auto first = Chosen(selector.get(), queries, {1.0f, 0, 40, 4});
  const auto second = selector->chosen(0, 1);
  EXPECT_EQ(first.size(), 12u);
  EXPECT_FALSE(std::equal(first.begin(), first.end(), second.begin(), second.end()));
  EXPECT_EQ(Chosen(selector.get(), queries, {1.0f, 0, 40, 20}).size(), 20u);
  EXPECT_EQ(Chosen(selector.get(), queries, {1.0f, 0, 40, 1000}), Range(0, 40));
}

TEST(Blocks, TheMeanOfEqualKeysIsThatKey) {
  const std::vector<float> key = RandomNormals(kDim, 7), query = RandomNormals(kDim, 8);
  std::vector<float> keys;
  for (int t = 0; t < 64; ++t) keys.insert(keys.end(), key.begin(), key.end());
  for (const BlockKeys kind : {BlockKeys::kMean, BlockKeys::kMax, BlockKeys::kFixed,
                               BlockKeys::kTop, BlockKeys::kTopMean, BlockKeys::kMinMax}) {
    BlockSummaries summaries(Of(kind, 32, kind == BlockKeys::kTop ? 1 : 4), 2, kDim);
    summaries.Append(64, keys.data());
    EXPECT_NEAR(summaries.Score(1, 1, query.data()), Product(key.data(), query.data()), 1e-4);
  }
}

// Received attention of two query heads: each its own favourites.
struct Received {
  std::vector<float> sums = std::vector<float>(2 * 64, 0.0f);
  Received() {
    sums[5] = sums[20] = 2.0f;
    sums[64 + 9] = sums[64 + 30] = 3.0f;
  }
  ReceivedAttention view() const { return {sums.data(), 64}; }
};

TEST(Blocks, DynamicRepresentativesAreTheKeysThatReceivedTheMostAttention) {
  const std::vector<float> keys = RandomNormals(64 * kDim, 9), query = RandomNormals(kDim, 10);
  const auto key = [&](int64_t t) { return &keys[static_cast<size_t>(t * kDim)]; };
  const Received received;
  BlockSummaries one(Of(BlockKeys::kTop, 16), 2, kDim);
  one.SetReceived(received.view());
  one.Append(64, keys.data());
  EXPECT_NEAR(one.Score(0, 0, query.data()), Product(key(5), query.data()), 1e-5);
  EXPECT_NEAR(one.Score(0, 1, query.data()), Product(key(9), query.data()), 1e-5);

  BlockSummaries mean(Of(BlockKeys::kTopMean, 32, 2), 2, kDim);
  mean.SetReceived(received.view());
  mean.Append(64, keys.data());
  EXPECT_NEAR(mean.Score(0, 0, query.data()),
              (Product(key(5), query.data()) + Product(key(20), query.data())) / 2, 1e-4);

  // Several of them: the best of every channel.
  BlockSummaries two(Of(BlockKeys::kTop, 32, 2), 2, kDim);
  two.SetReceived(received.view());
  two.Append(64, keys.data());
  double expected = 0;
  for (int d = 0; d < kDim; ++d) {
    const auto c = static_cast<size_t>(d);
    expected += std::max(double{key(9)[d]} * query[c], double{key(30)[d]} * query[c]);
  }
  EXPECT_NEAR(two.Score(0, 1, query.data()), expected, 1e-4);
}

TEST(Blocks, TheReleasedCodesFaultsAreThere) {
  const std::vector<float> keys(32 * kDim, -1.0f), query(kDim, 1.0f);
  const auto score = [&](BlockKeys kind, int anchors, bool released) {
    BlockSettings settings = Of(kind, 16, anchors);
    settings.released = released;
    BlockSummaries summaries(settings, 1, kDim);
    summaries.Append(32, keys.data());
    return summaries.Score(0, 0, query.data());
  };
  EXPECT_EQ(score(BlockKeys::kMax, 1, false), -kDim);
  EXPECT_EQ(score(BlockKeys::kMax, 1, true), 0);  // clipped at zero
  EXPECT_EQ(score(BlockKeys::kFixed, 2, false), -kDim);
  EXPECT_EQ(score(BlockKeys::kFixed, 2, true), 0);  // the empty slot wins
  EXPECT_EQ(score(BlockKeys::kTop, 2, false), -kDim);
  EXPECT_EQ(score(BlockKeys::kTop, 2, true), 0);
  EXPECT_EQ(score(BlockKeys::kMinMax, 1, false), -kDim);
  EXPECT_NEAR(score(BlockKeys::kMinMax, 1, true), 0, 1e-30);

  // Quest with more query heads than KV heads: the first KV heads' representatives, then none.
  BlockSettings settings = Of(BlockKeys::kMinMax, 4);
  settings.released = true;
  settings.sharing = BlockSharing::kEach;
  const auto selector = CreateBlockSelector(settings, {2, 2, kDim});
  const std::vector<float> first = RandomNormals(16 * kDim, 11),
                           second = RandomNormals(16 * kDim, 12);
  selector->Append(0, 16, first.data());
  selector->Append(1, 16, second.data());
  const std::vector<float> queries = RandomNormals(2 * kDim, 13);
  const SelectorStep step{1.0f, 0, 16, 4};
  selector->Score(0, queries.data(), step);
  selector->Score(1, queries.data(), step);
  selector->Choose(step);
  // All scores of the second KV head's query heads are zero: the first block wins.
  EXPECT_EQ(selector->chosen(1, 0).front(), 0);
  EXPECT_EQ(selector->chosen(1, 1).front(), 0);
}

TEST(Blocks, ChosenTokensAreTheBudgetsBlocksAndTheOpenOne) {
  const auto selector = CreateBlockSelector(Of(BlockKeys::kMean, 8), {1, 1, kDim});
  std::vector<float> keys = RandomNormals(45 * kDim, 14, 0.1f);
  const std::vector<float> query(kDim, 1.0f);
  for (int d = 0; d < kDim; ++d) keys[static_cast<size_t>(18 * kDim + d)] = 5.0f;  // block 2
  selector->Append(0, 45, keys.data());
  // 45 tokens: five blocks and five tokens in the open one, which are always chosen.
  std::vector<int64_t> expected = Range(16, 24), open = Range(40, 45);
  expected.insert(expected.end(), open.begin(), open.end());
  EXPECT_EQ(Chosen(selector.get(), query, {1.0f, 0, 45, 13}), expected);
  EXPECT_EQ(Chosen(selector.get(), query, {1.0f, 0, 45, 20}), expected);
  EXPECT_EQ(Chosen(selector.get(), query, {1.0f, 0, 45, 21}).size(), 21u);
  EXPECT_EQ(Chosen(selector.get(), query, {1.0f, 0, 45, 45}), Range(0, 45));
  // Candidates alone, and only those: sinks before them are not theirs.
  EXPECT_EQ(Chosen(selector.get(), query, {1.0f, 20, 43, 11}),
            (std::vector<int64_t>{20, 21, 22, 23, 40, 41, 42}));
}

TEST(Blocks, AllHeadsOfALayerCanChooseTogether) {
  BlockSettings settings = Of(BlockKeys::kMean, 8);
  settings.sharing = BlockSharing::kLayer;
  const auto selector = CreateBlockSelector(settings, {2, 2, kDim});
  const std::vector<float> keys = RandomNormals(2 * 64 * kDim, 15);
  const std::vector<float> queries = RandomNormals(4 * kDim, 16);
  std::vector<double> scores(8, 0.0);
  for (int h = 0; h < 2; ++h) {
    const float* of_head = keys.data() + h * 64 * kDim;
    selector->Append(h, 64, of_head);
    for (int64_t t = 0; t < 64; ++t) {
      for (int g = 0; g < 2; ++g) {
        scores[static_cast<size_t>(t / 8)] +=
            Product(of_head + t * kDim, queries.data() + (2 * h + g) * kDim) / 8;
      }
    }
  }
  const SelectorStep step{1.0f, 0, 64, 8};
  for (int h = 0; h < 2; ++h) selector->Score(h, queries.data() + 2 * h * kDim, step);
  selector->Choose(step);
  const auto best = std::max_element(scores.begin(), scores.end()) - scores.begin();
  for (int h = 0; h < 2; ++h) {
    for (int g = 0; g < 2; ++g) {
      const auto chosen = selector->chosen(h, g);
      EXPECT_EQ(std::vector<int64_t>(chosen.begin(), chosen.end()), Range(8 * best, 8 * best + 8));
    }
  }
}

TEST(Blocks, AChoiceServesSeveralTokens) {
  BlockSettings settings = Of(BlockKeys::kMean, 8);
  settings.token_step = 3;
  const auto selector = CreateBlockSelector(settings, {1, 1, kDim});
  const std::vector<float> keys = RandomNormals(64 * kDim, 17);
  selector->Append(0, 64, keys.data());
  const SelectorStep step{1.0f, 0, 64, 16};
  const auto first = Chosen(selector.get(), RandomNormals(kDim, 18), step);
  const auto opposite = [&] {
    std::vector<float> query = RandomNormals(kDim, 18);
    for (float& x : query) x = -x;
    return query;
  }();
  EXPECT_EQ(Chosen(selector.get(), opposite, step), first);
  EXPECT_EQ(Chosen(selector.get(), opposite, step), first);
  EXPECT_NE(Chosen(selector.get(), opposite, step), first);
}

// While a choice serves, what leaves the window takes the place of the worst blocks.
TEST(Blocks, TheBestBlocksStayBetweenChoices) {
  BlockSettings settings = Of(BlockKeys::kMean, 8);
  settings.token_step = 10;
  const auto selector = CreateBlockSelector(settings, {1, 1, kDim});
  std::vector<float> keys = RandomNormals(76 * kDim, 19);
  const std::vector<float> query = RandomNormals(kDim, 20);
  for (int64_t t = 48; t < 56; ++t) std::copy(query.begin(), query.end(), &keys[t * kDim]);
  selector->Append(0, 64, keys.data());
  EXPECT_EQ(Chosen(selector.get(), query, {1.0f, 0, 64, 24}).size(), 24u);
  selector->Append(0, 12, &keys[64 * kDim]);
  EXPECT_EQ(Chosen(selector.get(), query, {1.0f, 0, 76, 24}), Joined(Range(48, 56), Range(64, 76)));
}

TEST(Blocks, PreselectedBlocksAreThoseThatReceivedTheMostAttention) {
  BlockSettings settings = Of(BlockKeys::kMean, 8);
  settings.preselect = 2;
  const auto selector = CreateBlockSelector(settings, {1, 1, kDim});
  std::vector<float> sums(64, 0.0f);
  sums[12] = 1.0f;  // block 1
  sums[52] = 2.0f;  // block 6
  selector->SetReceived(0, {sums.data(), 64});
  const std::vector<float> keys = RandomNormals(80 * kDim, 19);
  selector->Append(0, 64, keys.data());
  const std::vector<float> query = RandomNormals(kDim, 20);
  std::vector<int64_t> expected = Joined(Range(8, 16), Range(48, 56));
  EXPECT_EQ(Chosen(selector.get(), query, {1.0f, 0, 64, 64}), expected);
  selector->Append(0, 16, keys.data() + 64 * kDim);
  // What came after the first choice stays.
  expected = Joined(expected, Range(64, 80));
  EXPECT_EQ(Chosen(selector.get(), query, {1.0f, 0, 80, 80}), expected);
}

// A token at a block's edge counts for the neighbour, too.
TEST(Blocks, ABlockSeesTheQuartersNextToIt) {
  BlockSummaries summaries(Of(BlockKeys::kMean, 8), 1, kDim);
  std::vector<float> sums(64, 0.0f);
  sums[17] = 1.0f;
  summaries.SetReceived({sums.data(), 64});
  const std::vector<float> keys = RandomNormals(64 * kDim, 21);
  summaries.Append(64, keys.data());
  EXPECT_GT(summaries.Importance(1), 0);
  EXPECT_GT(summaries.Importance(2), 0);
  EXPECT_EQ(summaries.Importance(0), 0);
  EXPECT_EQ(summaries.Importance(3), 0);
}

}  // namespace
}  // namespace pqcache
