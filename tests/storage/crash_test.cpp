// Processes that store and remove contexts and are killed at random points, and a disk that loses
// what was not synced or fails at the n-th operation. After each, whatever has a manifest is whole,
// whatever was acknowledged is there, and nothing is ever wrong.

#include <gtest/gtest.h>
#include <rocksdb/env.h>
#include <rocksdb/file_system.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "pqcache/base/random.h"
#include "pqcache/base/thread_pool.h"
#include "pqcache/cache/context_catalog.h"
#include "pqcache/cache/kv_cache.h"
#include "storage/rocksdb_page_store.h"
#include "storage/store_scan.h"
#include "storage/stores.h"
#include "tests/storage/page_samples.h"
#include "tests/storage/saved_contexts.h"
#include "tests/support/child_process.h"
#include "tests/support/journal.h"
#include "tests/support/record_times.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace pqcache::storage {
namespace {

using namespace pqcache::testing;
using Clock = std::chrono::steady_clock;

// Started by the test below in a process of its own.
TEST(CrashChild, DISABLED_StoresAndRemovesUntilKilled) {
  const char* folder = std::getenv("PQCACHE_TEST_CRASH");
  if (folder == nullptr) GTEST_SKIP() << "only for EveryKillLeavesWholeContexts";
  Random random(std::strtoull(std::getenv("PQCACHE_TEST_SEED"), nullptr, 10));
  const std::string path = folder;
  // With a memory tier, or with so little waiting that pages are written while others come.
  const auto open = [&]() -> Result<std::unique_ptr<PageStore>> {
    if (random.Below(2) == 0)
      return OpenPageStore("memory:limit=4M+rocksdb:path=" + path + "/store");
    PQCACHE_ASSIGN_OR_RETURN(auto alone, RocksDbPageStore::Open(path + "/store", nullptr, 1 << 18));
    return std::unique_ptr<PageStore>(std::move(alone));
  };
  const auto store = open();
  ASSERT_OK(store);
  ASSERT_OK((*store)->RemoveUnreferenced());
  Journal journal(path + "/journal");  // says saved, removing or removed of each name
  std::vector<std::string> stored;
  const Result<CatalogListing> listing = SavedCatalog(store->get()).List();
  ASSERT_OK(listing);
  for (const ContextManifest& m : listing->contexts) stored.push_back(m.name);
  std::ofstream(path + "/ready").flush();
  while (true) {
    if (stored.size() > 6 || (!stored.empty() && random.Below(3) == 0)) {
      const size_t i = random.Below(stored.size());
      const std::string name = stored[i];
      stored.erase(stored.begin() + static_cast<int64_t>(i));
      journal.Write("removing", name);
      ASSERT_OK(SavedCatalog(store->get()).Remove(name));
      journal.Write("removed", name);
    } else {
      const std::string name = "c" + std::to_string(random.Next());
      ASSERT_OK(SaveContext(store->get(), name, random.Below(3) == 0));
      journal.Write("saved", name);
      stored.push_back(name);
    }
  }
}

// PQCACHE_CRASH_ROUNDS asks for more rounds than the 30 of every run. How long opening takes after
// a kill is a property of the test's report.
TEST(Crash, EveryKillLeavesWholeContexts) {
  const TempDir dir;
  const char* wanted = std::getenv("PQCACHE_CRASH_ROUNDS");
  const int rounds = wanted != nullptr ? std::atoi(wanted) : 30;
  Random random(5);
  int64_t acknowledged = 0;
  std::vector<double> opened;  // milliseconds
  for (int round = 0; round < rounds; ++round) {
    std::filesystem::remove(dir.File("ready"));
    const pid_t child = StartChild(
        "CrashChild.DISABLED_StoresAndRemovesUntilKilled",
        {{"PQCACHE_TEST_CRASH", dir.path()}, {"PQCACHE_TEST_SEED", std::to_string(round)}});
    ASSERT_GT(child, 0);
    for (int wait = 0; wait < 2000 && !std::filesystem::exists(dir.File("ready")); ++wait) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    // On a slow machine nothing would be done by then; every other child gets one thing done.
    const size_t before = Journal::Read(dir.File("journal")).size();
    for (int wait = 0; round % 2 == 0 && wait < 500; ++wait) {
      if (Journal::Read(dir.File("journal")).size() > before) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1 + random.Below(200)));
    ASSERT_TRUE(KillChild(child)) << "the child failed before it was killed";

    const Clock::time_point start = Clock::now();
    const auto store = OpenPageStore("rocksdb:path=" + dir.File("store"));
    ASSERT_OK(store);
    opened.push_back(std::chrono::duration<double, std::milli>(Clock::now() - start).count());
    const std::set<std::string> names = WholeContexts(store->get());
    for (const auto& [name, last] : Journal::Read(dir.File("journal"))) {
      if (last == "saved") {
        EXPECT_TRUE(names.contains(name)) << name << " was acknowledged";
        ++acknowledged;
      }
      if (last == "removed") {
        EXPECT_FALSE(names.contains(name)) << name << " was removed";
      }
    }
    if (::testing::Test::HasFailure()) FAIL() << "round " << round;
  }
  EXPECT_GT(acknowledged, rounds / 2);
  RecordTimes("reopen", std::move(opened));
}

// Started by the test below in a process of its own: a decoder that appends until it is killed.
TEST(CrashChild, DISABLED_AppendsUntilKilled) {
  const char* folder = std::getenv("PQCACHE_TEST_CRASH");
  if (folder == nullptr) GTEST_SKIP() << "only for AKilledDecoderLeavesNothingBehind";
  const std::string path = folder;
  const auto store = OpenPageStore("memory:limit=1M+rocksdb:path=" + path + "/store");
  ASSERT_OK(store);
  ThreadPool pool(1);
  KvCacheOptions options;
  options.layers = options.kv_heads = 2;
  options.page = {.dim = 8, .page_tokens = 8};
  options.local_window = 8;
  options.context = NewContextId(SampleContext("").tenant, FingerprintOf("model"));
  const auto cache = KvCache::Create(options, nullptr, store->get(), &pool);
  ASSERT_OK(cache);
  const std::vector<float> rows(2 * 8, 1.0f);
  for (int token = 0;; ++token) {
    for (int layer = 0; layer < 2; ++layer) {
      ASSERT_OK((*cache)->Append(layer, 1, rows.data(), rows.data()));
    }
    if (token % 100 != 99) continue;  // as another's save would do
    ASSERT_OK((*store)->Sync());
    std::ofstream(path + "/ready").flush();
  }
}

TEST(Crash, AKilledDecoderLeavesNothingBehind) {
  const TempDir dir;
  const std::string path = dir.File("store"), spec = "rocksdb:path=" + path;
  ASSERT_OK(SaveContext(OpenPageStore(spec)->get(), "kept", false));
  const int64_t pages = ScanStoreFolder(path)->pages;
  Random random(6);
  for (int round = 0; round < 10; ++round) {
    std::filesystem::remove(dir.File("ready"));
    const pid_t child =
        StartChild("CrashChild.DISABLED_AppendsUntilKilled", {{"PQCACHE_TEST_CRASH", dir.path()}});
    ASSERT_GT(child, 0);
    for (int wait = 0; wait < 2000 && !std::filesystem::exists(dir.File("ready")); ++wait) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random.Below(20'000)));
    ASSERT_TRUE(KillChild(child)) << "the child failed before it was killed";
    EXPECT_EQ(ScanStoreFolder(path)->contexts.size(), 2u) << "its pages are there";
    {
      const auto store = OpenPageStore(spec);
      ASSERT_OK(store);
      ASSERT_OK((*store)->RemoveUnreferenced());
      EXPECT_EQ(WholeContexts(store->get()), std::set<std::string>{"kept"});
    }
    EXPECT_EQ(ScanStoreFolder(path)->pages, pages);
    if (HasFailure()) FAIL() << "round " << round;
  }
}

// A file system that can fail from its n-th writing operation on, and that can forget what was
// written to a file since its last sync, as a power cut does.
class FragileDisk : public rocksdb::FileSystemWrapper {
 public:
  FragileDisk() : FileSystemWrapper(rocksdb::FileSystem::Default()) {}
  const char* Name() const override { return "FragileDisk"; }

  void FailFrom(int64_t operation) {
    const std::lock_guard lock(mutex_);
    operations_ = 0;
    fail_from_ = operation;
  }
  int64_t operations() const {
    const std::lock_guard lock(mutex_);
    return operations_;
  }
  // Truncates every file to what was synced. Nothing may be open.
  void CutPower() {
    const std::lock_guard lock(mutex_);
    for (const auto& [file, synced] : synced_) {
      std::error_code error;
      if (std::filesystem::exists(file, error)) std::filesystem::resize_file(file, synced, error);
    }
    synced_.clear();
  }

  rocksdb::IOStatus NewWritableFile(const std::string& file, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* result,
                                    rocksdb::IODebugContext* context) override {
    if (!Count()) return Failure();
    const rocksdb::IOStatus s = target()->NewWritableFile(file, options, result, context);
    if (!s.ok()) return s;
    Synced(file, 0);
    *result = std::make_unique<File>(std::move(*result), this, file);
    return s;
  }
  rocksdb::IOStatus RenameFile(const std::string& from, const std::string& to,
                               const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* context) override {
    if (!Count()) return Failure();
    const rocksdb::IOStatus s = target()->RenameFile(from, to, options, context);
    if (s.ok()) Moved(from, to, /*keep=*/false);
    return s;
  }
  rocksdb::IOStatus LinkFile(const std::string& from, const std::string& to,
                             const rocksdb::IOOptions& options,
                             rocksdb::IODebugContext* context) override {
    if (!Count()) return Failure();
    const rocksdb::IOStatus s = target()->LinkFile(from, to, options, context);
    if (s.ok()) Moved(from, to, /*keep=*/true);
    return s;
  }

 private:
  class File : public rocksdb::FSWritableFileOwnerWrapper {
   public:
    File(std::unique_ptr<rocksdb::FSWritableFile> file, FragileDisk* disk, std::string name)
        : FSWritableFileOwnerWrapper(std::move(file)), disk_(disk), name_(std::move(name)) {}
    using FSWritableFileOwnerWrapper::Append;
    rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                             rocksdb::IODebugContext* context) override {
      if (!disk_->Count()) return Failure();
      written_ += data.size();
      return FSWritableFileOwnerWrapper::Append(data, options, context);
    }
    rocksdb::IOStatus Sync(const rocksdb::IOOptions& options,
                           rocksdb::IODebugContext* context) override {
      return Note(disk_->Count() ? FSWritableFileOwnerWrapper::Sync(options, context) : Failure());
    }
    rocksdb::IOStatus Fsync(const rocksdb::IOOptions& options,
                            rocksdb::IODebugContext* context) override {
      return Note(disk_->Count() ? FSWritableFileOwnerWrapper::Fsync(options, context) : Failure());
    }

   private:
    rocksdb::IOStatus Note(rocksdb::IOStatus s) {
      if (s.ok()) disk_->Synced(name_, written_);
      return s;
    }
    FragileDisk* disk_;
    const std::string name_;
    uint64_t written_ = 0;
  };

  static rocksdb::IOStatus Failure() { return rocksdb::IOStatus::IOError("injected failure"); }
  bool Count() {
    const std::lock_guard lock(mutex_);
    return ++operations_ < fail_from_;
  }
  void Synced(const std::string& file, uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    synced_[file] = bytes;
  }
  void Moved(const std::string& from, const std::string& to, bool keep) {
    const std::lock_guard lock(mutex_);
    const auto it = synced_.find(from);
    if (it == synced_.end()) return;
    synced_[to] = it->second;
    if (!keep) synced_.erase(from);
  }

  mutable std::mutex mutex_;
  int64_t operations_ = 0;
  int64_t fail_from_ = INT64_MAX;
  std::map<std::string, uint64_t> synced_;
};

class FragileStore : public ::testing::Test {
 protected:
  Result<std::unique_ptr<RocksDbPageStore>> Open(uint64_t waiting_bytes = kWaitingBytes) {
    return RocksDbPageStore::Open(dir_.File("store"), env_.get(), waiting_bytes);
  }

  TempDir dir_;
  std::shared_ptr<FragileDisk> disk_ = std::make_shared<FragileDisk>();
  std::unique_ptr<rocksdb::Env> env_ = rocksdb::NewCompositeEnv(disk_);
};

TEST_F(FragileStore, SavedContextsSurviveAPowerCut) {
  std::set<std::string> saved;
  for (int round = 0; round < 8; ++round) {
    {
      const auto store = Open(round % 2 == 0 ? kWaitingBytes : 1 << 18);
      ASSERT_OK(store);
      ASSERT_OK((*store)->RemoveUnreferenced());
      for (int i = 0; i < 2; ++i) {
        const std::string name = "c" + std::to_string(round) + "-" + std::to_string(i);
        ASSERT_OK(SaveContext(store->get(), name, i == 0));
        saved.insert(name);
      }
      if (round % 3 == 2) {
        ASSERT_OK(SavedCatalog(store->get()).Remove(*saved.begin()));
        saved.erase(saved.begin());
      }
      const std::vector<PageWrite> unsynced = PagesOf("unsynced");
      ASSERT_OK((*store)->Put(std::span(unsynced).first(5)));
    }
    disk_->CutPower();
    const auto store = Open();
    ASSERT_OK(store);
    EXPECT_EQ(WholeContexts(store->get()), saved) << "round " << round;
  }
}

// Of three layers, each of which becomes a file of its own.
TEST_F(FragileStore, PagesOfAFailedSyncAreThereLaterOrNotAtAll) {
  std::vector<PageWrite> pages;
  for (int i = 0; i < 3 * kSavedPages; ++i) {
    const PageKey key = SampleKey("c", i / 3, i % 3);
    pages.push_back({key, SamplePage(key, 0, 64)});
  }
  for (int i = 0; i < 20; ++i) {  // RocksDB opens 16 tables at once and the others later
    const auto store = Open();
    ASSERT_OK(store);
    const PageKey key = SampleKey("table " + std::to_string(i), 0);
    ASSERT_OK(PutPage(store->get(), key, SamplePage(key)));
    ASSERT_OK((*store)->Sync());
  }
  int failures = 0, went_on = 0;
  for (int64_t n = 1;; ++n) {
    Status status;
    {
      const auto store = Open();
      ASSERT_OK(store);
      ASSERT_OK((*store)->Put(pages));
      disk_->FailFrom(n);
      status = (*store)->Sync();
      EXPECT_EQ(ServedPages(store->get(), pages), 3 * kSavedPages) << "they wait";
      disk_->FailFrom(INT64_MAX);
      if (!status.ok() && n % 2 == 0) {
        SCOPED_TRACE("the same store goes on, operation " + std::to_string(n));
        ASSERT_OK((*store)->Sync());
        EXPECT_EQ(ServedPages(store->get(), pages), 3 * kSavedPages);
        ++went_on;
      }
    }
    const auto store = Open();
    ASSERT_OK(store);
    const int served = ServedPages(store->get(), pages);
    const bool there = status.ok() || n % 2 == 0;
    EXPECT_TRUE(served == 3 * kSavedPages || (served == 0 && !there)) << n;
    ASSERT_OK((*store)->RemoveContext(SampleContext("c")));
    if (status.ok()) break;
    ++failures;
  }
  EXPECT_GT(failures, 10);
  EXPECT_GT(went_on, 5);
}

// While it cannot be written, and while it cannot even be opened again, nobody else may have it.
TEST_F(FragileStore, HoldsItsFolderAfterFailuresAndServesWhatIsThere) {
  const auto store = Open();
  ASSERT_OK(store);
  ASSERT_OK(SaveContext(store->get(), "kept", false));
  const PageKey key = SampleKey("new", 0);
  ASSERT_OK(PutPage(store->get(), key, SamplePage(key)));
  for (int64_t n = 1; n < 40; ++n) {
    disk_->FailFrom(n);
    (void)(*store)->Sync();
    (void)(*store)->PutRecord({FingerprintOf("t"), "r"}, "x");
    ExpectError(RocksDbPageStore::Open(dir_.File("store"), nullptr), StatusCode::kIoError,
                "is in use by process");
    EXPECT_EQ(WholeContexts(store->get()), std::set<std::string>{"kept"}) << n;
    disk_->FailFrom(INT64_MAX);
    ASSERT_OK((*store)->Sync());
    ASSERT_OK((*store)->RemoveRecord({FingerprintOf("t"), "r"}));
    ASSERT_OK(PutPage(store->get(), key, SamplePage(key, static_cast<uint64_t>(n))));
  }
}

// What a record was before is served until the change is durable, also after it failed.
TEST_F(FragileStore, AChangeOfARecordThatFailsIsNone) {
  const RecordKey key = {FingerprintOf("t"), "r"};
  int failures = 0;
  for (const std::string what : {"put", "replace", "remove"}) {
    for (int64_t n = 1;; ++n) {
      SCOPED_TRACE(what + ", operation " + std::to_string(n));
      const bool present = what != "put";
      Status status;
      {
        const auto store = Open();
        ASSERT_OK(store);
        ASSERT_OK((*store)->RemoveRecord(key));
        if (present) {
          ASSERT_TRUE(*(*store)->PutRecord(key, "old"));
        }
        disk_->FailFrom(n);
        status = what == "put"       ? (*store)->PutRecord(key, "new").status()
                 : what == "replace" ? (*store)->ReplaceRecord(key, "old", "new").status()
                                     : (*store)->RemoveRecord(key);
        if (!status.ok()) {
          EXPECT_EQ((*store)->GetRecord(key).ok(), present);
          EXPECT_EQ((*store)->ListRecords(key.tenant)->size(), present ? 1u : 0u);
          if (present) {
            EXPECT_EQ(*(*store)->GetRecord(key), "old");
          }
        }
        disk_->FailFrom(INT64_MAX);
        if (!status.ok()) {
          ASSERT_OK((*store)->RemoveContext(SampleContext("c")));
        }
      }
      if (status.ok()) break;
      ++failures;
      const auto store = Open();
      ASSERT_OK(store);
      EXPECT_EQ((*store)->GetRecord(key).ok(), present) << "it was taken back";
      if (present) {
        EXPECT_EQ(*(*store)->GetRecord(key), "old");
      }
    }
  }
  EXPECT_GT(failures, 10);
}

// Fails at the first operation, at the second, and so on until everything passes.
TEST_F(FragileStore, AFailureAtAnyOperationIsToldAndLeavesWholeContexts) {
  ASSERT_OK(Open());
  int failures = 0;
  bool small = true;
  for (int64_t n = 1;; ++n) {
    const std::string name = (small ? "small" : "bulk") + std::to_string(n);
    Status status;
    {
      // Small batches are written in several pieces, behind the caller's back.
      const auto store = Open(small ? 1 << 18 : kWaitingBytes);
      ASSERT_OK(store);
      disk_->FailFrom(n);
      status = SaveContext(store->get(), name, small);
      if (!status.ok()) {
        const auto listed = SavedCatalog(store->get()).Find(name);
        EXPECT_FALSE(listed.ok()) << "what failed must not be seen, operation " << n;
      }
      disk_->FailFrom(INT64_MAX);
      if (n % 3 == 0) {
        SCOPED_TRACE("the same store goes on, operation " + std::to_string(n));
        ASSERT_OK(SaveContext(store->get(), name + "-after", small));
        EXPECT_TRUE(WholeContexts(store->get()).contains(name + "-after"));
      }
    }
    const auto store = Open();
    ASSERT_OK(store);
    ASSERT_OK((*store)->RemoveUnreferenced());
    const std::set<std::string> names = WholeContexts(store->get());
    if (status.ok()) {
      EXPECT_TRUE(names.contains(name)) << n;
    }
    for (const std::string& stored : names) ASSERT_OK(SavedCatalog(store->get()).Remove(stored));
    failures += !status.ok();
    if (status.ok() && !small) break;
    if (status.ok()) {
      small = false;
      n = 0;
    }
    ASSERT_LT(n, 2000) << "it never passes";
  }
  EXPECT_GT(failures, 5);
}

}  // namespace
}  // namespace pqcache::storage
