// A context that is saved and read back is the cache it was, to the bit; everything that is not
// quite it is refused.

#include <gtest/gtest.h>

#include <numeric>
#include <optional>

#include "pqcache/cache/context_catalog.h"
#include "pqcache/cache/context_save.h"
#include "pqcache/cache/stored_pages.h"
#include "tests/support/attention_fixture.h"
#include "tests/support/faulty_store.h"
#include "tests/support/status_matchers.h"

namespace pqcache {
namespace {

using testing::ExpectError;
using testing::FaultyStore;
using testing::RandomSequence;
using testing::Sequence;

constexpr int kLayers = 2, kHeads = 2, kDim = 16;

class StoredContext : public ::testing::Test {
 protected:
  StoredContext() {
    for (int i = 0; i < kLayers; ++i) {
      layers_.push_back(RandomSequence(static_cast<uint64_t>(i) + 1, 700, kHeads, kHeads, kDim));
    }
    codebooks_ = testing::RandomCodebooks(layers_, "4x4");
    tokens_.resize(700);
    for (size_t t = 0; t < tokens_.size(); ++t) tokens_[t] = static_cast<int64_t>(t * 31 % 97);
  }

  std::unique_ptr<KvCache> NewCache(int n_sink = 3, int local_window = 20, bool keep_keys = true,
                                    bool value_sums = true) {
    KvCacheOptions options;
    options.layers = kLayers;
    options.kv_heads = kHeads;
    options.page = {.dtype = dtype_, .dim = kDim, .page_tokens = 16};
    options.n_sink = n_sink;
    options.local_window = local_window;
    options.keep_keys = keep_keys;
    options.value_sums = value_sums;
    options.context = NewContextId(tenant_, FingerprintOf("model"));
    return std::move(*KvCache::Create(options, codebooks_, &store_, &pool_));
  }
  void Append(KvCache* cache, int64_t begin, int64_t end) {
    for (int l = 0; l < kLayers; ++l) {
      const Sequence& s = layers_[static_cast<size_t>(l)];
      ASSERT_OK(cache->Append(l, end - begin, s.key(begin, 0), s.value(begin, 0)));
    }
  }
  std::unique_ptr<KvCache> Computed(int64_t tokens, int n_sink = 3, int local_window = 20) {
    auto cache = NewCache(n_sink, local_window);
    Append(cache.get(), 0, tokens);
    return cache;
  }
  std::span<const int64_t> Tokens(int64_t n) const {
    return std::span(tokens_).first(static_cast<size_t>(n));
  }
  Result<bool> TrySave(KvCache* cache, const std::string& name, int64_t tokens,
                       std::optional<ContextManifest> replaced = {}) {
    const auto save = ContextSave::Begin(cache, name, Tokens(tokens), std::move(replaced));
    EXPECT_OK(save);
    for (int l = 0; l < kLayers; ++l) (*save)->SaveLayer(l);
    bool published = false;
    PQCACHE_RETURN_IF_ERROR((*save)->WaitSave(&published));
    return published;
  }
  bool Save(KvCache* cache, const std::string& name, int64_t tokens) {
    const Result<bool> published = TrySave(cache, name, tokens);
    EXPECT_OK(published);
    return published.ok() && *published;
  }
  std::unique_ptr<KvCache> Reopened(const std::string& name, int64_t tokens, int n_sink = 3,
                                    int local_window = 20) {
    auto cache = NewCache(n_sink, local_window);
    const auto manifest = Catalog().Find(name);
    EXPECT_OK(manifest);
    EXPECT_OK(cache->BeginLoad({*manifest, tokens}));
    EXPECT_OK(cache->WaitLayer(kLayers - 1));
    return cache;
  }
  ContextCatalog Catalog() { return ContextCatalog(&store_, tenant_); }

  // Rows, codes, keys and sums are those of `expected`, to the bit.
  static void ExpectSame(const KvCache& found, const KvCache& expected) {
    for (int l = 0; l < kLayers; ++l) {
      ASSERT_EQ(found.tokens(l), expected.tokens(l));
      for (int h = 0; h < kHeads; ++h) {
        SCOPED_TRACE("layer " + std::to_string(l) + " head " + std::to_string(h));
        const HeadCache& a = found.head(l, h);
        const HeadCache& b = expected.head(l, h);
        const int64_t n = a.tokens(), paged = a.paged_tokens();
        ASSERT_EQ(paged, b.paged_tokens());
        const auto size = static_cast<size_t>(n * kDim);
        std::vector<float> k1(size), v1(size), k2(size), v2(size);
        ASSERT_OK(found.ReadRows(l, h, 0, n, k1.data(), v1.data()));
        ASSERT_OK(expected.ReadRows(l, h, 0, n, k2.data(), v2.data()));
        EXPECT_EQ(k1, k2);
        EXPECT_EQ(v1, v2);
        const auto width = static_cast<size_t>(4 * 4 / 8);
        std::vector<uint8_t> c1(static_cast<size_t>(paged) * width), c2(c1.size());
        a.codes()->CopyPacked(0, paged, c1.data());
        b.codes()->CopyPacked(0, paged, c2.data());
        EXPECT_EQ(c1, c2);
        for (int64_t block = 0; block * kValueBlockTokens < paged; ++block) {
          EXPECT_EQ(a.value_count(block), b.value_count(block));
          EXPECT_TRUE(std::equal(a.value_sum(block), a.value_sum(block) + kDim, b.value_sum(block)))
              << "block " << block;
        }
        for (int64_t t = 0; t < a.sink_tokens(); ++t) {
          const size_t row = a.memory_row_bytes();
          EXPECT_EQ(std::memcmp(a.sinks().rows + t * row, b.sinks().rows + t * row, row), 0);
        }
        EXPECT_EQ(a.bytes(), b.bytes());
      }
    }
  }

  ThreadPool pool_{2};
  FaultyStore store_;
  std::vector<Sequence> layers_;
  std::shared_ptr<const CodebookSet> codebooks_;
  std::vector<int64_t> tokens_;
  DType dtype_ = DType::kBF16;
  Fingerprint tenant_ = TenantOf("salt");
};

TEST_F(StoredContext, IsTheCacheItWasForEveryLength) {
  for (const int64_t n : {1, 15, 16, 19, 20, 21, 36, 63, 64, 65, 84, 85, 128, 300, 333}) {
    SCOPED_TRACE(std::to_string(n) + " tokens");
    const std::string name = "c" + std::to_string(n);
    const auto computed = Computed(n);
    ASSERT_TRUE(Save(computed.get(), name, n));
    const auto reopened = Reopened(name, n);
    ExpectSame(*reopened, *computed);
    Append(computed.get(), n, n + 100);  // both go on alike, each in pages of its own
    Append(reopened.get(), n, n + 100);
    ExpectSame(*reopened, *computed);
    ExpectSame(*Reopened(name, n), *Computed(n));
  }
}

TEST_F(StoredContext, ServesOtherSinksAndWindowsAndAnyPrefix) {
  dtype_ = DType::kF32;
  ASSERT_TRUE(Save(Computed(400).get(), "c", 400));
  for (const int64_t n : {64, 128, 320, 384, 400}) {
    for (const auto& [n_sink, window] : {std::pair{0, 1}, {5, 64}, {64, 7}, {100, 500}}) {
      SCOPED_TRACE(std::to_string(n) + " tokens, " + std::to_string(n_sink) + " sinks, window " +
                   std::to_string(window));
      const auto expected = Computed(n, n_sink, window);
      const auto found = Reopened("c", n, n_sink, window);
      if (n_sink > 0) ExpectSame(*found, *expected);
      std::vector<float> k1(static_cast<size_t>(n * kDim)), v1 = k1, k2 = k1, v2 = k1;
      ASSERT_OK(found->ReadRows(1, 1, 0, n, k1.data(), v1.data()));
      ASSERT_OK(expected->ReadRows(1, 1, 0, n, k2.data(), v2.data()));
      EXPECT_EQ(k1, k2);
      EXPECT_EQ(v1, v2);
    }
  }
}

TEST_F(StoredContext, WithoutValueSumsOpeningReadsJustCodesSinksWindowAndOpenPage) {
  const auto computed = Computed(333);
  ASSERT_TRUE(Save(computed.get(), "c", 333));
  const ContextManifest manifest = *Catalog().Find("c");
  bool opening = true;
  store_.loses = [&](const PageKey& key) {
    if (key.context != manifest.id() || key.kind == PageKind::kCodes || !opening) return false;
    // Tokens 0 to 2 are sinks, 313 to 332 the window, 304 to 312 lie in the open page.
    return key.kind != PageKind::kRows || (key.page != 0 && key.page < 304 / 16);
  };
  auto found = NewCache(3, 20, false, false);
  ASSERT_OK(found->BeginLoad({manifest, 333}));
  ASSERT_OK(found->WaitLayer(kLayers - 1));
  opening = false;
  Append(found.get(), 333, 400);
  Append(computed.get(), 333, 400);
  std::vector<float> k1(400 * kDim), v1 = k1, k2 = k1, v2 = k1;
  ASSERT_OK(found->ReadRows(1, 1, 0, 400, k1.data(), v1.data()));
  ASSERT_OK(computed->ReadRows(1, 1, 0, 400, k2.data(), v2.data()));
  EXPECT_EQ(k1, k2);
  EXPECT_EQ(v1, v2);
  ExpectError(ContextSave::Begin(found.get(), "d", Tokens(400)), StatusCode::kInvalidArgument,
              "the cache keeps no sums of values");
}

TEST_F(StoredContext, ALongerContextSharesTheBeginning) {
  ASSERT_TRUE(Save(Computed(300).get(), "short", 300));
  const size_t put = store_.pages_put;
  const auto match =
      Catalog().Match(NewCache()->identity(), StoredCodesOf(codebooks_.get()), Tokens(600), 600);
  ASSERT_OK(match);
  ASSERT_TRUE(match->has_value());
  EXPECT_EQ((*match)->tokens, 300) << "the short last block counts when all of it is there";
  auto longer = NewCache();
  ASSERT_OK(longer->BeginLoad(**match));
  ASSERT_OK(longer->WaitLayer(kLayers - 1));
  Append(longer.get(), 300, 600);
  ASSERT_TRUE(Save(longer.get(), "long", 600));
  EXPECT_LT(store_.pages_put - put, kLayers * kHeads * 600 / 16)
      << "shared pages are not put again";
  longer = nullptr;
  ExpectSame(*Reopened("long", 600), *Computed(600));

  ASSERT_OK(Catalog().Remove("short"));
  ExpectSame(*Reopened("long", 600), *Computed(600));
  ASSERT_OK(Catalog().Remove("long"));
  EXPECT_EQ(store_.stats().resident_bytes, 0u) << "nothing is left behind";
}

TEST_F(StoredContext, AForkIsStoredWithoutItsParent) {
  const ContextId ids[] = {NewContextId(tenant_, FingerprintOf("model")),
                           NewContextId(tenant_, FingerprintOf("model"))};
  ASSERT_TRUE(Save(Computed(100).get(), "first", 100));
  auto parent = Reopened("first", 100);  // pages of a stored context, then its own
  Append(parent.get(), 100, 200);
  auto fork = std::move(*parent->Fork(ids[0]));
  auto fork_of_fork = std::move(*fork->Fork(ids[1]));
  Append(fork.get(), 200, 300);
  ASSERT_TRUE(Save(fork.get(), "fork", 300));
  ASSERT_TRUE(Save(fork.get(), "again", 300));
  Append(fork_of_fork.get(), 200, 260);
  ASSERT_TRUE(Save(fork_of_fork.get(), "fork_of_fork", 260));
  ASSERT_TRUE(Save(parent.get(), "parent", 200));
  ASSERT_OK(Catalog().Remove("parent"));
  fork_of_fork = nullptr;
  fork = nullptr;
  parent = nullptr;
  ExpectSame(*Reopened("fork", 300), *Computed(300));
  ASSERT_OK(Catalog().Remove("fork"));
  ExpectSame(*Reopened("again", 300), *Computed(300));
  ExpectSame(*Reopened("fork_of_fork", 260), *Computed(260));
  for (const char* name : {"first", "again", "fork_of_fork"}) ASSERT_OK(Catalog().Remove(name));
  EXPECT_EQ(store_.stats().resident_bytes, 0u) << "nothing is left behind";
}

TEST_F(StoredContext, WhatSharesPagesOfARemovedOneIsNotStored) {
  ASSERT_TRUE(Save(Computed(200).get(), "first", 200));
  auto cache = Reopened("first", 200);
  Append(cache.get(), 200, 300);
  ASSERT_OK(Catalog().Remove("first"));
  const auto save = ContextSave::Begin(cache.get(), "second", Tokens(300));
  for (int l = 0; l < kLayers; ++l) (*save)->SaveLayer(l);
  bool published = true;
  ExpectError((*save)->WaitSave(&published), StatusCode::kNotFound, "removed meanwhile");
  EXPECT_FALSE(published);
  EXPECT_TRUE(Catalog().List()->contexts.empty());
}

TEST_F(StoredContext, TheLongestSharedPrefixIsFound) {
  ASSERT_TRUE(Save(Computed(200).get(), "a", 200));
  ASSERT_TRUE(Save(Computed(330).get(), "b", 330));
  const ContextIdentity identity = NewCache()->identity();
  const auto shared = [&](std::vector<int64_t> tokens, int64_t limit) {
    const auto match = Catalog().Match(identity, {}, tokens, limit);
    EXPECT_OK(match);
    return match->has_value() ? (*match)->tokens : 0;
  };
  std::vector<int64_t> tokens(tokens_.begin(), tokens_.begin() + 500);
  EXPECT_EQ(shared(tokens, 500), 330);
  EXPECT_EQ(shared(tokens, 329), 320);
  EXPECT_EQ(shared(tokens, 63), 0);
  tokens[100] += 1;
  EXPECT_EQ(shared(tokens, 500), 64) << "blocks of 64 tokens up to the first that differs";
  tokens[0] += 1;
  EXPECT_EQ(shared(tokens, 500), 0);
}

TEST_F(StoredContext, EveryIngredientOfTheKeyCounts) {
  ASSERT_TRUE(Save(Computed(200).get(), "a", 200));
  const ContextIdentity same = NewCache()->identity();
  const StoredCodes codes = StoredCodesOf(codebooks_.get());
  std::vector<ContextIdentity> others(7, same);
  others[0].model = FingerprintOf("other");
  others[1].page.dtype = DType::kF32;
  others[2].page.page_tokens = 32;
  others[3].page.dim = 32;
  others[4].layers = 3;
  others[5].kv_heads = 1;
  others[6].tenant = TenantOf("pepper");
  for (size_t i = 0; i < others.size(); ++i) {
    const ContextCatalog catalog(&store_, others[i].tenant);
    const auto match = catalog.Match(others[i], codes, Tokens(200), 200);
    ASSERT_OK(match);
    EXPECT_FALSE(match->has_value()) << "ingredient " << i;
    EXPECT_NE(HashChain(others[i], Tokens(200)), HashChain(same, Tokens(200)));
  }
  StoredCodes other_codes = codes;
  other_codes.codebooks.bytes[3] ^= 1;
  EXPECT_FALSE(Catalog().Match(same, other_codes, Tokens(200), 200)->has_value());
  EXPECT_TRUE(Catalog().Match(same, codes, Tokens(200), 200)->has_value());
  EXPECT_TRUE(Catalog().Match(same, {}, Tokens(200), 200)->has_value()) << "no codes are wanted";
  ExpectError(ContextCatalog(&store_, TenantOf("pepper")).Find("a"), StatusCode::kNotFound,
              "there are none");
}

TEST_F(StoredContext, OfTwoWritersOneWinsWhole) {
  const auto first = Computed(100), second = Computed(200);
  const auto a = ContextSave::Begin(first.get(), "c", Tokens(100));
  const auto b = ContextSave::Begin(second.get(), "c", Tokens(200));
  for (int l = 0; l < kLayers; ++l) {
    (*a)->SaveLayer(l);
    (*b)->SaveLayer(l);
  }
  bool a_won = false, b_won = false;
  ASSERT_OK((*b)->WaitSave(&b_won));
  ASSERT_OK((*a)->WaitSave(&a_won));
  EXPECT_TRUE(b_won);
  EXPECT_FALSE(a_won);
  ExpectSame(*Reopened("c", 200), *Computed(200));
}

TEST_F(StoredContext, WhatFailsLeavesNothingToSee) {
  const auto cache = Computed(300);
  store_.put_status = Status::IoError("disk is full");
  const auto save = ContextSave::Begin(cache.get(), "c", Tokens(300));
  for (int l = 0; l < kLayers; ++l) (*save)->SaveLayer(l);
  bool published = true;
  ExpectError((*save)->WaitSave(&published), StatusCode::kIoError, "disk is full");
  EXPECT_FALSE(published);
  EXPECT_TRUE(Catalog().List()->contexts.empty());
  store_.put_status = Status::Ok();
  EXPECT_TRUE(Save(cache.get(), "c", 300)) << "the cache goes on as before";
  ExpectSame(*Reopened("c", 300), *Computed(300));
}

// A reply can get lost on its way: what counts is what the store has.
TEST_F(StoredContext, ARecordWhoseWritingIsInDoubtNeverSpeaksOfLostPages) {
  for (const bool replaces : {false, true}) {
    SCOPED_TRACE(replaces ? "replacing" : "new");
    std::optional<ContextManifest> replaced;
    if (replaces) {
      ASSERT_TRUE(Save(Computed(300).get(), "c", 300));
      replaced = *Catalog().Find("c");
    }
    store_.record_status = Status::IoError("no reply");
    ExpectError(TrySave(Computed(300).get(), "c", 300, replaced), StatusCode::kIoError, "no reply");
    EXPECT_EQ(Catalog().List()->contexts.size(), replaces ? 1u : 0u);
    EXPECT_EQ(Catalog().Find("c").ok(), replaces);

    store_.records_written = true;
    const Result<bool> written = TrySave(Computed(300).get(), "c", 300, replaced);
    ASSERT_OK(written);
    EXPECT_TRUE(*written);
    ExpectSame(*Reopened("c", 300), *Computed(300));
    if (replaces) {
      EXPECT_NE(Catalog().Find("c")->context, replaced->context);
      replaced = *Catalog().Find("c");
    } else {
      ASSERT_OK(Catalog().Remove("c"));
    }

    store_.get_record_status = Status::IoError("nor now");
    ExpectError(TrySave(Computed(300).get(), "c", 300, replaced), StatusCode::kIoError,
                "it is not known whether it was written");
    store_.get_record_status = store_.record_status = Status::Ok();
    store_.records_written = false;
    ExpectSame(*Reopened("c", 300), *Computed(300));
    ASSERT_OK(Catalog().Remove("c"));
  }
}

TEST_F(StoredContext, AReplacedOneGivesItsPagesUp) {
  ASSERT_TRUE(Save(Computed(300).get(), "c", 300));
  const ContextManifest old = *Catalog().Find("c");
  EXPECT_TRUE(*TrySave(Computed(200).get(), "c", 200, old));
  ExpectSame(*Reopened("c", 200), *Computed(200));
  EXPECT_EQ(Catalog().Verify(old)->missing, StoredPageCount(old));

  EXPECT_FALSE(*TrySave(Computed(300).get(), "c", 300, old)) << "it is another one now";
  ExpectSame(*Reopened("c", 200), *Computed(200));
  ExpectError(ContextSave::Begin(Reopened("c", 200).get(), "c", Tokens(200), old),
              StatusCode::kInvalidArgument, "shares pages with a stored context");
  ASSERT_OK(Catalog().Remove("c"));
  EXPECT_EQ(store_.stats().resident_bytes, 0u) << "nothing is left behind";
}

TEST_F(StoredContext, RefusesWhatCannotBeStored) {
  const auto cache = Computed(100);
  for (const char* name : {"", ".a", "-a", "a/b", "a b", "..", "\xc3\xa4"}) {
    ExpectError(ContextSave::Begin(cache.get(), name, Tokens(100)), StatusCode::kInvalidArgument,
                "context name is");
  }
  EXPECT_OK(CheckContextName(std::string(128, 'a')));
  ExpectError(CheckContextName(std::string(129, 'a')), StatusCode::kInvalidArgument, "1 to 128");
  ExpectError(ContextSave::Begin(cache.get(), "c", Tokens(99)), StatusCode::kInvalidArgument,
              "holds 100 tokens, expected all 99");
  layers_[1].key(50, 0)[0] = NAN;
  ExpectError(ContextSave::Begin(Computed(100).get(), "c", Tokens(100)), StatusCode::kUnsupported,
              "layer 1 head 0");
}

TEST_F(StoredContext, LostAndDamagedPagesAreErrorsOfTheirLayer) {
  ASSERT_TRUE(Save(Computed(300).get(), "c", 300));
  const ContextManifest manifest = *Catalog().Find("c");
  for (const bool lost : {true, false}) {
    for (const PageKind kind : {PageKind::kRows, PageKind::kCodes, PageKind::kValueSums}) {
      const auto hit = [&](const PageKey& key) { return key.layer == 1 && key.kind == kind; };
      (lost ? store_.loses : store_.damages) = hit;
      auto cache = NewCache();
      ASSERT_OK(cache->BeginLoad({manifest, 300}));
      EXPECT_OK(cache->WaitLayer(0));
      const StatusCode code = lost ? StatusCode::kNotFound : StatusCode::kCorruption;
      ExpectError(cache->WaitLayer(1), code, "stored context c");
      ExpectError(cache->WaitLayer(1), code, "stored context c");
      EXPECT_TRUE(cache->missed_page());
      const ContextCheck check = *Catalog().Verify(manifest);
      EXPECT_EQ(check.pages, StoredPageCount(manifest));
      EXPECT_GT(lost ? check.missing : check.damaged, 0);
      EXPECT_EQ(lost ? check.damaged : check.missing, 0);
      EXPECT_FALSE(check.problems.empty());
      store_.loses = store_.damages = [](const PageKey&) { return false; };
    }
  }
  EXPECT_EQ(Catalog().Verify(manifest)->missing, 0);
  EXPECT_EQ(*Catalog().ReadTokens(manifest),
            std::vector<int64_t>(tokens_.begin(), tokens_.begin() + 300));
}

TEST_F(StoredContext, TokenIdsAreReadFromAnyOfTheirCopies) {
  ASSERT_TRUE(Save(Computed(300).get(), "c", 300));
  const ContextManifest manifest = *Catalog().Find("c");
  ASSERT_EQ(TokenCopies(manifest), kLayers);
  const std::vector<int64_t> expected(tokens_.begin(), tokens_.begin() + 300);
  for (int lost = 0; lost < kLayers; ++lost) {
    store_.loses = [=](const PageKey& key) {
      return key.kind == PageKind::kTokens && key.layer == lost;
    };
    const auto tokens = Catalog().ReadTokens(manifest);
    ASSERT_OK(tokens);
    EXPECT_EQ(*tokens, expected);
    EXPECT_EQ(Catalog().Verify(manifest)->missing, 1);
  }
  store_.loses = [](const PageKey& key) { return key.kind == PageKind::kTokens; };
  ExpectError(Catalog().ReadTokens(manifest), StatusCode::kNotFound, "stored context c");
}

TEST_F(StoredContext, AFailedBeginningIsTheErrorOfEveryLayer) {
  ASSERT_TRUE(Save(Computed(300).get(), "c", 300));
  const ContextManifest manifest = *Catalog().Find("c");
  store_.loses = [](const PageKey& key) { return key.layer == 0 && key.page == 0; };
  auto cache = NewCache();
  ExpectError(cache->BeginLoad({manifest, 300}), StatusCode::kNotFound, "stored context c");
  ExpectError(cache->WaitLayer(0), StatusCode::kNotFound, "stored context c");
  ExpectError(cache->WaitLayer(1), StatusCode::kNotFound, "stored context c");
  store_.loses = [](const PageKey&) { return false; };

  cache = NewCache();
  store_.memory = store_.reserved + 1;
  ExpectError(cache->BeginLoad({manifest, 300}), StatusCode::kOutOfMemory, "expected at most");
  ExpectError(cache->WaitLayer(1), StatusCode::kOutOfMemory, "expected at most");
}

TEST_F(StoredContext, AnotherModelOrCodebookIsRefusedByName) {
  ASSERT_TRUE(Save(Computed(100).get(), "c", 100));
  ContextManifest manifest = *Catalog().Find("c");
  ContextManifest other = manifest;
  other.identity.model = FingerprintOf("other");
  ExpectError(NewCache()->BeginLoad({other, 100}), StatusCode::kInvalidArgument, "model is");
  other = manifest;
  other.codes.codebooks = {};
  ExpectError(NewCache()->BeginLoad({other, 100}), StatusCode::kInvalidArgument, "codebooks");
}

TEST_F(StoredContext, ManifestsAreReadWholeOrNotAtAll) {
  ASSERT_TRUE(Save(Computed(300).get(), "c", 300));
  const std::string bytes = EncodeManifest(*Catalog().Find("c"));
  EXPECT_EQ(EncodeManifest(*DecodeManifest(bytes)), bytes);
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(DecodeManifest(std::string_view(bytes).substr(0, size)).ok()) << size;
  }
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    std::string flipped = bytes;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
    EXPECT_FALSE(DecodeManifest(flipped).ok()) << bit;
  }
  std::string newer = bytes;
  newer[8] = 2;
  ExpectError(DecodeManifest(newer), StatusCode::kUnsupported, "version is 2, expected 1");
}

TEST_F(StoredContext, ADamagedManifestIsListedAndCanBeRemoved) {
  ASSERT_TRUE(Save(Computed(100).get(), "good", 100));
  ASSERT_TRUE(*store_.PutRecord({tenant_, "bad"}, "PQMANIF\nrubbish of twenty-four bytes"));
  const CatalogListing listing = *Catalog().List();
  EXPECT_EQ(listing.contexts.size(), 1u);
  ASSERT_EQ(listing.damaged.size(), 1u);
  EXPECT_TRUE(listing.damaged[0].starts_with("bad: "));
  ASSERT_OK(Catalog().Remove("bad"));
  EXPECT_TRUE(Catalog().List()->damaged.empty());
  ExpectSame(*Reopened("good", 100), *Computed(100));
}

}  // namespace
}  // namespace pqcache
