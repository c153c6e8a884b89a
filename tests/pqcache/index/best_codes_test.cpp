#include "pqcache/index/best_codes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <set>
#include <vector>

#include "tests/pqcache/index/codebook_samples.h"
#include "tests/support/random_data.h"

namespace pqcache {
namespace {

using namespace pqcache::testing;

constexpr float kScale = 0.3f;

// Scores of every row by the definition: sums of the entries of the quantised tables, and of what
// its position adds in whole steps, if the codebook has position means (the parameter).
class BestCodesTest : public ::testing::TestWithParam<bool> {
 protected:
  void Make(const PqShape& shape, int64_t n, int g) {
    shape_ = shape;
    rows_ = n;
    g_ = g;
    SetCodes(RandomCodes(shape, n, 2));
  }

  void SetCodes(std::vector<uint8_t> codes) {
    codes_ = std::move(codes);
    HeadCodebook::Parts parts = RandomParts(shape_, false, 1);
    if (GetParam()) {
      parts.position_mean = RandomPositionMean(shape_.dim, shape_.dim / 2, 5, length_);
    }
    index_ = std::make_unique<PqIndex>(
        std::make_shared<const HeadCodebook>(HeadCodebook::Create(std::move(parts)).value()));
    index_->AppendCodes(rows_, codes_.data());
    queries_ = RandomNormals(int64_t{g_} * shape_.dim, 3);
    ScoreAll(TableSteps::kEach);
  }

  // Queries that select together have one step for every kScanQueries of them.
  void ScoreAll(TableSteps steps) {
    const int k = shape_.centroids();
    const int table_size = shape_.subspaces * k;
    std::vector<float> floats(static_cast<size_t>(kScanQueries * table_size));
    scores_.assign(static_cast<size_t>(g_), {});
    QuantisedTables tables;
    const PositionMean& mean = index_->codebook().position_mean();
    for (int q = 0; q < g_; ++q) {
      const int in_group = q % kScanQueries;
      const float* query = queries_.data() + int64_t{q} * shape_.dim;
      if (in_group == 0) {
        const int count = std::min(kScanQueries, g_ - q);
        index_->codebook().BuildTables(count, query, kScale, floats.data());
        std::vector<float> bounds;
        for (int i = 0; i < count && GetParam(); ++i) {
          bounds.push_back(kScale * mean.Bound(query + i * shape_.dim));
        }
        tables.Set(shape_, count, floats.data(), steps, bounds);
      }
      const int64_t blocks = (rows_ + kPositionBlock - 1) / kPositionBlock;
      std::vector<float> of_blocks(static_cast<size_t>(blocks), 0.0f);
      if (GetParam()) mean.Score(1, query, 0, blocks, of_blocks.data());
      const uint8_t* entries = tables.entries.data() + in_group * table_size;
      for (int64_t row = 0; row < rows_; ++row) {
        int sum = 0;
        for (int m = 0; m < shape_.subspaces; ++m) {
          sum += entries[m * k + codes_[static_cast<size_t>(row * shape_.subspaces + m)]];
        }
        sum +=
            tables.StepsOf(in_group, kScale * of_blocks[static_cast<size_t>(row / kPositionBlock)]);
        scores_[static_cast<size_t>(q)].push_back(tables.base[in_group] +
                                                  tables.step[in_group] * static_cast<float>(sum));
      }
    }
  }

  // Codes of the row that query q likes best.
  std::vector<uint8_t> BestRow(int q) const {
    const int k = shape_.centroids();
    std::vector<float> floats(static_cast<size_t>(shape_.subspaces * k));
    index_->codebook().BuildTables(1, queries_.data() + int64_t{q} * shape_.dim, kScale,
                                   floats.data());
    std::vector<uint8_t> codes;
    for (int m = 0; m < shape_.subspaces; ++m) {
      const auto first = floats.begin() + m * k;
      codes.push_back(static_cast<uint8_t>(std::max_element(first, first + k) - first));
    }
    return codes;
  }

  double Lse(int q, int64_t begin, int64_t end, const std::set<int64_t>& without = {}) const {
    double sum = 0;
    for (int64_t row = begin; row < end; ++row) {
      if (without.contains(row - begin)) continue;
      sum += std::exp(double{scores_[static_cast<size_t>(q)][static_cast<size_t>(row)]});
    }
    return std::log(sum);
  }

  std::vector<int64_t> Best(const std::vector<float>& ranks, int64_t k) const {
    std::vector<int64_t> order(ranks.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return ranks[static_cast<size_t>(a)] > ranks[static_cast<size_t>(b)];
    });
    order.resize(static_cast<size_t>(std::min<int64_t>(k, static_cast<int64_t>(order.size()))));
    std::sort(order.begin(), order.end());
    return order;
  }

  std::vector<float> Ranks(int q, int64_t begin, int64_t end) const {
    const auto& s = scores_[static_cast<size_t>(q)];
    return {s.begin() + begin, s.begin() + end};
  }

  // Of every row, its largest share of any query's attention, as a logarithm.
  std::vector<float> SharedRanks() {
    ScoreAll(TableSteps::kOne);
    std::vector<float> ranks(static_cast<size_t>(rows_), -INFINITY);
    for (int q = 0; q < g_; ++q) {
      const auto lse = static_cast<float>(Lse(q, 0, rows_));
      for (int64_t row = 0; row < rows_; ++row) {
        float& rank = ranks[static_cast<size_t>(row)];
        rank = std::max(rank, scores_[static_cast<size_t>(q)][static_cast<size_t>(row)] - lse);
      }
    }
    return ranks;
  }

  static size_t Common(const std::vector<int64_t>& a, const std::vector<int64_t>& b) {
    std::vector<int64_t> both;
    std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(both));
    return both.size();
  }

  std::vector<std::vector<int64_t>> Select(int64_t begin, int64_t end, int64_t k, bool together) {
    std::vector<std::vector<int64_t>> lists;
    best_.Select(*index_,
                 {.g = g_,
                  .queries = queries_.data(),
                  .scale = kScale,
                  .begin = begin,
                  .end = end,
                  .k = k,
                  .together = together},
                 &lists);
    return lists;
  }

  PqShape shape_;
  float length_ = 1;  // of position means
  int64_t rows_ = 0;
  int g_ = 0;
  std::vector<uint8_t> codes_;  // [N, M]
  std::unique_ptr<PqIndex> index_;
  std::vector<float> queries_;
  std::vector<std::vector<float>> scores_;  // [G, N]
  BestCodes best_;
};

INSTANTIATE_TEST_SUITE_P(PositionMeans, BestCodesTest, ::testing::Bool(),
                         [](const auto& p) { return p.param ? "with" : "without"; });

// Where positions say far more than codes, steps are as coarse as their scores need.
TEST_P(BestCodesTest, LongMeansLeaveSumsInTheirRange) {
  length_ = 3000;
  Make({32, 8, 8}, 5000, 4);
  const auto lists = Select(17, rows_, 200, false);
  for (int q = 0; q < g_; ++q) {
    EXPECT_EQ(lists[static_cast<size_t>(q)], Best(Ranks(q, 17, rows_), 200)) << q;
  }
}

TEST_P(BestCodesTest, EachQueryGetsExactlyItsBest) {
  for (const PqShape& shape : {PqShape{32, 8, 8}, PqShape{32, 16, 4}}) {
    for (const int64_t n : {1, 63, 65, 1000, 20000}) {
      for (const int g : {1, 4, 6}) {
        Make(shape, n, g);
        for (const int64_t k : {int64_t{0}, int64_t{1}, n / 50, n / 3, n, n + 5}) {
          for (const int64_t begin : {int64_t{0}, std::min<int64_t>(17, n)}) {
            SCOPED_TRACE(shape.Name() + " n " + std::to_string(n) + " g " + std::to_string(g) +
                         " k " + std::to_string(k) + " begin " + std::to_string(begin));
            const auto lists = Select(begin, n, k, false);
            ASSERT_EQ(lists.size(), static_cast<size_t>(g));
            for (int q = 0; q < g; ++q) {
              ASSERT_EQ(lists[static_cast<size_t>(q)], Best(Ranks(q, begin, n), k)) << q;
            }
          }
        }
      }
    }
  }
}

// With few rows all are found, so that nothing is estimated.
TEST_P(BestCodesTest, TogetherTheyTakeTheLargestShares) {
  for (const int64_t n : {1, 65, 1500}) {
    Make({32, 8, 8}, n, 5);
    const auto lists = Select(0, n, n / 10 + 1, true);
    ASSERT_EQ(lists.size(), 1u);
    const std::vector<int64_t> expected = Best(SharedRanks(), n / 10 + 1);
    // Ranks that differ by rounding may change places at the end.
    EXPECT_GE(Common(expected, lists[0]) + 1, expected.size());
    EXPECT_EQ(lists[0].size(), expected.size());
  }
}

TEST_P(BestCodesTest, OfManyRowsTheEstimatesAreClose) {
  const int64_t n = 60000, k = 1200;
  Make({64, 16, 8}, n, 4);
  // Samples are whole blocks, so what differs between blocks is estimated from fewer numbers.
  const double accepted = GetParam() ? 0.4 : 0.2;
  const auto lists = Select(0, n, k, true);
  const std::vector<int64_t> expected = Best(SharedRanks(), k);
  EXPECT_GE(Common(expected, lists[0]), expected.size() * 95 / 100);
  for (int q = 0; q < g_; ++q) {
    EXPECT_NEAR(best_.unselected_lse(q), Lse(q, 0, n, {lists[0].begin(), lists[0].end()}),
                accepted);
  }
  const auto each = Select(0, n, k, false);
  for (int q = 0; q < g_; ++q) {
    const auto& list = each[static_cast<size_t>(q)];
    EXPECT_NEAR(best_.unselected_lse(q), Lse(q, 0, n, {list.begin(), list.end()}), accepted);
  }
}

// All that matters lies in a few blocks that no sample has: thresholds are too low or too high, and
// the result is right all the same.
TEST_P(BestCodesTest, ASampleThatMissesEverythingChangesNothing) {
  const PqShape shape{32, 8, 8};
  Make(shape, 20000, 4);
  const std::vector<uint8_t> one = RandomCodes(shape, 1, 9);
  std::vector<uint8_t> codes;
  for (int64_t row = 0; row < rows_; ++row) {
    if (row / kScanBlockTokens % 13 == 5) {
      const std::vector<uint8_t> other = RandomCodes(shape, 1, static_cast<uint64_t>(row));
      codes.insert(codes.end(), other.begin(), other.end());
    } else {
      codes.insert(codes.end(), one.begin(), one.end());  // equal scores: ties
    }
  }
  SetCodes(std::move(codes));
  const auto each = Select(0, rows_, 700, false);
  for (int q = 0; q < g_; ++q) {
    EXPECT_EQ(each[static_cast<size_t>(q)], Best(Ranks(q, 0, rows_), 700));
  }
  const auto together = Select(0, rows_, 700, true);
  // But for rounding at the end, and for shares that are estimated.
  EXPECT_GE(Common(Best(SharedRanks(), 700), together[0]), GetParam() ? 690u : 699u);
}

// Sampled blocks hold nothing but the best rows of one query, fewer than are wanted: what the
// sample promises is not there, and the search begins anew.
TEST_P(BestCodesTest, ASampleThatPromisesTooMuchChangesNothing) {
  const PqShape shape{32, 8, 8};
  Make(shape, 20000, 4);
  std::vector<uint8_t> codes = RandomCodes(shape, rows_, 7);
  const std::vector<uint8_t> best = BestRow(0);
  for (int64_t row = 0; row < rows_; ++row) {
    if (row / kScanBlockTokens % 13 != 6) continue;
    std::copy(best.begin(), best.end(), codes.begin() + row * 8);
  }
  SetCodes(std::move(codes));
  const auto each = Select(0, rows_, 5000, false);
  for (int q = 0; q < g_; ++q) {
    EXPECT_EQ(each[static_cast<size_t>(q)], Best(Ranks(q, 0, rows_), 5000));
  }
  const auto together = Select(0, rows_, 5000, true);
  EXPECT_GE(Common(Best(SharedRanks(), 5000), together[0]), 4990u);
}

// The rows that one query attends to are in no sample, so that its share of every row seems far
// larger than it is until they are found. What it attends to besides is still an estimate.
TEST_P(BestCodesTest, NeedlesBesideTheSampleDoNotCrowdOutTheOthers) {
  const PqShape shape{32, 8, 8};
  Make(shape, 20000, 4);
  for (int d = 0; d < 32; ++d) queries_[static_cast<size_t>(d)] *= 6;
  const std::vector<float> queries = queries_;
  std::vector<uint8_t> codes = RandomCodes(shape, rows_, 8);
  const std::vector<uint8_t> best = BestRow(0);
  for (int64_t row = 70; row < rows_; row += 1300) {
    if (row / kScanBlockTokens % 13 == 6) continue;
    std::copy(best.begin(), best.end(), codes.begin() + row * 8);
  }
  SetCodes(std::move(codes));
  queries_ = queries;
  const auto together = Select(0, rows_, 1000, true);
  EXPECT_GE(Common(Best(SharedRanks(), 1000), together[0]), 900u);
}

// Of several scans, whose candidates are merged.
TEST_P(BestCodesTest, ManyQueriesSelectTogether) {
  for (const int g : {6, 12}) {
    Make({32, 16, 4}, 20000, g);
    const auto lists = Select(17, rows_, 500, true);
    ASSERT_EQ(lists[0].size(), 500u);
    std::vector<float> expected = SharedRanks();
    expected.erase(expected.begin(), expected.begin() + 17);
    EXPECT_GE(Common(Best(expected, 500), lists[0]), 475u) << g;
    for (int q = 0; q < g; ++q) {
      const std::set<int64_t> list(lists[0].begin(), lists[0].end());
      EXPECT_NEAR(best_.unselected_lse(q), Lse(q, 17, rows_, list), 0.3) << g << " " << q;
    }
  }
}

// One query's scores are far above the other's, and spread less: neither crowds out the other.
TEST_P(BestCodesTest, QueriesOfDifferentScaleSelectTogether) {
  Make({32, 8, 8}, 20000, 3);
  for (int d = 0; d < 32; ++d) queries_[static_cast<size_t>(d)] *= 0.01f;
  for (int d = 32; d < 64; ++d) queries_[static_cast<size_t>(d)] *= 20;
  const auto lists = Select(5, rows_, 500, true);
  std::vector<float> expected = SharedRanks();
  expected.erase(expected.begin(), expected.begin() + 5);
  EXPECT_GE(Common(Best(expected, 500), lists[0]), 490u);
}

}  // namespace
}  // namespace pqcache
