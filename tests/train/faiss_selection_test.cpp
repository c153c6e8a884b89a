#include "train/faiss_selection.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "tests/pqcache/index/codebook_samples.h"
#include "tests/support/random_data.h"
#include "tests/support/status_matchers.h"

namespace pqcache::train {
namespace {

PqIndex MakeIndex(const PqShape& shape, bool rotated, int64_t n) {
  PqIndex index(
      std::make_shared<const HeadCodebook>(pqcache::testing::RandomCodebook(shape, rotated, 1)));
  index.AppendCodes(n, pqcache::testing::RandomCodes(shape, n, 2).data());
  return index;
}

TEST(FaissSelection, FindsTheRowsWithTheBestScores) {
  for (const PqShape& shape : {PqShape{32, 8, 8}, PqShape{32, 16, 4}}) {
    const int64_t n = 1000, k = 20;
    const PqIndex index = MakeIndex(shape, false, n);
    const std::vector<float> queries = pqcache::testing::RandomNormals(3 * 32, 3);
    std::vector<float> scores(3 * n);
    index.Score(3, queries.data(), 1, 0, n, scores.data());
    for (const FaissKind kind : {FaissKind::kIndexPq, FaissKind::kFastScan}) {
      if (kind == FaissKind::kFastScan && shape.bits != 4) continue;
      auto faiss = FaissSelection::Create(kind, index);
      ASSERT_OK(faiss);
      std::vector<int64_t> rows;
      ASSERT_OK((*faiss)->Search(3, queries.data(), k, &rows));
      ASSERT_EQ(rows.size(), 3u * k);
      for (int q = 0; q < 3; ++q) {
        std::vector<int64_t> order(n);
        std::iota(order.begin(), order.end(), 0);
        std::sort(order.begin(), order.end(),
                  [&](int64_t a, int64_t b) { return scores[q * n + a] > scores[q * n + b]; });
        order.resize(k);
        int common = 0;
        for (int64_t i = 0; i < k; ++i) {
          common += std::find(order.begin(), order.end(), rows[q * k + i]) != order.end() ? 1 : 0;
        }
        // FastScan rounds its tables.
        EXPECT_GE(common, kind == FaissKind::kFastScan ? k - 3 : k) << shape.Name();
      }
    }
  }
}

TEST(FaissSelection, RefusesWhatFaissDoesNotKnow) {
  EXPECT_FALSE(FaissSelection::Create(FaissKind::kIndexPq, MakeIndex({16, 8, 8}, true, 10)).ok());
  EXPECT_FALSE(FaissSelection::Create(FaissKind::kFastScan, MakeIndex({16, 8, 8}, false, 10)).ok());
}

}  // namespace
}  // namespace pqcache::train
