#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "pqcache/index/adc_scan.h"
#include "tests/support/random_data.h"

namespace pqcache {
namespace {

using testing::RandomIntegers;

// Whole numbers below 2^24 add up exactly, in any order.
constexpr int kRange = 1000;

uint8_t CodeOf(int64_t row, int m, int bits) {
  return static_cast<uint8_t>((row * 37 + m * 11 + row * row % 7) & ((1 << bits) - 1));
}

// Blocks of 64 tokens, one line of 64 bytes per sub-space or pair of them, as pq_index.h says.
std::vector<uint8_t> Blocks(int64_t rows, int subspaces, int bits) {
  const int lines = bits == 8 ? subspaces : subspaces / 2;
  std::vector<uint8_t> blocks(static_cast<size_t>((rows + 63) / 64 * lines * 64));
  for (int64_t row = 0; row < rows; ++row) {
    for (int line = 0; line < lines; ++line) {
      uint8_t& byte = blocks[(row / 64 * lines + line) * 64 + row % 64];
      byte =
          bits == 8
              ? CodeOf(row, line, 8)
              : static_cast<uint8_t>(CodeOf(row, 2 * line, 4) | CodeOf(row, 2 * line + 1, 4) << 4);
    }
  }
  return blocks;
}

TEST(AdcScanScalar, SumsTheTableEntriesOfARange) {
  const int64_t rows = 150;
  for (const int bits : {4, 8}) {
    for (const int subspaces : {2, 6, 32}) {
      const int k = 1 << bits;
      const std::vector<float> table = RandomIntegers(int64_t{subspaces} * k, -kRange, kRange, 1);
      const std::vector<uint8_t> codes = Blocks(rows, subspaces, bits);
      for (const int64_t begin : {0, 1, 63, 64, 65, 128, 149, 150}) {
        for (const int64_t end : {0, 1, 64, 65, 127, 128, 129, 150}) {
          if (end < begin) continue;
          std::vector<float> scores(static_cast<size_t>(end - begin) + 1, -0.5f);
          AdcScanScalar({codes.data(), table.data(), subspaces, bits, begin, end}, scores.data());
          for (int64_t row = begin; row < end; ++row) {
            float sum = 0;
            for (int m = 0; m < subspaces; ++m) sum += table[m * k + CodeOf(row, m, bits)];
            EXPECT_EQ(scores[row - begin], sum) << bits << " " << subspaces << " " << row;
          }
          EXPECT_EQ(scores.back(), -0.5f);
        }
      }
    }
  }
}

}  // namespace
}  // namespace pqcache
