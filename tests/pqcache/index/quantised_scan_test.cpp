#include "pqcache/index/quantised_scan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "pqcache/base/random.h"
#include "tests/pqcache/index/codebook_samples.h"
#include "tests/support/random_data.h"

namespace pqcache {
namespace {

using namespace pqcache::testing;

class QuantisedScanTest : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!IsaSupported(GetParam())) GTEST_SKIP() << "this CPU has no " << IsaName(GetParam());
  }
  const QuantisedScan& scan() const { return BodyFor(QuantisedScans(), GetParam()); }

  void Check(const PqShape& shape, int queries, const std::vector<float>& floats, int stride) {
    SCOPED_TRACE(shape.Name() + " queries " + std::to_string(queries) + " stride " +
                 std::to_string(stride));
    constexpr uint16_t kBefore = 7;
    const int k = shape.centroids(), lines = shape.bytes_per_key(), blocks = 14;
    QuantisedTables tables;
    tables.Set(shape, queries, floats.data(), TableSteps::kEach);
    tables.Fill(scan().form(shape.bits));
    std::vector<uint8_t> codes(static_cast<size_t>(blocks * lines * kScanBlockTokens));
    Random random(2);
    for (uint8_t& byte : codes) byte = static_cast<uint8_t>(random.Next());
    for (int block = 0; block < blocks; block += 3) {
      const int count = std::min(kScanBlocks, (blocks - block + stride - 1) / stride);
      std::vector<uint16_t> sums(kScanQueries * kScanTokens, kBefore);
      scan().scan({&tables, codes.data(), block, stride, count}, sums.data());
      for (int q = 0; q < kScanQueries; ++q) {
        const uint8_t* entries = tables.entries.data() + q * shape.subspaces * k;
        for (int i = 0; i < kScanTokens; ++i) {
          int expected = kBefore;
          if (q < queries && i < count * kScanBlockTokens) {
            expected = 0;
            const int at = block + i / kScanBlockTokens * stride;
            const uint8_t* bytes =
                codes.data() + at * lines * kScanBlockTokens + i % kScanBlockTokens;
            for (int m = 0; m < shape.subspaces; ++m) {
              const uint8_t byte = bytes[(shape.bits == 8 ? m : m / 2) * kScanBlockTokens];
              const int code = shape.bits == 8 ? byte : m % 2 == 0 ? byte & 15 : byte >> 4;
              expected += entries[m * k + code];
            }
          }
          ASSERT_EQ(sums[static_cast<size_t>(q * kScanTokens + i)], expected) << q << " " << i;
        }
      }
    }
  }
};

TEST_P(QuantisedScanTest, SumsTheEntriesOfEveryQuery) {
  for (const int bits : {4, 8}) {
    for (const int subspaces : {2, 3, 6, 16, 64}) {
      if (bits == 4 && subspaces % 2 == 1) continue;
      const PqShape shape{subspaces, subspaces, bits};
      for (int queries = 1; queries <= kScanQueries; ++queries) {
        const std::vector<float> floats =
            RandomNormals(int64_t{queries} * subspaces * shape.centroids(), 1);
        for (const int stride : {1, 3}) Check(shape, queries, floats, stride);
      }
    }
  }
}

// All entries but one of a table are the largest.
TEST_P(QuantisedScanTest, LargeSumsFit) {
  for (const PqShape& shape : {PqShape{258, 258, 8}, PqShape{1024, 1024, 4}}) {
    std::vector<float> floats(static_cast<size_t>(4 * shape.subspaces * shape.centroids()), 1);
    for (size_t i = 0; i < floats.size(); i += static_cast<size_t>(shape.centroids())) {
      floats[i] = 0;
    }
    Check(shape, 4, floats, 1);
  }
}

TEST_P(QuantisedScanTest, ATokenIsWorthTheLargestOfItsSums) {
  std::vector<uint16_t> sums(kScanQueries * kScanTokens);
  Random random(3);
  for (uint16_t& sum : sums) sum = static_cast<uint16_t>(random.Below(33000));
  sums[5] = 0;
  for (int queries = 1; queries <= kScanQueries; ++queries) {
    for (const uint16_t least : {0, 1, 20000, 32767, 32768, int{sums[17]}, 65535}) {
      const ScanThreshold threshold{queries, {0, 300, 32000, 7}, least};
      uint64_t bits[kScanBlocks];
      scan().at_least(threshold, sums.data(), bits);
      for (int i = 0; i < kScanTokens; ++i) {
        int worth = 0;
        for (int q = 0; q < queries; ++q) {
          worth = std::max(worth,
                           sums[static_cast<size_t>(q * kScanTokens + i)] + threshold.offsets[q]);
        }
        EXPECT_EQ(bits[i / kScanBlockTokens] >> i % kScanBlockTokens & 1, worth >= least)
            << i << " " << queries << " " << least;
      }
    }
  }
}

std::string NameOf(const ::testing::TestParamInfo<Isa>& isa) {
  return std::string(IsaName(isa.param));
}
INSTANTIATE_TEST_SUITE_P(Isas, QuantisedScanTest, ::testing::ValuesIn(kIsas), NameOf);

TEST(QuantisedTables, SumsGiveTheScoresBack) {
  const PqShape shape{16, 8, 8};
  for (const int g : {1, 3, 4}) {
    const std::vector<float> floats = RandomNormals(int64_t{g} * 8 * 256, 4);
    QuantisedTables tables;
    tables.Set(shape, g, floats.data(), TableSteps::kEach);
    Random random(5);
    for (int q = 0; q < kScanQueries; ++q) {
      for (int i = 0; i < 200; ++i) {
        float score = 0;
        int sum = 0;
        for (int m = 0; m < 8; ++m) {
          const auto code = static_cast<size_t>(random.Below(256));
          sum += tables.entries[static_cast<size_t>((q * 8 + m) * 256) + code];
          if (q < g) score += floats[static_cast<size_t>((q * 8 + m) * 256) + code];
        }
        if (q >= g) {
          EXPECT_EQ(sum, 0);
        } else {
          EXPECT_NEAR(tables.base[q] + tables.step[q] * static_cast<float>(sum), score,
                      8 * 0.51f * tables.step[q]);
        }
      }
    }
  }
}

TEST(QuantisedTables, SumsOfManySubspacesFitInto15Bits) {
  QuantisedTables tables;
  std::vector<float> floats;
  for (int i = 0; i < 1024 * 16; ++i) floats.push_back(static_cast<float>(i % 2));
  tables.Set({1024, 1024, 4}, 1, floats.data(), TableSteps::kEach);
  EXPECT_EQ(tables.entries[1], 31);  // 1024 * 31 < 32768
  const float bound = 5;
  tables.Set({1024, 1024, 4}, 1, floats.data(), TableSteps::kEach, {&bound, 1});
  EXPECT_EQ(tables.entries[1], 15);  // half of it is for what is added
}

// Whatever lies between the bounds joins in whole steps, and all of it fits into 15 bits.
TEST(QuantisedTables, WhatIsAddedJoinsInSteps) {
  for (const PqShape& shape : {PqShape{32, 16, 4}, PqShape{64, 32, 8}, PqShape{512, 256, 4}}) {
    const int k = shape.centroids();
    const std::vector<float> floats = RandomNormals(2 * shape.subspaces * k, 8);
    for (const float bound : {0.001f, 3.0f, 1e6f}) {
      const float bounds[2] = {bound, bound / 2};
      QuantisedTables tables;
      tables.Set(shape, 2, floats.data(), TableSteps::kOne, bounds);
      int largest = 0;
      for (int m = 0; m < shape.subspaces; ++m) {
        largest +=
            *std::max_element(tables.entries.data() + m * k, tables.entries.data() + (m + 1) * k);
      }
      EXPECT_EQ(tables.StepsOf(0, -bound), 0);
      EXPECT_LE(largest + tables.StepsOf(0, bound), 32767);
      for (const float share : {-1.0f, -0.3f, 0.0f, 0.7f, 1.0f}) {
        const double back = tables.step[0] * tables.StepsOf(0, share * bound) - bound;
        EXPECT_NEAR(back, share * bound, 0.51 * tables.step[0]) << shape.Name() << " " << bound;
      }
    }
  }
}

TEST(QuantisedTables, AlikeEntriesGiveTheirSum) {
  QuantisedTables tables;
  const std::vector<float> floats(2 * 16, 3.0f);
  tables.Set({2, 2, 4}, 1, floats.data(), TableSteps::kEach);
  EXPECT_EQ(tables.base[0], 6.0f);
  EXPECT_EQ(*std::max_element(tables.entries.data(), tables.entries.data() + tables.entries.size()),
            0);
}

}  // namespace
}  // namespace pqcache
