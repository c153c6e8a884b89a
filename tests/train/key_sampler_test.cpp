#include "train/key_sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <thread>

#include "tests/support/status_matchers.h"

namespace pqcache::train {
namespace {

using testing::ExpectError;

constexpr int kLayers = 2;
constexpr int kKvHeads = 2;
constexpr int kGroup = 3;
constexpr int kDim = 2;

KeySamplerOptions Options(int64_t capacity, uint64_t seed) {
  return {.layers = kLayers,
          .kv_heads = kKvHeads,
          .group = kGroup,
          .dim = kDim,
          .key_capacity = capacity,
          .query_capacity = capacity,
          .seed = seed};
}

// Keys hold (position, layer and head), queries (position, query head).
struct Rows {
  std::vector<int64_t> positions;
  std::vector<float> keys;
  std::vector<float> queries;
};

Rows MakeRows(int layer, int64_t begin, int64_t end) {
  Rows rows;
  for (int64_t t = begin; t < end; ++t) {
    rows.positions.push_back(t);
    for (int h = 0; h < kKvHeads; ++h) {
      rows.keys.push_back(static_cast<float>(t));
      rows.keys.push_back(static_cast<float>(10 * layer + h));
    }
    for (int q = 0; q < kKvHeads * kGroup; ++q) {
      rows.queries.push_back(static_cast<float>(t));
      rows.queries.push_back(static_cast<float>(q));
    }
  }
  return rows;
}

void Feed(KeySampler& sampler, int layer, int64_t begin, int64_t end) {
  const Rows rows = MakeRows(layer, begin, end);
  sampler.Add(layer, end - begin, rows.positions.data(), rows.keys.data(), rows.queries.data());
}

KeySamples Sample(int64_t tokens, int64_t chunk, int64_t capacity, uint64_t seed) {
  KeySampler sampler = KeySampler::Create(Options(capacity, seed)).value();
  for (int64_t t = 0; t < tokens; t += chunk) {
    for (int layer = 0; layer < kLayers; ++layer) {
      Feed(sampler, layer, t, std::min(tokens, t + chunk));
    }
  }
  return sampler.Finish();
}

void ExpectEqual(const KeySamples& a, const KeySamples& b) {
  ASSERT_EQ(a.heads.size(), b.heads.size());
  for (size_t i = 0; i < a.heads.size(); ++i) {
    EXPECT_EQ(a.heads[i].positions, b.heads[i].positions);
    EXPECT_EQ(a.heads[i].keys, b.heads[i].keys);
    EXPECT_EQ(a.heads[i].queries, b.heads[i].queries);
  }
}

TEST(KeySamplerTest, KeepsEverythingBelowCapacity) {
  const KeySamples samples = Sample(10, 4, 100, 1);
  ASSERT_EQ(samples.heads.size(), 4u);
  const HeadSamples& head = samples.head(1, 0);
  EXPECT_EQ(head.positions, (std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
  ASSERT_EQ(head.keys.size(), 10u * kDim);
  EXPECT_EQ(head.queries.size(), 10u * kGroup * kDim);
  EXPECT_EQ(samples.left_out, 0);
}

TEST(KeySamplerTest, RowsBelongToTheirHead) {
  const KeySamples samples = Sample(500, 100, 20, 7);
  for (int layer = 0; layer < kLayers; ++layer) {
    for (int h = 0; h < kKvHeads; ++h) {
      const HeadSamples& head = samples.head(layer, h);
      ASSERT_EQ(head.positions.size(), 20u);
      for (size_t i = 0; i < 20; ++i) {
        EXPECT_EQ(head.keys[i * kDim], static_cast<float>(head.positions[i]));
        EXPECT_EQ(head.keys[i * kDim + 1], static_cast<float>(10 * layer + h));
        const int q = static_cast<int>(head.queries[i * kDim + 1]);
        EXPECT_EQ(q / kGroup, h);
        EXPECT_EQ(head.queries[i * kDim], static_cast<float>(head.query_positions[i]));
      }
      std::vector<int64_t> sorted = head.positions;
      std::sort(sorted.begin(), sorted.end());
      EXPECT_EQ(std::unique(sorted.begin(), sorted.end()), sorted.end());
    }
  }
  EXPECT_NE(samples.head(0, 0).positions, samples.head(0, 1).positions);
}

TEST(KeySamplerTest, SplitOverCallsDoesNotMatter) {
  const KeySamples whole = Sample(1000, 1000, 50, 3);
  ExpectEqual(whole, Sample(1000, 1, 50, 3));
  ExpectEqual(whole, Sample(1000, 37, 50, 3));
  EXPECT_NE(whole.heads[0].positions, Sample(1000, 1000, 50, 4).heads[0].positions);
}

TEST(KeySamplerTest, LayersMayBeAddedByDifferentThreads) {
  KeySampler sampler = KeySampler::Create(Options(50, 3)).value();
  std::vector<std::thread> threads;
  for (int layer = 0; layer < kLayers; ++layer) {
    threads.emplace_back([&sampler, layer] { Feed(sampler, layer, 0, 1000); });
  }
  for (std::thread& t : threads) t.join();
  ExpectEqual(sampler.Finish(), Sample(1000, 10, 50, 3));
}

// Each of 200 positions is kept with probability 1/10; counts over 4 x 500 reservoirs have mean 200
// and deviation 13.4. Six deviations are never exceeded by chance.
TEST(KeySamplerTest, EveryPositionIsEquallyLikely) {
  constexpr int kTokens = 200;
  std::vector<int> keys(kTokens);
  std::vector<int> queries(kTokens);
  for (uint64_t seed = 0; seed < 500; ++seed) {
    const KeySamples samples = Sample(kTokens, kTokens, 20, seed);
    for (const HeadSamples& head : samples.heads) {
      for (int64_t p : head.positions) ++keys[p];
      for (size_t i = 0; i < head.queries.size(); i += kDim) {
        ++queries[static_cast<size_t>(head.queries[i])];
      }
    }
  }
  double chi_square = 0;
  for (int t = 0; t < kTokens; ++t) {
    EXPECT_NEAR(keys[t], 200, 81) << "position " << t;
    EXPECT_NEAR(queries[t], 200, 85) << "position " << t;
    chi_square += (keys[t] - 200.0) * (keys[t] - 200.0) / 180.0;
  }
  // 199 degrees of freedom: mean 199, deviation 20.
  EXPECT_NEAR(chi_square, 199, 100);
}

TEST(KeySamplerTest, LeavesOutRowsThatAreNotFinite) {
  KeySampler sampler = KeySampler::Create(Options(100, 1)).value();
  Rows rows = MakeRows(0, 0, 5);
  rows.keys[kKvHeads * kDim * 2] = std::numeric_limits<float>::quiet_NaN();
  rows.queries[1] = -std::numeric_limits<float>::infinity();
  sampler.Add(0, 5, rows.positions.data(), rows.keys.data(), rows.queries.data());
  const KeySamples samples = sampler.Finish();
  EXPECT_EQ(samples.left_out, 2);
  EXPECT_EQ(samples.head(0, 0).positions, (std::vector<int64_t>{0, 1, 3, 4}));
  EXPECT_EQ(samples.head(0, 0).queries.size(), (5u * kGroup - 1) * kDim);
  EXPECT_EQ(samples.head(0, 1).positions.size(), 5u);
}

TEST(KeySamplerTest, RefusesCountsBelowOne) {
  ExpectError(KeySampler::Create(Options(0, 1)), StatusCode::kInvalidArgument, "key capacity is 0");
  KeySamplerOptions options = Options(10, 1);
  options.group = -1;
  ExpectError(KeySampler::Create(options), StatusCode::kInvalidArgument,
              "query heads per KV head is -1");
}

}  // namespace
}  // namespace pqcache::train
