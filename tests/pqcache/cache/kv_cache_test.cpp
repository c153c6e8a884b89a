#include "pqcache/cache/kv_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "pqcache/base/half.h"
#include "storage/memory_page_store.h"
#include "tests/support/attention_fixture.h"
#include "tests/support/faulty_store.h"
#include "tests/support/status_matchers.h"

namespace pqcache {
namespace {

using storage::MemoryPageStore;
using testing::ExpectError;
using testing::FaultyStore;
using testing::RandomSequence;
using testing::Sequence;

const ContextId kOwner = {FingerprintOf("tenant"), FingerprintOf("model"), FingerprintOf("owner")};
const ContextId kFork = {FingerprintOf("tenant"), FingerprintOf("model"), FingerprintOf("fork")};

KvCacheOptions Options(int layers, int kv_heads, int dim) {
  KvCacheOptions options;
  options.layers = layers;
  options.kv_heads = kv_heads;
  options.page.dim = dim;
  options.page.page_tokens = 8;
  options.n_sink = 3;
  options.local_window = 5;
  options.context = kOwner;
  return options;
}

std::vector<Sequence> SomeLayers(int layers, int64_t tokens, int kv_heads, int dim) {
  std::vector<Sequence> all;
  for (int i = 0; i < layers; ++i) {
    all.push_back(RandomSequence(static_cast<uint64_t>(i) + 1, tokens, kv_heads, kv_heads, dim));
  }
  return all;
}

Status AppendAll(KvCache* cache, const std::vector<Sequence>& layers, int64_t begin, int64_t end) {
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    const Sequence& s = layers[layer];
    PQCACHE_RETURN_IF_ERROR(
        cache->Append(static_cast<int>(layer), end - begin, s.key(begin, 0), s.value(begin, 0)));
  }
  return Status::Ok();
}

// Keys, then values of [begin, end) of one head.
std::vector<float> Read(const KvCache& cache, int layer, int head, int64_t begin, int64_t end) {
  const auto size = static_cast<size_t>((end - begin) * cache.options().page.dim);
  std::vector<float> rows(2 * size, NAN);
  const Status status = cache.ReadRows(layer, head, begin, end, rows.data(), rows.data() + size);
  EXPECT_TRUE(status.ok()) << status.message();
  return rows;
}

std::vector<float> Expected(const Sequence& s, int head, int64_t begin, int64_t end) {
  std::vector<float> rows;
  for (int64_t t = begin; t < end; ++t) {
    rows.insert(rows.end(), s.key(t, head), s.key(t, head) + s.dim);
  }
  for (int64_t t = begin; t < end; ++t) {
    rows.insert(rows.end(), s.value(t, head), s.value(t, head) + s.dim);
  }
  return rows;
}

bool IsStored(PageStore* store, const PageKey& key) {
  PageRead read = {key, nullptr, Status::Ok()};
  store->Read({&read, 1});
  return read.status.ok();
}

TEST(KvCache, ReadsBackEveryRangeOfEveryHead) {
  const auto layers = SomeLayers(2, 40, 3, 4);
  for (const int n_sink : {0, 3, 50}) {
    MemoryPageStore store(storage::kNoMemoryLimit);
    ThreadPool pool(2);
    KvCacheOptions options = Options(2, 3, 4);
    options.n_sink = n_sink;
    const auto cache = KvCache::Create(options, nullptr, &store, &pool).value();
    ASSERT_OK(AppendAll(cache.get(), layers, 0, 17));
    ASSERT_OK(AppendAll(cache.get(), layers, 17, 18));
    ASSERT_OK(AppendAll(cache.get(), layers, 18, 40));
    EXPECT_EQ(cache->tokens(0), 40);
    EXPECT_EQ(cache->tokens(1), 40);
    for (int layer = 0; layer < 2; ++layer) {
      for (int head = 0; head < 3; ++head) {
        for (int64_t begin = 0; begin <= 40; begin += 3) {
          for (int64_t end = begin; end <= 40; ++end) {
            ASSERT_EQ(Read(*cache, layer, head, begin, end),
                      Expected(layers[static_cast<size_t>(layer)], head, begin, end))
                << "layer " << layer << " head " << head << " [" << begin << ", " << end << ")";
          }
        }
      }
    }
  }
}

TEST(KvCache, RowsInBrainFloatsAreRoundedOnce) {
  auto layers = SomeLayers(1, 40, 2, 8);
  MemoryPageStore store(storage::kNoMemoryLimit);
  ThreadPool pool(1);
  KvCacheOptions options = Options(1, 2, 8);
  options.page.dtype = DType::kBF16;
  const auto cache = KvCache::Create(options, nullptr, &store, &pool).value();
  ASSERT_OK(AppendAll(cache.get(), layers, 0, 40));
  for (float& x : layers[0].keys) x = BFloat16ToFloat(FloatToBFloat16(x));
  for (float& x : layers[0].values) x = BFloat16ToFloat(FloatToBFloat16(x));
  EXPECT_EQ(Read(*cache, 0, 1, 0, 40), Expected(layers[0], 1, 0, 40));
  EXPECT_EQ(cache->full_bytes(), 40u * 2 * 2 * 8 * sizeof(uint16_t));
}

TEST(KvCache, KeysThatExistOnlyAsCodesAreDecoded) {
  const auto layers = SomeLayers(1, 40, 2, 8);
  const auto codebooks = testing::RandomCodebooks(layers, "4x4");
  MemoryPageStore store(storage::kNoMemoryLimit);
  ThreadPool pool(1);
  KvCacheOptions options = Options(1, 2, 8);
  options.page.layout = PageLayout::kValueOnly;
  const auto cache = KvCache::Create(options, codebooks, &store, &pool).value();
  ASSERT_OK(AppendAll(cache.get(), layers, 0, 40));
  // Sinks (3) and window (5) are exact rows in memory.
  const Sequence decoded = testing::WithDecodedKeys(layers[0], *codebooks, 0, 3, 35);
  for (const int head : {0, 1}) {
    for (const auto& [begin, end] :
         {std::pair{0, 40}, {0, 2}, {2, 20}, {10, 11}, {30, 40}, {36, 38}, {20, 20}}) {
      const std::vector<float> found = Read(*cache, 0, head, begin, end);
      EXPECT_LT(testing::MaxDifference(found, Expected(decoded, head, begin, end)), 1e-6)
          << begin << " to " << end;
    }
  }
}

TEST(KvCache, PagesCarryTheirIdentity) {
  const auto layers = SomeLayers(2, 30, 2, 4);
  MemoryPageStore store(storage::kNoMemoryLimit);
  ThreadPool pool(1);
  const auto cache = KvCache::Create(Options(2, 2, 4), nullptr, &store, &pool).value();
  ASSERT_OK(AppendAll(cache.get(), layers, 0, 30));
  for (int layer = 0; layer < 2; ++layer) {
    for (int head = 0; head < 2; ++head) {
      for (int64_t page = 0; page < 3; ++page) {
        PageRead read = {{kOwner, layer, head, page}, nullptr, Status::Ok()};
        EXPECT_EQ(cache->head(layer, head).page_key(page), read.key);
        ASSERT_OK(cache->ReadPages({&read, 1}));
        EXPECT_OK(VerifyPage(read.page->span(), read.key));
      }
      EXPECT_FALSE(IsStored(&store, {kOwner, layer, head, 3}));  // 25 paged tokens
    }
  }
}

// The right identity does not make the right rows.
TEST(KvCache, PagesOfAnotherShapeAreNotServed) {
  const auto layers = SomeLayers(1, 40, 1, 4);
  MemoryPageStore store(storage::kNoMemoryLimit);
  ThreadPool pool(1);
  const KvCacheOptions options = Options(1, 1, 4);
  std::vector<PageShape> others(4, options.page);
  others[0].layout = PageLayout::kValueOnly;
  others[1].dtype = DType::kBF16;
  others[2].dim = 2;
  others[3].page_tokens = 16;
  others.push_back(options.page);  // and a row too few
  for (size_t i = 0; i < others.size(); ++i) {
    SCOPED_TRACE("shape " + std::to_string(i));
    const auto cache = KvCache::Create(options, nullptr, &store, &pool).value();
    ASSERT_OK(AppendAll(cache.get(), layers, 0, 40));
    const int tokens = i + 1 == others.size() ? options.page.page_tokens - 1 : 8;
    const std::vector<uint8_t> rows(static_cast<size_t>(tokens) * others[i].row_bytes());
    const PageKey key = cache->head(0, 0).page_key(1);
    const PageWrite write = {key, EncodePage(key, others[i], tokens, rows)};
    ASSERT_OK(store.Put({&write, 1}));
    std::vector<float> found(2 * 8 * 4);
    ExpectError(cache->ReadRows(0, 0, 8, 16, found.data(), found.data() + 8 * 4),
                StatusCode::kCorruption, "layer 0 head 0 page 1: a page has");
    EXPECT_TRUE(cache->missed_page());
    EXPECT_OK(cache->ReadRows(0, 0, 0, 8, found.data(), found.data() + 8 * 4));
  }
}

TEST(KvCache, EveryFullPageIsPutOnce) {
  const auto layers = SomeLayers(2, 60, 2, 4);
  FaultyStore store;
  ThreadPool pool(1);
  const auto cache = KvCache::Create(Options(2, 2, 4), nullptr, &store, &pool).value();
  for (int64_t t = 0; t < 60; ++t) ASSERT_OK(AppendAll(cache.get(), layers, t, t + 1));
  EXPECT_EQ(store.pages_put, 2u * 2 * 6);  // 55 paged tokens a head
}

TEST(KvCache, DestructionRemovesItsPagesAndNoOthers) {
  const auto layers = SomeLayers(1, 30, 1, 4);
  MemoryPageStore store(storage::kNoMemoryLimit);
  ThreadPool pool(1);
  const auto kept = KvCache::Create(Options(1, 1, 4), nullptr, &store, &pool).value();
  ASSERT_OK(AppendAll(kept.get(), layers, 0, 30));
  KvCacheOptions options = Options(1, 1, 4);
  options.context = kFork;
  auto gone = KvCache::Create(options, nullptr, &store, &pool).value();
  ASSERT_OK(AppendAll(gone.get(), layers, 0, 30));
  EXPECT_TRUE(IsStored(&store, {kFork, 0, 0, 0}));
  gone.reset();
  EXPECT_FALSE(IsStored(&store, {kFork, 0, 0, 0}));
  EXPECT_EQ(Read(*kept, 0, 0, 0, 30), Expected(layers[0], 0, 0, 30));
}

TEST(KvCache, ForkSharesFullPagesAndGoesItsOwnWay) {
  for (const int n_sink : {0, 3}) {
    const auto layers = SomeLayers(2, 60, 2, 4);
    auto other = layers;
    for (Sequence& s : other) {
      const Sequence fresh = RandomSequence(77, 60, 2, 2, 4);
      std::copy(fresh.keys.begin() + 34 * 8, fresh.keys.end(), s.keys.begin() + 34 * 8);
      std::copy(fresh.values.begin() + 34 * 8, fresh.values.end(), s.values.begin() + 34 * 8);
    }
    MemoryPageStore store(storage::kNoMemoryLimit);
    ThreadPool pool(1);
    KvCacheOptions options = Options(2, 2, 4);
    options.n_sink = n_sink;
    auto parent = KvCache::Create(options, nullptr, &store, &pool).value();
    ASSERT_OK(AppendAll(parent.get(), layers, 0, 34));  // 29 paged: three full pages
    const uint64_t pages_before = store.stats().resident_bytes;
    auto fork = parent->Fork(kFork).value();
    EXPECT_EQ(store.stats().resident_bytes, pages_before);
    EXPECT_EQ(fork->options().context, kFork);
    ASSERT_OK(AppendAll(fork.get(), other, 34, 60));
    EXPECT_EQ(fork->tokens(1), 60);
    EXPECT_EQ(parent->tokens(1), 34);
    for (int layer = 0; layer < 2; ++layer) {
      const auto i = static_cast<size_t>(layer);
      EXPECT_EQ(Read(*fork, layer, 1, 0, 60), Expected(other[i], 1, 0, 60));
      EXPECT_EQ(Read(*parent, layer, 1, 0, 34), Expected(layers[i], 1, 0, 34));
    }
    EXPECT_TRUE(IsStored(&store, {kOwner, 1, 1, 2}));
    EXPECT_FALSE(IsStored(&store, {kOwner, 1, 1, 3}));
    EXPECT_TRUE(IsStored(&store, {kFork, 1, 1, 3}));
    EXPECT_FALSE(IsStored(&store, {kFork, 1, 1, 2}));

    fork.reset();
    EXPECT_FALSE(IsStored(&store, {kFork, 1, 1, 3}));
    EXPECT_TRUE(IsStored(&store, {kOwner, 1, 1, 2}));
    ASSERT_OK(AppendAll(parent.get(), layers, 34, 60));
    EXPECT_EQ(Read(*parent, 1, 0, 0, 60), Expected(layers[1], 0, 0, 60));
    parent.reset();
    EXPECT_EQ(store.stats().resident_bytes, 0u);
  }
}

TEST(KvCache, DeclaresItsMemoryAndStopsAtTheLimit) {
  const auto layers = SomeLayers(1, 200, 2, 8);
  FaultyStore store;
  ThreadPool pool(1);
  KvCacheOptions options = Options(1, 2, 8);
  options.keep_keys = true;
  auto cache = KvCache::Create(options, nullptr, &store, &pool).value();
  EXPECT_EQ(store.reserved, cache->memory_bytes());
  const uint64_t empty = cache->memory_bytes();
  ASSERT_OK(AppendAll(cache.get(), layers, 0, 100));
  EXPECT_EQ(store.reserved, cache->memory_bytes());
  EXPECT_GE(cache->memory_bytes(), empty + 95 * 2 * 8 * sizeof(float));
  EXPECT_EQ(cache->full_bytes(), 100u * 2 * 2 * 8 * sizeof(float));

  const uint64_t alone = cache->memory_bytes();
  auto fork = cache->Fork(kFork).value();
  EXPECT_EQ(store.reserved, 2 * alone);  // the parent's memory stays, too
  EXPECT_EQ(fork->memory_bytes(), alone);
  fork.reset();
  EXPECT_EQ(store.reserved, alone);

  store.memory = alone + 100;
  ExpectError(cache->Fork(kFork), StatusCode::kOutOfMemory, "expected at most");
  ExpectError(cache->Append(0, 50, layers[0].key(100, 0), layers[0].value(100, 0)),
              StatusCode::kOutOfMemory, "expected at most");
  // The memory is still held: asking for no more than before is refused as well.
  ExpectError(cache->Append(0, 0, layers[0].key(150, 0), layers[0].value(150, 0)),
              StatusCode::kOutOfMemory, "expected at most");
  store.memory = 1 << 30;
  EXPECT_OK(cache->Append(0, 50, layers[0].key(150, 0), layers[0].value(150, 0)));
  EXPECT_EQ(store.reserved, cache->memory_bytes());

  store.memory = empty - 1;
  ExpectError(KvCache::Create(options, nullptr, &store, &pool), StatusCode::kOutOfMemory,
              "expected at most");
}

TEST(KvCache, AStoreThatFailsIsReported) {
  const auto layers = SomeLayers(2, 60, 2, 4);
  FaultyStore store;
  ThreadPool pool(1);
  auto cache = KvCache::Create(Options(2, 2, 4), nullptr, &store, &pool).value();
  store.put_status = Status::IoError("disk full");
  EXPECT_OK(cache->Append(1, 10, layers[1].key(0, 0), layers[1].value(0, 0)));  // no full page yet
  ExpectError(cache->Append(1, 10, layers[1].key(10, 0), layers[1].value(10, 0)),
              StatusCode::kIoError, "disk full");
  store.put_status = Status::Ok();
  cache = KvCache::Create(Options(2, 2, 4), nullptr, &store, &pool).value();
  ASSERT_OK(AppendAll(cache.get(), layers, 0, 60));

  std::vector<float> keys(60 * 4), values(60 * 4);
  store.loses = [](const PageKey& key) { return key.layer == 1 && key.head == 0 && key.page == 4; };
  ExpectError(cache->ReadRows(1, 0, 0, 60, keys.data(), values.data()), StatusCode::kNotFound,
              "layer 1 head 0 page 4");
  EXPECT_OK(cache->ReadRows(1, 0, 0, 32, keys.data(), values.data()));
  EXPECT_OK(cache->ReadRows(1, 0, 40, 60, keys.data(), values.data()));
  EXPECT_OK(cache->ReadRows(1, 1, 0, 60, keys.data(), values.data()));
  store.loses = [](const PageKey&) { return false; };
  store.damages = [](const PageKey& key) { return key.page == 2; };
  ExpectError(cache->ReadRows(0, 1, 20, 21, keys.data(), values.data()), StatusCode::kCorruption,
              "layer 0 head 1 page 2");
}

TEST(KvCache, NotFiniteKeysNeedPagesWithKeys) {
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    auto layers = SomeLayers(2, 30, 2, 8);
    const auto codebooks = testing::RandomCodebooks(layers, "4x4");
    layers[1].key(12, 1)[7] = bad;
    for (const PageLayout layout : {PageLayout::kKeyValue, PageLayout::kValueOnly}) {
      MemoryPageStore store(storage::kNoMemoryLimit);
      ThreadPool pool(1);
      KvCacheOptions options = Options(2, 2, 8);
      options.page.layout = layout;
      const auto cache = KvCache::Create(options, codebooks, &store, &pool).value();
      ASSERT_OK(AppendAll(cache.get(), layers, 0, 12));
      const Status status = AppendAll(cache.get(), layers, 12, 30);
      if (layout == PageLayout::kKeyValue) {
        EXPECT_OK(status);
        EXPECT_TRUE(cache->head(1, 0).finite());
        EXPECT_FALSE(cache->head(1, 1).finite());
      } else {
        ExpectError(status, StatusCode::kInvalidArgument, "layer 1 head 1");
        ExpectError(cache->Append(1, 1, layers[1].key(29, 0), layers[1].value(29, 0)),
                    StatusCode::kInvalidArgument, "layer 1 head 1");
      }
    }
  }
}

TEST(KvCache, RefusesOptionsThatCannotBe) {
  const auto layers = SomeLayers(2, 30, 2, 8);
  const auto codebooks = testing::RandomCodebooks(layers, "4x4");
  MemoryPageStore store(storage::kNoMemoryLimit);
  ThreadPool pool(1);
  const auto create = [&](auto change, std::shared_ptr<const CodebookSet> set) {
    KvCacheOptions options = Options(2, 2, 8);
    change(&options);
    return KvCache::Create(options, std::move(set), &store, &pool).status();
  };
  const auto code = StatusCode::kInvalidArgument;
  EXPECT_OK(create([](auto*) {}, codebooks));
  ExpectError(create([](auto* o) { o->n_sink = -1; }, nullptr), code, "n_sink -1");
  ExpectError(create([](auto* o) { o->local_window = 0; }, nullptr), code, "local_window 0");
  ExpectError(create([](auto* o) { o->page.page_tokens = 0; }, nullptr), code, "page_tokens is 0");
  ExpectError(create([](auto* o) { o->page.page_tokens = 4097; }, nullptr), code, "1 to 4096");
  ExpectError(create([](auto* o) { o->layers = 3; }, codebooks), code, "expected 3 layers");
  ExpectError(create([](auto* o) { o->kv_heads = 1; }, codebooks), code, "expected 2 layers, 1 KV");
  ExpectError(create([](auto* o) { o->page.dim = 16; }, codebooks), code, "head size 16");
  ExpectError(create([](auto* o) { o->page.layout = PageLayout::kValueOnly; }, nullptr), code,
              "need codebooks");
}

TEST(KvCache, NewContextsDiffer) {
  const Fingerprint model = FingerprintOf("model");
  const ContextId a = NewContextId({}, model), b = NewContextId({}, model);
  EXPECT_EQ(a.model, model);
  EXPECT_EQ(a.tenant, Fingerprint());
  EXPECT_NE(a.context, b.context);
}

}  // namespace
}  // namespace pqcache
