#include "pqcache/index/pq_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "tests/pqcache/index/codebook_samples.h"
#include "tests/support/tolerances.h"

namespace pqcache {
namespace {

using namespace pqcache::testing;

constexpr int64_t kSizes[] = {1, 63, 64, 65, 4097};
constexpr float kScale = 0.25f;

std::vector<PqShape> AllShapes() {
  std::vector<PqShape> shapes;
  for (const int bits : {4, 8}) {
    for (const int subspaces : {2, 4, 8, 16, 32}) {
      for (const int dim : {16, 64, 80, 128}) {
        if (dim % subspaces == 0) shapes.push_back({dim, subspaces, bits});
      }
    }
  }
  return shapes;
}

std::shared_ptr<const HeadCodebook> SharedCodebook(const PqShape& shape, bool rotated) {
  return std::make_shared<const HeadCodebook>(RandomCodebook(shape, rotated, 1));
}

std::vector<uint8_t> AllCodes(const PqIndex& index, const PqShape& shape) {
  std::vector<uint8_t> codes(static_cast<size_t>(index.size() * shape.subspaces));
  index.CopyCodes(0, index.size(), codes.data());
  return codes;
}

std::vector<float> Scores(const KeyIndex& index, int g, const std::vector<float>& queries,
                          int64_t begin, int64_t end) {
  std::vector<float> scores(static_cast<size_t>(g * (end - begin)) + 1, -7.0f);
  index.Score(g, queries.data(), kScale, begin, end, scores.data());
  EXPECT_EQ(scores.back(), -7.0f);  // nothing is written behind the end
  scores.pop_back();
  return scores;
}

class PqIndexTest : public ::testing::TestWithParam<PqShape> {};

TEST_P(PqIndexTest, KeepsCodesInOrder) {
  const PqShape shape = GetParam();
  for (const int64_t n : kSizes) {
    PqIndex index(SharedCodebook(shape, false));
    const std::vector<uint8_t> codes = RandomCodes(shape, n, 2);
    index.AppendCodes(n, codes.data());
    ASSERT_EQ(index.size(), n);
    EXPECT_EQ(AllCodes(index, shape), codes);
    const uint64_t whole_blocks = static_cast<uint64_t>((n + 63) / 64) * 64;
    EXPECT_EQ(index.bytes(), whole_blocks * static_cast<uint64_t>(shape.bytes_per_key()));
    for (const int64_t begin : {int64_t{0}, n / 2, n - 1, n}) {
      std::vector<uint8_t> part(static_cast<size_t>((n - begin) * shape.subspaces));
      index.CopyCodes(begin, n, part.data());
      EXPECT_TRUE(std::equal(part.begin(), part.end(), codes.begin() + begin * shape.subspaces));
    }
  }
}

TEST_P(PqIndexTest, ScoresAreSumsOfTableEntries) {
  const PqShape shape = GetParam();
  const auto codebook = SharedCodebook(shape, true);
  const int g = 3;
  const std::vector<float> queries = RandomNormals(g * shape.dim, 3);
  const size_t table_size = static_cast<size_t>(shape.subspaces) * shape.centroids();
  std::vector<float> tables(g * table_size);
  codebook->BuildTables(g, queries.data(), kScale, tables.data());
  for (const int64_t n : kSizes) {
    PqIndex index(codebook);
    const std::vector<uint8_t> codes = RandomCodes(shape, n, 4);
    index.AppendCodes(n, codes.data());
    const std::vector<float> scores = Scores(index, g, queries, 0, n);
    for (int q = 0; q < g; ++q) {
      for (int64_t t = 0; t < n; ++t) {
        double sum = 0;
        double magnitude = 0;
        for (int m = 0; m < shape.subspaces; ++m) {
          const double entry =
              tables[q * table_size + m * shape.centroids() + codes[t * shape.subspaces + m]];
          sum += entry;
          magnitude += std::abs(entry);
        }
        ASSERT_NEAR(scores[q * n + t], sum, Tolerance(DType::kF32, magnitude)) << q << " " << t;
      }
    }
  }
}

TEST_P(PqIndexTest, EveryRangeScoresAsTheWhole) {
  const PqShape shape = GetParam();
  const int g = 2;
  const std::vector<float> queries = RandomNormals(g * shape.dim, 5);
  for (const int64_t n : kSizes) {
    PqIndex index(SharedCodebook(shape, false));
    index.AppendCodes(n, RandomCodes(shape, n, 6).data());
    const std::vector<float> whole = Scores(index, g, queries, 0, n);
    for (const int64_t begin : {int64_t{0}, int64_t{1}, int64_t{62}, int64_t{64}, n / 2, n}) {
      for (const int64_t end : {int64_t{0}, int64_t{63}, int64_t{64}, int64_t{65}, n / 2 + 1, n}) {
        if (begin > end || end > n) continue;
        const std::vector<float> part = Scores(index, g, queries, begin, end);
        for (int q = 0; q < g; ++q) {
          EXPECT_TRUE(std::equal(part.begin() + q * (end - begin),
                                 part.begin() + (q + 1) * (end - begin),
                                 whole.begin() + q * n + begin))
              << begin << " " << end << " of " << n;
        }
      }
    }
  }
}

TEST_P(PqIndexTest, AppendingInPiecesEqualsBulk) {
  const PqShape shape = GetParam();
  const auto codebook = SharedCodebook(shape, true);
  const int64_t n = 101;
  const std::vector<float> keys = RandomNormals(n * shape.dim, 7);
  const std::vector<float> query = RandomNormals(shape.dim, 8);
  std::vector<uint8_t> codes(static_cast<size_t>(n * shape.subspaces));
  codebook->Encode(0, n, keys.data(), codes.data());
  PqIndex bulk(codebook);
  bulk.Append(n, keys.data());
  EXPECT_EQ(AllCodes(bulk, shape), codes);
  for (const int64_t piece : {1, 5, 64, 100}) {
    PqIndex index(codebook);
    for (int64_t t = 0; t < n; t += piece) {
      index.Append(std::min(piece, n - t), &keys[t * shape.dim]);
    }
    index.Append(0, nullptr);
    EXPECT_EQ(index.size(), n);
    EXPECT_EQ(index.bytes(), bulk.bytes());
    EXPECT_EQ(AllCodes(index, shape), codes) << piece;
    EXPECT_EQ(Scores(index, 1, query, 0, n), Scores(bulk, 1, query, 0, n)) << piece;
  }
}

TEST_P(PqIndexTest, ReconstructsDecodedCodes) {
  const PqShape shape = GetParam();
  const auto codebook = SharedCodebook(shape, true);
  const int64_t n = 70;
  PqIndex index(codebook);
  const std::vector<uint8_t> codes = RandomCodes(shape, n, 9);
  index.AppendCodes(n, codes.data());
  std::vector<float> decoded(static_cast<size_t>(n * shape.dim));
  codebook->Decode(0, n, codes.data(), decoded.data());
  for (const int64_t begin : {int64_t{0}, int64_t{33}, n}) {
    std::vector<float> keys(static_cast<size_t>((n - begin) * shape.dim));
    index.Reconstruct(begin, n, keys.data());
    EXPECT_TRUE(std::equal(keys.begin(), keys.end(), decoded.begin() + begin * shape.dim));
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, PqIndexTest, ::testing::ValuesIn(AllShapes()), ShapeCaseName);

TEST(PqIndex, CloneIsIndependent) {
  for (const PqShape& shape : {PqShape{16, 4, 4}, PqShape{16, 4, 8}}) {
    PqIndex index(SharedCodebook(shape, false));
    const std::vector<uint8_t> codes = RandomCodes(shape, 40, 10);
    const std::vector<float> query = RandomNormals(shape.dim, 11);
    index.AppendCodes(40, codes.data());
    const std::vector<float> before = Scores(index, 1, query, 0, 40);

    const std::unique_ptr<KeyIndex> clone = index.Clone();
    EXPECT_EQ(clone->size(), 40);
    EXPECT_EQ(clone->bytes(), index.bytes());
    EXPECT_EQ(Scores(*clone, 1, query, 0, 40), before);
    // Both go on from a half-filled block, each with keys of its own.
    clone->Append(3, RandomNormals(3 * shape.dim, 12).data());
    index.Append(2, RandomNormals(2 * shape.dim, 13).data());
    EXPECT_EQ(clone->size(), 43);
    EXPECT_EQ(index.size(), 42);
    EXPECT_EQ(Scores(*clone, 1, query, 0, 40), before);
    EXPECT_EQ(Scores(index, 1, query, 0, 40), before);
    EXPECT_NE(Scores(*clone, 1, query, 40, 42), Scores(index, 1, query, 40, 42));
  }
}

TEST(PqIndex, CloneOutlivesTheOriginalAndItsCodebook) {
  const PqShape shape = {16, 4, 8};
  std::unique_ptr<KeyIndex> clone;
  {
    PqIndex index(SharedCodebook(shape, true));
    index.AppendCodes(5, RandomCodes(shape, 5, 14).data());
    clone = index.Clone();
  }
  EXPECT_EQ(Scores(*clone, 1, RandomNormals(shape.dim, 15), 0, 5).size(), 5u);
}

TEST(PqIndex, EmptyIndexHasNothing) {
  const PqShape shape = {16, 4, 4};
  const PqIndex index(SharedCodebook(shape, false));
  EXPECT_EQ(index.size(), 0);
  EXPECT_EQ(index.bytes(), 0u);
  EXPECT_TRUE(Scores(index, 2, RandomNormals(2 * shape.dim, 16), 0, 0).empty());
  EXPECT_EQ(index.Clone()->size(), 0);
}

TEST(PqIndex, ManyThreadsMayScoreTogether) {
  const PqShape shape = {64, 16, 4};
  const auto codebook = SharedCodebook(shape, true);
  PqIndex index(codebook);
  index.AppendCodes(500, RandomCodes(shape, 500, 17).data());
  const std::vector<float> queries = RandomNormals(4 * shape.dim, 18);
  std::vector<std::vector<float>> found(4);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      // Different numbers of queries, so that scratch memory grows and shrinks.
      for (int round = 0; round < 20; ++round) {
        found[i] = Scores(index, 1 + (i + round) % 4, queries, 0, 500);
      }
    });
  }
  for (std::thread& t : threads) t.join();
  const std::vector<float> expected = Scores(index, 4, queries, 0, 500);
  for (const std::vector<float>& scores : found) {
    EXPECT_TRUE(std::equal(scores.begin(), scores.end(), expected.begin()));
  }
}

}  // namespace
}  // namespace pqcache
