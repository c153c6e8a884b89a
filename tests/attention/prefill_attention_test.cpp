#include "attention/prefill_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "pqcache/base/half.h"
#include "tests/support/attention_fixture.h"
#include "tests/support/faulty_store.h"
#include "tests/support/status_matchers.h"

namespace pqcache::attention {
namespace {

using testing::ExactRow;
using testing::ExpectError;
using testing::FaultyStore;
using testing::MaxDifference;
using testing::RandomSequence;
using testing::Rig;
using testing::RigOptions;
using testing::Sequence;

using Layers = std::vector<Sequence>;

RigOptions Small() {
  RigOptions options;
  options.cache.page.page_tokens = 16;
  options.cache.n_sink = 4;
  options.cache.local_window = 24;
  options.policy = "exact";
  return options;
}

// Outputs [T, Hq, D] of a prompt fed in chunks that end at `ends`.
std::vector<float> PrefillInChunks(const Layers& layers, const RigOptions& options,
                                   const std::vector<int64_t>& ends) {
  Rig rig(&layers, options);
  std::vector<float> out;
  int64_t begin = 0;
  for (const int64_t end : ends) {
    const std::vector<float> chunk = rig.Prefill(begin, end);
    out.insert(out.end(), chunk.begin(), chunk.end());
    begin = end;
  }
  return out;
}

std::vector<int64_t> EveryEnd(int64_t tokens, int64_t chunk) {
  std::vector<int64_t> ends;
  for (int64_t end = chunk; end < tokens; end += chunk) ends.push_back(end);
  ends.push_back(tokens);
  return ends;
}

std::span<const float> RowOf(const std::vector<float>& out, const Sequence& s, int64_t t) {
  const auto size = static_cast<size_t>(s.heads * s.dim);
  return std::span(out).subspan(static_cast<size_t>(t) * size, size);
}

void ExpectRows(const std::vector<float>& out, const Sequence& s, const std::vector<int64_t>& rows,
                int64_t sliding_window = 0, double tolerance = 1e-5) {
  for (const int64_t t : rows) {
    const double difference = MaxDifference(RowOf(out, s, t), ExactRow(s, t, {}, sliding_window));
    EXPECT_LT(difference, tolerance) << "row " << t;
  }
}

std::vector<int64_t> AllRows(int64_t tokens) {
  std::vector<int64_t> rows(static_cast<size_t>(tokens));
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

TEST(PrefillAttention, EqualsExactAttentionForEveryShapeAndChunkSize) {
  for (const int group : {1, 4, 7}) {
    for (const int dim : {64, 80, 128}) {
      const Layers layers = {RandomSequence(1, 90, 2 * group, 2, dim)};
      for (const int64_t chunk : {1, 13, 64, 89, 90}) {
        SCOPED_TRACE("group " + std::to_string(group) + " dim " + std::to_string(dim) + " chunk " +
                     std::to_string(chunk));
        const auto out = PrefillInChunks(layers, Small(), EveryEnd(90, chunk));
        ExpectRows(out, layers[0], AllRows(90));
      }
    }
  }
}

TEST(PrefillAttention, PromptsLongerThanATileEqualExactAttention) {
  const Layers layers = {RandomSequence(2, 1200, 2, 1, 16)};
  const std::vector<int64_t> rows = {0,   1,   511, 512,  513,  514,  523,  524,  699,
                                     700, 701, 900, 1023, 1024, 1025, 1026, 1198, 1199};
  for (const std::vector<int64_t>& ends :
       {std::vector<int64_t>{1200}, {700, 1200}, {513, 1025, 1200}, {1, 1200}, {512, 1024, 1200}}) {
    ExpectRows(PrefillInChunks(layers, Small(), ends), layers[0], rows);
  }
}

TEST(PrefillAttention, SlidingWindowsOfEverySize) {
  const Layers layers = {RandomSequence(3, 700, 2, 1, 16)};
  const std::vector<int64_t> rows = {0, 1, 2, 63, 64, 65, 300, 399, 400, 511, 512, 513, 514, 699};
  for (const int64_t window : {1, 2, 24, 63, 64, 65, 300, 511, 512, 513, 699, 700, 9000}) {
    SCOPED_TRACE("sliding window " + std::to_string(window));
    RigOptions options = Small();
    options.attention.sliding_window = window;
    ExpectRows(PrefillInChunks(layers, options, {700}), layers[0], rows, window);
    ExpectRows(PrefillInChunks(layers, options, {400, 700}), layers[0], rows, window);
    ExpectRows(PrefillInChunks(layers, options, EveryEnd(700, 150)), layers[0], rows, window);
  }
}

TEST(PrefillAttention, NeverSeesTheFuture) {
  const Layers before = {RandomSequence(4, 700, 4, 2, 16)};
  Layers after = before;
  const Sequence other = RandomSequence(5, 700, 4, 2, 16);
  const auto row = [](const Sequence& s) { return static_cast<size_t>(s.kv_heads * s.dim); };
  for (const int64_t change : {1, 100, 512, 699}) {
    after[0] = before[0];
    const size_t from = static_cast<size_t>(change) * row(other);
    std::copy(other.keys.begin() + static_cast<int64_t>(from), other.keys.end(),
              after[0].keys.begin() + static_cast<int64_t>(from));
    for (size_t i = from; i < other.values.size(); ++i) after[0].values[i] *= 1e6f;
    for (const int64_t chunk : {700, 300}) {
      const auto a = PrefillInChunks(before, Small(), EveryEnd(700, chunk));
      const auto b = PrefillInChunks(after, Small(), EveryEnd(700, chunk));
      const auto same = static_cast<int64_t>(change * other.heads * other.dim);
      EXPECT_TRUE(std::equal(a.begin(), a.begin() + same, b.begin()));
      EXPECT_NE(a[static_cast<size_t>(same)], b[static_cast<size_t>(same)]);
    }
  }
}

TEST(PrefillAttention, AnInnerProductOfZeroIsALegalKey) {
  Layers layers = {RandomSequence(6, 40, 1, 1, 8)};
  for (int64_t t = 0; t < 40; ++t) {
    for (int d = 0; d < 8; ++d) {
      // Queries live in the first four directions; keys of every third token in the last four.
      if (d >= 4) layers[0].queries[static_cast<size_t>(t * 8 + d)] = 0;
      if (d < 4 && t % 3 == 0) layers[0].key(t, 0)[d] = 0;
    }
  }
  ExpectRows(PrefillInChunks(layers, Small(), {20, 40}), layers[0], AllRows(40));
}

TEST(PrefillAttention, BrainFloatsAreAttendedAsStored) {
  Layers layers = {RandomSequence(7, 200, 2, 2, 32)};
  RigOptions options = Small();
  options.cache.page.dtype = DType::kBF16;
  const auto out = PrefillInChunks(layers, options, {120, 200});
  Sequence& s = layers[0];
  for (size_t i = 0; i < s.keys.size(); ++i) {
    s.keys[i] = BFloat16ToFloat(FloatToBFloat16(s.keys[i]));
    s.values[i] = BFloat16ToFloat(FloatToBFloat16(s.values[i]));
  }
  ExpectRows(out, s, {0, 60, 119, 120, 121, 199});
}

TEST(PrefillAttention, WithoutStoredKeysThePastIsDecoded) {
  const Layers layers = {RandomSequence(8, 200, 4, 2, 32)};
  RigOptions options = Small();
  options.policy = "pq:codes_only";
  options.attention.budget = testing::kAll;
  options.cache.page.layout = PageLayout::kValueOnly;
  options.codebooks = testing::RandomCodebooks(layers, "8x4");
  const auto out = PrefillInChunks(layers, options, {120, 200});
  ExpectRows(out, layers[0], {0, 60, 119});
  const Sequence decoded = testing::WithDecodedKeys(layers[0], *options.codebooks, 0, 4, 96);
  ExpectRows(out, decoded, {120, 121, 199});
}

TEST(PrefillAttention, ThreadsDoNotChangeABit) {
  const Layers layers = {RandomSequence(9, 2600, 4, 2, 16)};
  for (const int64_t sliding_window : {0, 300, 900}) {
    RigOptions options = Small();
    options.attention.sliding_window = sliding_window;
    const auto one = PrefillInChunks(layers, options, {700, 2600});
    for (const int threads : {2, 3, 8}) {
      options.threads = threads;
      EXPECT_EQ(PrefillInChunks(layers, options, {700, 2600}), one) << threads << " threads";
    }
  }
}

TEST(PrefillAttention, ANotFiniteKeyHarmsOnlyRowsThatAttendToIt) {
  const Layers clean = {RandomSequence(10, 100, 4, 2, 16)};
  Layers layers = clean;
  layers[0].key(30, 1)[5] = NAN;
  for (const int64_t sliding_window : {0, 20}) {
    for (const std::vector<int64_t>& ends : {std::vector<int64_t>{100}, {40, 100}}) {
      RigOptions options = Small();
      options.attention.sliding_window = sliding_window;
      const auto out = PrefillInChunks(layers, options, ends);
      for (int64_t t = 0; t < 100; ++t) {
        const auto row = RowOf(out, layers[0], t);
        const auto exact = ExactRow(clean[0], t, {}, sliding_window);
        const bool attends = t >= 30 && (sliding_window == 0 || t < 50);
        EXPECT_LT(MaxDifference(row.first(32), std::span(exact).first(32)), 1e-5);
        if (attends) {
          EXPECT_TRUE(std::ranges::all_of(row.last(32), [](float x) { return std::isnan(x); }));
        } else {
          EXPECT_LT(MaxDifference(row.last(32), std::span(exact).last(32)), 1e-5) << "row " << t;
        }
      }
    }
  }
}

TEST(PrefillAttention, APageThatCannotBeReadIsNamed) {
  const Layers layers = {RandomSequence(11, 200, 4, 2, 16), RandomSequence(12, 200, 4, 2, 16)};
  FaultyStore store;
  RigOptions options = Small();
  options.store = &store;
  options.threads = 2;
  Rig rig(&layers, options);
  rig.Prefill(0, 150);
  store.loses = [](const PageKey& key) { return key.layer == 1 && key.head == 1 && key.page == 5; };
  const std::vector<int64_t> positions = {150, 151};
  std::vector<float> out(2 * 4 * 16);
  for (const int layer : {0, 1}) {
    const Sequence& s = layers[static_cast<size_t>(layer)];
    const AttentionInput input{layer,          2, positions.data(), s.query(150, 0), s.key(150, 0),
                               s.value(150, 0)};
    ThreadPool pool(2);
    const Status status = PrefillAttention({&rig.cache(), 4, 0}, input, &pool, out.data());
    if (layer == 0) {
      EXPECT_OK(status);
    } else {
      ExpectError(status, StatusCode::kNotFound, "layer 1 head 1 page 5");
    }
  }
  EXPECT_EQ(rig.cache().tokens(1), 150);
}

}  // namespace
}  // namespace pqcache::attention
