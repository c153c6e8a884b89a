#pragma once

// A process that works on stored contexts as its seed says, beside a model of what must be there.
// It may be killed at any moment; the next one checks what the folder holds against the journal.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "pqcache/base/file_io.h"
#include "pqcache/base/random.h"
#include "pqcache/base/thread_pool.h"
#include "pqcache/cache/context_catalog.h"
#include "pqcache/cache/context_save.h"
#include "pqcache/cache/kv_cache.h"
#include "storage/stores.h"
#include "tests/storage/cache_checks.h"
#include "tests/storage/sample_text.h"
#include "tests/support/journal.h"
#include "tests/support/status_matchers.h"

namespace pqcache::testing {

// Shared with the process that kills. Operations are numbered from 1.
struct RandomOperationsProgress {
  std::atomic<uint64_t> operation;    // the last one that was begun
  std::atomic<bool> in_doubt;         // a save or a removal has begun and is not acknowledged
  std::atomic<uint64_t> opened_us;    // how long the last opening took
  std::atomic<uint64_t> checked;      // stored contexts compared whole after an opening
  std::atomic<uint64_t> interrupted;  // saves and removals that were not acknowledged
  std::atomic<uint64_t> saved, removed, loaded, forked;
  std::atomic<uint64_t> refused;  // for want of memory
};

class RandomOperations {
 public:
  // Opens the folder and compares everything in it with the journal; RemoveUnreferenced before.
  RandomOperations(const std::string& folder, uint64_t seed, RandomOperationsProgress* progress)
      : folder_(folder), seed_(seed), progress_(progress) {
    for (int i = 0; i < kTenants; ++i) tenants_.push_back(MakeTenant(i));
    Open();
    if (store_ != nullptr) Recover();
  }

  void Do(uint64_t operation) {
    progress_->operation = operation;
    Random random(MixSeed(seed_, operation));
    const uint64_t choice = random.Below(10'000);
    const std::string name = "c" + std::to_string(operation);
    if (choice < 2) {
      live_.clear();
      Open();
      CheckLists();
    } else if (choice < 100 || live_.empty()) {
      Begin(&random);
    } else if (choice < 200 && stored_.size() < kMostStored) {
      Save(PickLive(&random), name, &random);
    } else if (choice < 260) {
      RemoveOne(&random);
    } else if (choice < 340) {
      if (const auto it = PickStored(&random); it != stored_.end()) CheckStored(*it);
    } else if (choice < 400) {
      Match(&random);
    } else if (choice < 480) {
      CheckLists();
    } else if (choice < 510) {
      EXPECT_OK(store_->Sync());
    } else if (choice < 1000) {
      Prefetch(*PickLive(&random), &random);
    } else if (choice < 4500) {
      Append(PickLive(&random), &random);
    } else {
      Read(*PickLive(&random), &random);
    }
    CheckStats();
  }

  void RemoveAll() {
    live_.clear();
    while (!stored_.empty() && !::testing::Test::HasFailure()) Remove(stored_.begin());
    CheckLists();
  }

  static constexpr uint64_t kMemoryLimit = 64 << 10;

 private:
  static constexpr int kTenants = 3, kLayers = 2, kHeads = 2, kDim = SampleText::kDim;
  static constexpr int kSinks = 3;
  static constexpr size_t kMostLive = 6, kMostStored = 12;
  static constexpr int64_t kMostTokens = 400;

  struct Tenant {
    std::string salt;
    PageShape page;
    std::shared_ptr<const CodebookSet> codebooks;  // may be null
    Fingerprint id() const { return TenantOf(salt); }
  };
  using Name = std::pair<int, std::string>;  // number of the tenant
  using Stored = std::map<Name, SampleText>;

  struct Live {
    int tenant = 0;
    SampleText text;
    uint64_t next_seed = 0;        // of tokens to come
    std::shared_ptr<Live> parent;  // of a fork; outlives it
    std::set<Name> bases;          // stored contexts that keep the pages that are not its own
    bool may_miss = false;         // one of them was removed
    std::unique_ptr<KvCache> cache;
  };
  using LiveRef = std::shared_ptr<Live>;

  static Tenant MakeTenant(int i) {
    Tenant tenant;
    tenant.salt = i == 0 ? "" : "salt" + std::to_string(i);
    tenant.page = {.dtype = i == 1 ? DType::kBF16 : DType::kF32, .dim = kDim, .page_tokens = 4 + i};
    if (i == 2) return tenant;
    auto set = std::make_shared<CodebookSet>();
    set->layers = kLayers;
    set->kv_heads = kHeads;
    const PqShape shape = PqShape::Parse("4x4", kDim).value();
    Random random(static_cast<uint64_t>(i));
    for (int h = 0; h < kLayers * kHeads; ++h) {
      std::vector<float> centroids(static_cast<size_t>(shape.centroids() * kDim));
      for (float& x : centroids) x = 4 * random.Normal();
      set->heads.push_back(HeadCodebook::Create({.shape = shape, .centroids = centroids}).value());
    }
    tenant.codebooks = set;
    return tenant;
  }

  const Tenant& tenant(int i) const { return tenants_[static_cast<size_t>(i)]; }
  ContextCatalog Catalog(int i) const { return ContextCatalog(store_.get(), tenant(i).id()); }
  static std::string JournalName(const Stored::value_type& stored) {
    return std::to_string(stored.first.first) + "/" + stored.first.second + "=" +
           stored.second.Describe();
  }

  void Open() {
    store_ = nullptr;  // lets go of the folder
    const auto start = std::chrono::steady_clock::now();
    auto store = storage::OpenPageStore("memory:limit=" + std::to_string(kMemoryLimit) +
                                        "+rocksdb:path=" + folder_ + "/store");
    ASSERT_OK(store);
    progress_->opened_us =
        static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(
                                  std::chrono::steady_clock::now() - start)
                                  .count());
    store_ = *std::move(store);
    EXPECT_OK(store_->RemoveUnreferenced());
  }

  // What was acknowledged is there; what was not is there whole or not at all.
  void Recover() {
    std::set<Name> present;
    for (int i = 0; i < kTenants; ++i) {
      for (const std::string& name : ListedNames(i)) present.insert({i, name});
    }
    std::string acknowledged;
    for (const auto& [described, last] : Journal::Read(JournalPath())) {
      const size_t slash = described.find('/'), equals = described.find('=');
      const Name name = {std::stoi(described), described.substr(slash + 1, equals - slash - 1)};
      const bool there = present.erase(name) > 0;
      EXPECT_TRUE(there || last != "saved") << described << " was acknowledged";
      EXPECT_FALSE(there && last == "removed") << described << " was removed";
      progress_->interrupted += last == "saving" || last == "removing";
      if (!there) continue;
      acknowledged += "saved " + described + "\n";
      const auto it = stored_.emplace(name, SampleText::Parse(described.substr(equals + 1))).first;
      CheckStored(*it);
      ++progress_->checked;
    }
    for (const auto& [i, name] : present) ADD_FAILURE() << i << "/" << name << " was never saved";
    ASSERT_OK(WriteFileAtomically(JournalPath(), acknowledged));
    journal_.emplace(JournalPath());
    progress_->in_doubt = false;
  }
  void Note(const std::string& what, const Stored::value_type& stored) {
    journal_->Write(what, JournalName(stored));
    progress_->in_doubt = what.ends_with("ing");
  }
  std::string JournalPath() const { return folder_ + "/journal"; }

  std::set<std::string> ListedNames(int i) {
    const Result<CatalogListing> listing = Catalog(i).List();
    EXPECT_OK(listing);
    std::set<std::string> names;
    if (!listing.ok()) return names;
    for (const std::string& damaged : listing->damaged) ADD_FAILURE() << damaged;
    for (const ContextManifest& m : listing->contexts) names.insert(m.name);
    return names;
  }
  void CheckLists() {
    for (int i = 0; i < kTenants; ++i) {
      std::set<std::string> expected;
      for (const auto& [name, text] : stored_) {
        if (name.first == i) expected.insert(name.second);
      }
      EXPECT_EQ(ListedNames(i), expected) << "tenant " << i;
    }
  }

  // Null, and a refusal counted, if there is no memory for one more.
  std::unique_ptr<KvCache> NewCache(int i) {
    KvCacheOptions options;
    options.layers = kLayers;
    options.kv_heads = kHeads;
    options.page = tenant(i).page;
    options.n_sink = kSinks;
    options.local_window = 12;
    options.context = NewContextId(tenant(i).id(), FingerprintOf("model"));
    auto cache = KvCache::Create(options, tenant(i).codebooks, store_.get(), &pool_);
    return Accepted(cache.status()) ? *std::move(cache) : nullptr;
  }
  bool Accepted(const Status& status) {
    if (status.code() == StatusCode::kOutOfMemory) {
      ++progress_->refused;
      return false;
    }
    EXPECT_OK(status);
    return status.ok();
  }

  void CheckStored(const Stored::value_type& stored) {
    SCOPED_TRACE(JournalName(stored));
    const auto& [name, text] = stored;
    const ContextCatalog catalog = Catalog(name.first);
    const Result<ContextManifest> manifest = catalog.Find(name.second);
    ASSERT_OK(manifest);
    ASSERT_EQ(manifest->tokens, text.tokens());
    const Result<ContextCheck> check = catalog.Verify(*manifest);
    ASSERT_OK(check);
    for (const std::string& problem : check->problems) ADD_FAILURE() << problem;
    const Result<std::vector<int64_t>> tokens = catalog.ReadTokens(*manifest);
    ASSERT_OK(tokens);
    EXPECT_EQ(*tokens, text.Ids());
    const auto cache = NewCache(name.first);
    if (cache == nullptr || !Accepted(cache->BeginLoad({*manifest, manifest->tokens}))) return;
    ASSERT_OK(cache->WaitLayer(kLayers - 1));
    ExpectHolds(*cache, text);
  }

  LiveRef PickLive(Random* random) { return live_[random->Below(live_.size())]; }
  Stored::iterator PickStored(Random* random) {
    return stored_.empty()
               ? stored_.end()
               : std::next(stored_.begin(), static_cast<int64_t>(random->Below(stored_.size())));
  }
  void Close(const LiveRef& live) { std::erase(live_, live); }

  // A new cache: empty, the beginning of a stored context, or a fork.
  void Begin(Random* random) {
    if (live_.size() == kMostLive) Close(PickLive(random));
    auto live = std::make_shared<Live>();
    live->next_seed = random->Next();
    const auto stored = PickStored(random);
    const uint64_t kind = random->Below(3);
    bool made = false;
    if (kind == 0 && !live_.empty()) {
      made = BeginFork(PickLive(random), live.get());
    } else if (kind == 1 && stored != stored_.end()) {
      made = BeginStored(*stored, live.get(), random);
    } else {
      live->tenant = static_cast<int>(random->Below(kTenants));
      live->cache = NewCache(live->tenant);
      made = live->cache != nullptr;
    }
    if (made) live_.push_back(live);
  }
  bool BeginFork(const LiveRef& parent, Live* live) {
    const ContextId id = NewContextId(tenant(parent->tenant).id(), FingerprintOf("model"));
    auto fork = parent->cache->Fork(id);
    if (!Accepted(fork.status())) return false;
    *live = {parent->tenant, parent->text,     live->next_seed, parent,
             parent->bases,  parent->may_miss, *std::move(fork)};
    ++progress_->forked;
    return true;
  }
  bool BeginStored(const Stored::value_type& stored, Live* live, Random* random) {
    const auto& [name, text] = stored;
    const Result<ContextManifest> manifest = Catalog(name.first).Find(name.second);
    EXPECT_OK(manifest);
    const int64_t tokens =
        random->Below(2) == 0
            ? text.tokens()
            : 1 + static_cast<int64_t>(random->Below(static_cast<uint64_t>(text.tokens())));
    live->tenant = name.first;
    live->text = text.Prefix(tokens);
    live->bases = {name};
    live->cache = NewCache(name.first);
    if (live->cache == nullptr || !Accepted(live->cache->BeginLoad({*manifest, tokens}))) {
      return false;
    }
    EXPECT_OK(live->cache->WaitLayer(kLayers - 1));
    ExpectHolds(*live->cache, live->text);
    ++progress_->loaded;
    return !::testing::Test::HasFailure();
  }

  // Most are of one token, as a decoder's are.
  void Append(const LiveRef& live, Random* random) {
    const int64_t n = random->Below(4) > 0 ? 1 : 1 + static_cast<int64_t>(random->Below(40));
    const int64_t begin = live->text.tokens();
    if (begin + n > kMostTokens) return Close(live);
    live->text.Append(live->next_seed, n);
    for (int layer = 0; layer < kLayers; ++layer) {
      std::vector<float> rows[2];
      for (int values = 0; values < 2; ++values) {
        rows[values].resize(static_cast<size_t>(n * kHeads * kDim));
        for (int head = 0; head < kHeads; ++head) {
          const std::vector<float> of_head =
              live->text.Rows(layer, head, values == 1, begin, begin + n);
          for (int64_t t = 0; t < n; ++t) {
            std::copy_n(&of_head[static_cast<size_t>(t * kDim)], kDim,
                        &rows[values][static_cast<size_t>((t * kHeads + head) * kDim)]);
          }
        }
      }
      const Status status = live->cache->Append(layer, n, rows[0].data(), rows[1].data());
      if (!Accepted(status)) return Close(live);  // it is incomplete now
    }
  }

  void Read(const Live& live, Random* random) {
    const int64_t n = live.text.tokens();
    const auto begin = static_cast<int64_t>(random->Below(static_cast<uint64_t>(n + 1)));
    const int64_t end = std::min(n, begin + static_cast<int64_t>(random->Below(50)));
    const int layer = static_cast<int>(random->Below(kLayers));
    const int head = static_cast<int>(random->Below(kHeads));
    const Status status = ExpectRows(*live.cache, live.text, layer, head, begin, end);
    if (status.ok()) return;
    EXPECT_TRUE(live.may_miss && status.code() == StatusCode::kNotFound) << status.message();
  }

  void Prefetch(const Live& live, Random* random) {
    const HeadCache& head = live.cache->head(static_cast<int>(random->Below(kLayers)), 0);
    std::vector<PageKey> keys;
    for (int64_t page = 0; page < head.full_pages(); ++page) {
      if (random->Below(2) == 0) keys.push_back(head.page_key(page));
    }
    store_->Prefetch(keys);
  }

  // Under a new name, or one that is taken.
  void Save(const LiveRef& live, const std::string& new_name, Random* random) {
    if (live->text.tokens() == 0) return;
    Name name = {live->tenant, new_name};
    const auto other = PickStored(random);
    const bool taken = other != stored_.end() && random->Below(8) == 0;
    if (taken) name.second = other->first.second;
    if (taken && !stored_.contains(name)) return;
    const Stored::value_type entry = {name, live->text};
    if (!taken) Note("saving", entry);
    const std::vector<int64_t> ids = live->text.Ids();
    const auto save = ContextSave::Begin(live->cache.get(), name.second, ids);
    ASSERT_OK(save);
    for (int layer = kLayers; layer-- > 0;) (*save)->SaveLayer(layer);
    bool published = false;
    const Status status = (*save)->WaitSave(&published);
    if (!status.ok()) {
      EXPECT_TRUE(live->may_miss && status.code() == StatusCode::kNotFound) << status.message();
    }
    EXPECT_EQ(published, status.ok() && !taken);
    if (!taken) Note(published ? "saved" : "removed", entry);
    if (!published) return;
    ++progress_->saved;
    stored_.insert(entry);
    if (live->may_miss || random->Below(4) == 0) CheckStored(entry);
    if (live->parent == nullptr) live->bases.clear();
    for (const LiveRef& sharing : live_) {
      for (const Live* l = sharing.get(); l != nullptr; l = l->parent.get()) {
        if (l == live.get()) sharing->bases.insert(name);
      }
    }
  }

  void RemoveOne(Random* random) {
    const auto it = PickStored(random);
    if (it != stored_.end()) Remove(it);
  }
  void Remove(Stored::iterator it) {
    const Name name = it->first;
    Note("removing", *it);
    EXPECT_OK(Catalog(name.first).Remove(name.second));
    Note("removed", *it);
    stored_.erase(it);
    ++progress_->removed;
    for (const LiveRef& live : live_) {
      for (Live* l = live.get(); l != nullptr; l = l->parent.get()) {
        if (l->bases.contains(name)) l->may_miss = true;
      }
    }
    ExpectError(Catalog(name.first).Find(name.second), StatusCode::kNotFound, name.second);
  }

  // Looks for the beginning of a text that some stored context may share.
  void Match(Random* random) {
    const auto start = PickStored(random);
    if (start == stored_.end()) return;
    const int i = start->first.first;
    SampleText text = start->second.Prefix(
        1 + static_cast<int64_t>(random->Below(static_cast<uint64_t>(start->second.tokens()))));
    text.Append(random->Next(), static_cast<int64_t>(random->Below(100)));
    const auto limit =
        static_cast<int64_t>(random->Below(static_cast<uint64_t>(text.tokens() + 1)));
    const int64_t block = ChainBlockTokens(tenant(i).page);
    int64_t expected = 0;
    for (const auto& [name, other] : stored_) {
      if (name.first != i) continue;
      const int64_t shared = std::min(limit, text.SharedWith(other));
      expected = std::max(expected, shared == other.tokens() ? shared : shared / block * block);
    }
    const ContextIdentity identity = {tenant(i).id(), FingerprintOf("model"), tenant(i).page,
                                      kLayers, kHeads};
    const auto match =
        Catalog(i).Match(identity, StoredCodesOf(tenant(i).codebooks.get()), text.Ids(), limit);
    ASSERT_OK(match);
    ASSERT_EQ(match->has_value() ? (*match)->tokens : 0, expected);
    if (!match->has_value()) return;
    const auto found = stored_.find({i, (*match)->manifest.name});
    ASSERT_NE(found, stored_.end());
    EXPECT_GE(found->second.SharedWith(text), expected);
  }

  void CheckStats() {
    const PageStoreStats stats = store_->stats();
    EXPECT_LE(stats.peak_resident_bytes, kMemoryLimit);
    EXPECT_EQ(stats.damaged_pages, 0u);
    EXPECT_EQ(stats.unreachable_pages, 0u);
  }

  const std::string folder_;
  const uint64_t seed_;
  RandomOperationsProgress* const progress_;
  ThreadPool pool_{1};
  std::vector<Tenant> tenants_;
  std::optional<Journal> journal_;
  std::unique_ptr<PageStore> store_;
  Stored stored_;
  std::vector<LiveRef> live_;
};

}  // namespace pqcache::testing
