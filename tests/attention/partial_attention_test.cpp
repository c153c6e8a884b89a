#include "attention/partial_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "attention/sdpa_reference.h"
#include "pqcache/base/random.h"
#include "pqcache/cache/row_codec.h"
#include "tests/support/attention_fixture.h"

namespace pqcache::attention {
namespace {

using testing::MaxDifference;

// G queries over N rows of K and V, as bytes and as floats.
struct Rows {
  Rows(uint64_t seed, int g, int d, int64_t n, DType dtype = DType::kF32, float query_scale = 2)
      : group(g), dim(d), count(n) {
    Random random(seed);
    queries.resize(static_cast<size_t>(g * dim));
    keys.resize(static_cast<size_t>(n * dim));
    values.resize(static_cast<size_t>(n * dim));
    for (float& x : queries) x = query_scale * random.Normal();
    for (float& x : keys) x = random.Normal();
    for (float& x : values) x = random.Normal();
    const size_t half = DTypeSize(dtype) * static_cast<size_t>(dim);
    format = {dtype, dim, static_cast<int64_t>(half)};
    bytes.resize(static_cast<size_t>(n) * 2 * half);
    for (int64_t t = 0; t < n; ++t) {
      uint8_t* row = bytes.data() + static_cast<size_t>(t) * 2 * half;
      float* key = &keys[static_cast<size_t>(t * dim)];
      float* value = &values[static_cast<size_t>(t * dim)];
      StoreRow(key, dim, dtype, row);
      StoreRow(value, dim, dtype, row + half);
      LoadRow(row, dim, dtype, key);  // as stored
      LoadRow(row + half, dim, dtype, value);
      pointers.push_back(row);
    }
  }

  float scale() const { return 1.0f / std::sqrt(static_cast<float>(dim)); }
  // The queries as heads of the last token.
  SdpaResult Exact() const {
    return SdpaReference({.n = 1, .t = count, .heads = group, .kv_heads = 1, .dim = dim},
                         queries.data(), keys.data(), values.data());
  }
  void AddTo(PartialAttention* state, std::span<const uint8_t* const> part) const {
    state->AddRows(format, part, queries.data(), scale());
  }
  void Expect(const PartialAttention& state, double tolerance = 1e-5) const {
    std::vector<float> out(queries.size(), NAN);
    state.Finish(out.data());
    const SdpaResult exact = Exact();
    EXPECT_LT(MaxDifference(out, exact.out), tolerance);
    for (int g = 0; g < group; ++g) {
      EXPECT_NEAR(state.Lse(g), exact.lse[static_cast<size_t>(g)], tolerance);
    }
  }

  int group, dim;
  int64_t count;
  std::vector<float> queries, keys, values;
  RowFormat format;
  std::vector<uint8_t> bytes;
  std::vector<const uint8_t*> pointers;
};

TEST(PartialAttention, OnePartIsAttention) {
  for (const int group : {1, 4, 7}) {
    for (const int dim : {1, 17, 64, 80, 128}) {
      for (const int64_t n : {1, 2, 63, 64, 65, 129, 300}) {
        const Rows rows(static_cast<uint64_t>(n), group, dim, n);
        PartialAttention state;
        state.Reset(group, dim);
        rows.AddTo(&state, rows.pointers);
        SCOPED_TRACE(std::to_string(group) + " heads of " + std::to_string(dim) + ", " +
                     std::to_string(n) + " rows");
        rows.Expect(state);
      }
    }
  }
}

TEST(PartialAttention, BrainFloatRowsAreReadAsStored) {
  const Rows rows(1, 3, 48, 100, DType::kBF16);
  PartialAttention state;
  state.Reset(3, 48);
  rows.AddTo(&state, rows.pointers);
  rows.Expect(state);
}

// Cuts shuffled rows at random places; parts are added to one state or merged from their own.
TEST(PartialAttention, AnyPartitionInAnyOrderIsTheSame) {
  Random random(3);
  for (int round = 0; round < 200; ++round) {
    const int group = std::vector<int>{1, 4, 7}[random.Below(3)];
    const int64_t n = 1 + static_cast<int64_t>(random.Below(260));
    const Rows rows(random.Next(), group, 32, n, DType::kF32, round % 2 == 0 ? 2 : 40);
    std::vector<const uint8_t*> order = rows.pointers;
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.Below(i)]);
    PartialAttention state;
    state.Reset(group, 32);
    for (size_t begin = 0; begin < order.size();) {
      const size_t size =
          std::min<size_t>(order.size() - begin, random.Below(random.Below(2) == 0 ? 4 : 150));
      const std::span part(order.data() + begin, size);
      if (random.Below(2) == 0) {
        rows.AddTo(&state, part);
      } else {
        PartialAttention other;
        other.Reset(group, 32);
        rows.AddTo(&other, part);
        for (int g = 0; g < group; ++g) state.Merge(other, g, g);
      }
      begin += size;
    }
    SCOPED_TRACE("round " + std::to_string(round));
    rows.Expect(state, round % 2 == 0 ? 1e-5 : 1e-4);
  }
}

TEST(PartialAttention, MergeMovesOneHeadToAnother) {
  const Rows rows(4, 2, 16, 40);
  PartialAttention both, single, crossed;
  both.Reset(2, 16);
  rows.AddTo(&both, rows.pointers);
  crossed.Reset(2, 16);
  crossed.Merge(both, 0, 1);
  crossed.Merge(both, 1, 0);
  std::vector<float> straight(32), swapped(32);
  both.Finish(straight.data());
  crossed.Finish(swapped.data());
  std::rotate(swapped.begin(), swapped.begin() + 16, swapped.end());
  EXPECT_LT(MaxDifference(straight, swapped), 1e-6);
  single.Reset(1, 16);
  single.Merge(both, 1, 0);
  EXPECT_EQ(single.Lse(0), both.Lse(1));
}

TEST(PartialAttention, KnownLogitsEqualComputedOnes) {
  const Rows rows(5, 4, 24, 150);
  const int64_t stride = 170;
  std::vector<float> logits(static_cast<size_t>(4 * stride), NAN);
  for (int g = 0; g < 4; ++g) {
    for (int64_t t = 0; t < 150; ++t) {
      logits[static_cast<size_t>(g * stride + t)] =
          rows.scale() * std::inner_product(&rows.queries[static_cast<size_t>(g * 24)],
                                            &rows.queries[static_cast<size_t>(g * 24)] + 24,
                                            &rows.keys[static_cast<size_t>(t * 24)], 0.0f);
    }
  }
  PartialAttention state;
  state.Reset(4, 24);
  state.AddRowsWithLogits(rows.format, rows.pointers, logits.data(), stride);
  rows.Expect(state);
}

TEST(PartialAttention, LogitsOfMinusInfinityHaveNoWeight) {
  const Rows rows(6, 1, 8, 3);
  const float none[] = {-INFINITY, -INFINITY, -INFINITY};
  const float one[] = {-INFINITY, 2, -INFINITY};
  PartialAttention state;
  state.Reset(1, 8);
  std::vector<float> out(8, NAN);
  state.AddRowsWithLogits(rows.format, rows.pointers, none, 3);
  EXPECT_EQ(state.Lse(0), -INFINITY);
  state.Finish(out.data());
  EXPECT_EQ(out, std::vector<float>(8, 0.0f));
  state.AddRowsWithLogits(rows.format, rows.pointers, one, 3);
  state.AddRowsWithLogits(rows.format, rows.pointers, none, 3);
  state.Finish(out.data());
  EXPECT_LT(
      MaxDifference(out, std::vector<float>(rows.values.begin() + 8, rows.values.begin() + 16)),
      1e-6);
  EXPECT_FLOAT_EQ(state.Lse(0), 2);
}

TEST(PartialAttention, NothingAddedIsZero) {
  PartialAttention state, other;
  state.Reset(2, 4);
  other.Reset(2, 4);
  state.AddRows({DType::kF32, 4, 16}, {}, nullptr, 1);
  state.AddRowsWithLogits({DType::kF32, 4, 16}, {}, nullptr, 0);
  const float value[] = {1, 2, 3, 4};
  state.AddValue(0, -INFINITY, value);
  state.Merge(other, 0, 1);
  std::vector<float> out(8, NAN);
  state.Finish(out.data());
  EXPECT_EQ(out, std::vector<float>(8, 0.0f));
  EXPECT_EQ(state.Lse(0), -INFINITY);
  EXPECT_EQ(state.Lse(1), -INFINITY);
}

TEST(PartialAttention, ResetForgetsAndReshapes) {
  const Rows first(7, 7, 128, 70), second(8, 2, 16, 30);
  PartialAttention state;
  state.Reset(7, 128);
  first.AddTo(&state, first.pointers);
  state.Reset(2, 16);
  second.AddTo(&state, second.pointers);
  second.Expect(state);
  state.Reset(7, 128);
  first.AddTo(&state, first.pointers);
  first.Expect(state);
}

TEST(PartialAttention, AValueStandsForItsTokens) {
  Rows rows(9, 2, 16, 20);
  // Tokens 10 to 19 have equal values.
  for (size_t t = 11; t < 20; ++t) std::copy_n(&rows.values[160], 16, &rows.values[t * 16]);
  PartialAttention state;
  state.Reset(2, 16);
  rows.AddTo(&state, std::span(rows.pointers).first(10));
  for (int g = 0; g < 2; ++g) {
    double sum = 0;
    for (size_t t = 10; t < 20; ++t) {
      sum += std::exp(rows.scale() *
                      std::inner_product(&rows.queries[static_cast<size_t>(g) * 16],
                                         &rows.queries[static_cast<size_t>(g) * 16] + 16,
                                         &rows.keys[t * 16], 0.0));
    }
    state.AddValue(g, static_cast<float>(std::log(sum)), &rows.values[160]);
  }
  rows.Expect(state);
}

TEST(PartialAttention, AnInnerProductOfZeroCounts) {
  Rows rows(10, 1, 4, 2);
  rows.queries = {1, 0, 0, 0};
  const float keys[] = {0, 5, 5, 5, 0, -5, 0, 0};
  for (size_t t = 0; t < 2; ++t) {
    std::copy_n(&keys[t * 4], 4, &rows.keys[t * 4]);
    StoreRow(&keys[t * 4], 4, DType::kF32, rows.bytes.data() + t * 32);
  }
  PartialAttention state;
  state.Reset(1, 4);
  rows.AddTo(&state, rows.pointers);
  rows.Expect(state);
  EXPECT_FLOAT_EQ(state.Lse(0), std::log(2.0f));
}

TEST(PartialAttention, LogitsMayBeFarApart) {
  const Rows rows(11, 1, 8, 4);
  const float rising[] = {-3e4f, -200, 0, 5e3f};
  const float falling[] = {5e3f, 0, -200, -3e4f};
  for (const float* logits : {rising, falling}) {
    PartialAttention state;
    state.Reset(1, 8);
    for (size_t t = 0; t < 4; ++t) {
      state.AddRowsWithLogits(rows.format, std::span(&rows.pointers[t], 1), logits + t, 1);
    }
    const size_t best = logits == rising ? 3 : 0;
    std::vector<float> out(8);
    state.Finish(out.data());
    EXPECT_EQ(out, std::vector<float>(&rows.values[best * 8], &rows.values[best * 8] + 8));
    EXPECT_EQ(state.Lse(0), 5e3f);
  }
}

TEST(PartialAttention, NotANumberStaysInItsQueryHead) {
  Rows rows(12, 2, 8, 70);
  rows.queries[3] = NAN;  // of head 0
  PartialAttention state;
  state.Reset(2, 8);
  rows.AddTo(&state, rows.pointers);
  std::vector<float> out(16);
  state.Finish(out.data());
  EXPECT_TRUE(std::isnan(out[0]));
  EXPECT_TRUE(std::isnan(state.Lse(0)));
  PartialAttention merged;
  merged.Reset(2, 8);
  merged.Merge(state, 0, 0);
  merged.AddValue(0, 1.0f, rows.values.data());
  std::vector<float> merged_out(16);
  merged.Finish(merged_out.data());
  EXPECT_TRUE(std::isnan(merged_out[0]));
  const std::vector<double> exact = rows.Exact().out;
  for (size_t d = 8; d < 16; ++d) EXPECT_NEAR(out[d], exact[d], 1e-5);
}

}  // namespace
}  // namespace pqcache::attention
