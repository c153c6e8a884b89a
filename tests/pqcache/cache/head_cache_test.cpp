#include "pqcache/cache/head_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "pqcache/base/half.h"
#include "pqcache/cache/row_codec.h"
#include "pqcache/index/pq_index.h"
#include "tests/support/attention_fixture.h"

namespace pqcache {
namespace {

using testing::MaxDifference;
using testing::RandomSequence;
using testing::Sequence;

const ContextId kOwner = {FingerprintOf("tenant"), FingerprintOf("model"), FingerprintOf("owner")};
const ContextId kFork = {FingerprintOf("tenant"), FingerprintOf("model"), FingerprintOf("fork")};

HeadCacheOptions Options(int dim, int n_sink, int window, int page_tokens) {
  HeadCacheOptions options;
  options.page.dim = dim;
  options.page.page_tokens = page_tokens;
  options.n_sink = n_sink;
  options.local_window = window;
  options.first_page = {kOwner, 2, 3, 0};
  options.keep_keys = true;
  return options;
}

// A cache, and the rows and pages that it gave away, as floats.
struct Filled {
  explicit Filled(const HeadCacheOptions& options) : cache(options) {}
  Filled(const HeadCache& other, const ContextId& context) : cache(other, context) {}

  void Append(const Sequence& s, int64_t begin, int64_t end) {
    cache.Append(end - begin, s.key(begin, 0), s.value(begin, 0), s.dim, &pages);
  }

  HeadCache cache;
  std::vector<PageWrite> pages;
};

std::vector<float> Row(const uint8_t* bytes, int floats, DType dtype = DType::kF32) {
  std::vector<float> row(static_cast<size_t>(floats));
  LoadRow(bytes, floats, dtype, row.data());
  return row;
}

std::vector<float> KeyAndValue(const Sequence& s, int64_t t) {
  std::vector<float> row(s.key(t, 0), s.key(t, 0) + s.dim);
  row.insert(row.end(), s.value(t, 0), s.value(t, 0) + s.dim);
  return row;
}

// Rows of the block are tokens [block.first, block.first + count) of the sequence.
void ExpectRows(const RowBlock& block, size_t stride, const Sequence& s) {
  for (int64_t i = 0; i < block.count; ++i) {
    EXPECT_EQ(Row(block.rows + static_cast<size_t>(i) * stride, 2 * s.dim),
              KeyAndValue(s, block.first + i))
        << "token " << block.first + i;
  }
}

// Everything a cache of `tokens` tokens must hold, worked out from the definition.
void ExpectHolds(const Filled& filled, const Sequence& s, const HeadCacheOptions& options,
                 int64_t tokens) {
  const HeadCache& cache = filled.cache;
  const int page_tokens = options.page.page_tokens;
  const int64_t paged = std::max<int64_t>(0, tokens - options.local_window);
  ASSERT_EQ(cache.tokens(), tokens);
  ASSERT_EQ(cache.paged_tokens(), paged);
  ASSERT_EQ(cache.full_pages(), paged / page_tokens);
  ASSERT_EQ(cache.sink_tokens(), std::min<int64_t>(options.n_sink, paged));
  EXPECT_TRUE(cache.finite());

  const RowBlock sinks = cache.sinks();
  EXPECT_EQ(sinks.first, 0);
  EXPECT_EQ(sinks.count, cache.sink_tokens());
  ExpectRows(sinks, cache.memory_row_bytes(), s);

  const auto [first, second] = cache.window();
  EXPECT_EQ(first.first, paged);
  EXPECT_EQ(second.first, first.first + first.count);
  EXPECT_EQ(first.count + second.count, tokens - paged);
  ExpectRows(first, cache.memory_row_bytes(), s);
  ExpectRows(second, cache.memory_row_bytes(), s);

  const RowBlock open = cache.open_page();
  EXPECT_EQ(open.first, paged / page_tokens * page_tokens);
  EXPECT_EQ(open.count, paged % page_tokens);
  ExpectRows(open, options.page.row_bytes(), s);

  ASSERT_EQ(filled.pages.size(), static_cast<size_t>(paged / page_tokens));
  for (size_t p = 0; p < filled.pages.size(); ++p) {
    const PageKey key = {kOwner, 2, 3, static_cast<int64_t>(p)};
    EXPECT_EQ(filled.pages[p].key, key);
    const Status verified = VerifyPage(filled.pages[p].page->span(), key);
    EXPECT_TRUE(verified.ok()) << verified.message();
    ExpectRows({PageRows(*filled.pages[p].page), key.page * page_tokens, page_tokens},
               options.page.row_bytes(), s);
  }

  std::vector<float> keys(static_cast<size_t>(paged * s.dim));
  ASSERT_EQ(cache.keys()->size(), paged);
  cache.keys()->Reconstruct(0, paged, keys.data());
  EXPECT_TRUE(std::equal(keys.begin(), keys.end(), s.keys.begin()));
}

void ExpectValueSums(const HeadCache& cache, const Sequence& s, int n_sink) {
  std::vector<double> total(static_cast<size_t>(s.dim), 0.0);
  double total_count = 0;
  for (int64_t p = 0; p * kValueBlockTokens < cache.paged_tokens(); ++p) {
    std::vector<double> sum(static_cast<size_t>(s.dim), 0.0);
    int64_t count = 0;
    const int64_t end = std::min(cache.paged_tokens(), (p + 1) * kValueBlockTokens);
    for (int64_t t = p * kValueBlockTokens; t < end; ++t) {
      if (t < n_sink) continue;
      ++count;
      ++total_count;
      for (int d = 0; d < s.dim; ++d) {
        sum[static_cast<size_t>(d)] += s.value(t, 0)[d];
        total[static_cast<size_t>(d)] += s.value(t, 0)[d];
      }
    }
    EXPECT_EQ(cache.value_count(p), count) << "block " << p;
    const std::span<const float> found(cache.value_sum(p), static_cast<size_t>(s.dim));
    EXPECT_LT(MaxDifference(found, sum), 1e-4) << "block " << p;
  }
  if (total_count == 0) return;
  for (double& x : total) x /= total_count;
  std::vector<float> mean(total.size());
  cache.MeanValue(mean.data());
  EXPECT_LT(MaxDifference(mean, total), 1e-5);
}

TEST(HeadCache, EveryTokenIsInItsPlaceAfterEveryAppend) {
  const Sequence s = RandomSequence(1, 23, 1, 1, 2);
  for (const int n_sink : {0, 1, 3, 4, 7, 100}) {
    for (const int window : {1, 2, 5, 8, 40}) {
      for (const int page_tokens : {1, 2, 4, 7}) {
        SCOPED_TRACE("n_sink " + std::to_string(n_sink) + " window " + std::to_string(window) +
                     " page_tokens " + std::to_string(page_tokens));
        const HeadCacheOptions options = Options(s.dim, n_sink, window, page_tokens);
        Filled filled(options);
        ExpectHolds(filled, s, options, 0);
        for (int64_t t = 0; t < s.tokens; ++t) {
          filled.Append(s, t, t + 1);
          ExpectHolds(filled, s, options, t + 1);
          ExpectValueSums(filled.cache, s, n_sink);
        }
      }
    }
  }
}

std::vector<uint8_t> Codes(const HeadCache& cache, int subspaces) {
  std::vector<uint8_t> codes(static_cast<size_t>(cache.codes()->size() * subspaces));
  static_cast<const PqIndex*>(cache.codes())->CopyCodes(0, cache.codes()->size(), codes.data());
  return codes;
}

std::vector<uint8_t> Bytes(const RowBlock& block, size_t stride) {
  return {block.rows, block.rows + static_cast<size_t>(block.count) * stride};
}

void ExpectSame(const Filled& a, const Filled& b, int subspaces) {
  const size_t stride = a.cache.memory_row_bytes();
  ASSERT_EQ(a.cache.tokens(), b.cache.tokens());
  ASSERT_EQ(a.cache.paged_tokens(), b.cache.paged_tokens());
  EXPECT_EQ(Codes(a.cache, subspaces), Codes(b.cache, subspaces));
  EXPECT_EQ(Bytes(a.cache.sinks(), stride), Bytes(b.cache.sinks(), stride));
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(Bytes(a.cache.window()[i], stride), Bytes(b.cache.window()[i], stride));
  }
  const size_t page_stride = a.cache.page_shape().row_bytes();
  EXPECT_EQ(Bytes(a.cache.open_page(), page_stride), Bytes(b.cache.open_page(), page_stride));
  ASSERT_EQ(a.pages.size(), b.pages.size());
  for (size_t p = 0; p < a.pages.size(); ++p) {
    EXPECT_EQ(a.pages[p].key, b.pages[p].key);
    EXPECT_TRUE(std::ranges::equal(a.pages[p].page->span(), b.pages[p].page->span()));
  }
  const int dim = a.cache.page_shape().dim;
  for (int64_t p = 0; p * kValueBlockTokens < a.cache.paged_tokens(); ++p) {
    EXPECT_TRUE(std::equal(a.cache.value_sum(p), a.cache.value_sum(p) + dim, b.cache.value_sum(p)));
  }
  if (a.cache.paged_tokens() > a.cache.sink_tokens()) {
    std::vector<float> mean_a(static_cast<size_t>(dim)), mean_b(mean_a.size());
    a.cache.MeanValue(mean_a.data());
    b.cache.MeanValue(mean_b.data());
    EXPECT_EQ(mean_a, mean_b);
  }
  EXPECT_EQ(a.cache.bytes(), b.cache.bytes());
}

TEST(HeadCache, AppendOneByOneEqualsAppendInBulk) {
  const std::vector<Sequence> layers = {RandomSequence(2, 300, 1, 1, 16)};
  for (const PageLayout layout : {PageLayout::kKeyValue, PageLayout::kValueOnly}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const char* pq : {"4x8", "8x4"}) {
        const auto set = testing::RandomCodebooks(layers, pq);
        HeadCacheOptions options = Options(16, 5, 37, 16);
        options.page.layout = layout;
        options.page.dtype = dtype;
        options.codebook = std::shared_ptr<const HeadCodebook>(set, &set->head(0, 0));
        Filled single(options), bulk(options), mixed(options);
        for (int64_t t = 0; t < 300; ++t) single.Append(layers[0], t, t + 1);
        bulk.Append(layers[0], 0, 300);
        const int64_t cuts[] = {0, 1, 36, 38, 39, 40, 200, 300};
        for (size_t i = 0; i + 1 < std::size(cuts); ++i) {
          mixed.Append(layers[0], cuts[i], cuts[i + 1]);
        }
        ExpectSame(single, bulk, set->shape().subspaces);
        ExpectSame(single, mixed, set->shape().subspaces);
      }
    }
  }
}

TEST(HeadCache, CodesAreThoseOfTheRowsThatWereKept) {
  const std::vector<Sequence> layers = {RandomSequence(3, 90, 1, 1, 8)};
  const auto set = testing::RandomCodebooks(layers, "4x4");
  HeadCacheOptions options = Options(8, 4, 10, 16);
  options.page.dtype = DType::kBF16;
  options.codebook = std::shared_ptr<const HeadCodebook>(set, &set->head(0, 0));
  Filled filled(options);
  filled.Append(layers[0], 0, 90);
  std::vector<float> rounded = layers[0].keys;
  for (float& x : rounded) x = BFloat16ToFloat(FloatToBFloat16(x));
  std::vector<uint8_t> expected(80 * 4);
  set->head(0, 0).Encode(0, 80, rounded.data(), expected.data());
  EXPECT_EQ(Codes(filled.cache, 4), expected);
  std::vector<float> kept(80 * 8);
  filled.cache.keys()->Reconstruct(0, 80, kept.data());
  EXPECT_TRUE(std::equal(kept.begin(), kept.end(), rounded.begin()));
}

TEST(HeadCache, PagesWithoutKeysHoldValuesAlone) {
  const Sequence s = RandomSequence(4, 40, 1, 1, 4);
  HeadCacheOptions options = Options(4, 2, 3, 8);
  options.page.layout = PageLayout::kValueOnly;
  Filled filled(options);
  filled.Append(s, 0, 40);
  ASSERT_EQ(filled.pages.size(), 4u);
  EXPECT_EQ(filled.pages[0].page->size(), kPageHeaderBytes + 8 * 4 * sizeof(float));
  for (int64_t t = 0; t < 32; ++t) {
    const uint8_t* row = PageRows(*filled.pages[static_cast<size_t>(t / 8)].page) + t % 8 * 16;
    EXPECT_EQ(Row(row, 4), std::vector<float>(s.value(t, 0), s.value(t, 0) + 4));
  }
  const RowBlock open = filled.cache.open_page();
  EXPECT_EQ(open.first, 32);
  ASSERT_EQ(open.count, 5);
  EXPECT_EQ(Row(open.rows + 4 * 16, 4), std::vector<float>(s.value(36, 0), s.value(36, 0) + 4));
  ExpectRows(filled.cache.sinks(), 32, s);
  ExpectValueSums(filled.cache, s, 2);
}

TEST(HeadCache, StridedRowsOfOneHeadAreTaken) {
  const Sequence both = RandomSequence(5, 12, 2, 2, 4);
  Sequence second = RandomSequence(5, 12, 1, 1, 4);
  for (int64_t t = 0; t < 12; ++t) {
    std::copy_n(both.key(t, 1), 4, second.key(t, 0));
    std::copy_n(both.value(t, 1), 4, second.value(t, 0));
  }
  const HeadCacheOptions options = Options(4, 1, 2, 3);
  Filled filled(options);
  filled.cache.Append(12, both.key(0, 1), both.value(0, 1), 8, &filled.pages);
  ExpectHolds(filled, second, options, 12);
}

TEST(HeadCache, ForkCopiesAllAndOwnsOnlyWhatItFills) {
  const Sequence s = RandomSequence(6, 60, 1, 1, 4);
  Sequence other = RandomSequence(7, 60, 1, 1, 4);
  std::copy_n(s.keys.begin(), 30 * 4, other.keys.begin());
  std::copy_n(s.values.begin(), 30 * 4, other.values.begin());
  for (const int n_sink : {0, 6, 40}) {
    const HeadCacheOptions options = Options(4, n_sink, 5, 8);
    Filled parent(options);
    parent.Append(s, 0, 30);  // three full pages, one token in the open page
    Filled fork(parent.cache, kFork);
    fork.Append(other, 30, 60);

    Filled straight(options);
    straight.Append(other, 0, 60);
    ASSERT_EQ(straight.pages.size(), 6u);
    ASSERT_EQ(fork.pages.size(), 3u);
    for (int64_t p = 0; p < 6; ++p) {
      const PageKey key = {p < 3 ? kOwner : kFork, 2, 3, p};
      EXPECT_EQ(fork.cache.page_key(p), key);
    }
    for (size_t p = 0; p < 3; ++p) {
      EXPECT_EQ(fork.pages[p].key, fork.cache.page_key(static_cast<int64_t>(p) + 3));
      EXPECT_EQ(Row(PageRows(*fork.pages[p].page), 8 * 8),
                Row(PageRows(*straight.pages[p + 3].page), 8 * 8));
    }
    // Up to the bytes of page headers, the fork is a cache built in one go.
    straight.pages.clear();
    fork.pages.clear();
    ExpectRows(fork.cache.open_page(), 32, other);
    ExpectRows(fork.cache.window()[0], 32, other);
    ExpectRows(fork.cache.window()[1], 32, other);
    ExpectRows(fork.cache.sinks(), 32, other);
    ExpectValueSums(fork.cache, other, n_sink);
    EXPECT_EQ(fork.cache.bytes(), straight.cache.bytes());
    ExpectHolds(parent, s, options, 30);
    ExpectValueSums(parent.cache, s, n_sink);
    parent.Append(s, 30, 60);
    ExpectHolds(parent, s, options, 60);
  }
}

TEST(HeadCache, OneKeyThatIsNotFiniteMarksTheHeadForGood) {
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    const std::vector<Sequence> layers = {RandomSequence(8, 40, 1, 1, 4)};
    Sequence s = layers[0];
    const auto set = testing::RandomCodebooks(layers, "2x4");
    HeadCacheOptions options = Options(4, 2, 4, 8);
    options.codebook = std::shared_ptr<const HeadCodebook>(set, &set->head(0, 0));
    Filled filled(options);
    filled.Append(s, 0, 20);
    EXPECT_TRUE(filled.cache.finite());
    s.key(20, 0)[3] = bad;
    filled.Append(s, 20, 21);
    EXPECT_FALSE(filled.cache.finite());
    filled.Append(s, 21, 40);
    EXPECT_FALSE(filled.cache.finite());
    EXPECT_EQ(filled.cache.codes()->size(), 36);
    EXPECT_EQ(filled.cache.keys()->size(), 36);
    EXPECT_FALSE(HeadCache(filled.cache, kFork).finite());
  }
}

TEST(HeadCache, BytesCountRowsIndexAndSums) {
  const std::vector<Sequence> layers = {RandomSequence(9, 100, 1, 1, 8)};
  const auto set = testing::RandomCodebooks(layers, "4x8");
  HeadCacheOptions options = Options(8, 3, 10, 16);
  Filled filled(options);
  const uint64_t row = 2 * 8 * sizeof(float);
  EXPECT_EQ(filled.cache.bytes(), (3 + 10 + 16) * row);
  filled.Append(layers[0], 0, 100);
  const uint64_t sums = 2 * 8 * sizeof(float);  // 90 paged tokens lie in 2 blocks
  EXPECT_EQ(filled.cache.bytes(), (3 + 10 + 16) * row + sums + 90 * 8 * sizeof(float));
  options.keep_keys = false;
  options.codebook = std::shared_ptr<const HeadCodebook>(set, &set->head(0, 0));
  Filled coded(options);
  coded.Append(layers[0], 0, 100);
  EXPECT_EQ(coded.cache.bytes(), (3 + 10 + 16) * row + sums + 128 * 4);  // blocks of 32 tokens
}

}  // namespace
}  // namespace pqcache
