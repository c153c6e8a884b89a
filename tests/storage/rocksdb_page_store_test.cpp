#include "storage/rocksdb_page_store.h"

#include <gtest/gtest.h>
#include <rocksdb/db.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "pqcache/base/file_io.h"
#include "storage/page_key_codec.h"
#include "storage/store_folder.h"
#include "storage/store_scan.h"
#include "storage/stores.h"
#include "tests/storage/page_samples.h"
#include "tests/storage/raw_database.h"
#include "tests/storage/saved_contexts.h"
#include "tests/support/child_process.h"
#include "tests/support/small_disk.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace pqcache::storage {
namespace {

using namespace pqcache::testing;
namespace fs = std::filesystem;

Result<std::unique_ptr<PageStore>> OpenAt(const std::string& path) {
  return OpenPageStore("rocksdb:path=" + path);
}

std::unique_ptr<PageStore> MustOpen(const std::string& path) {
  Result<std::unique_ptr<PageStore>> store = OpenAt(path);
  PQCACHE_CHECK(store.ok(), store.status().message().c_str());
  return *std::move(store);
}

void WriteText(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

uint64_t FolderBytes(const std::string& path) {
  uint64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(path)) {
    std::error_code gone;
    const uintmax_t size = entry.file_size(gone);
    if (!gone) bytes += size;
  }
  return bytes;
}

std::vector<std::string> TableFiles(const std::string& path) {
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(path)) {
    if (entry.path().extension() == ".sst") files.push_back(entry.path());
  }
  return files;
}

// OK with the page's bytes, or one of the two honest failures; a count of those.
int CountLostPages(PageStore* store, int pages) {
  std::vector<PageRead> reads;
  for (int page = 0; page < pages; ++page) reads.push_back({SampleKey("a", page), nullptr, {}});
  store->Read(reads);
  int lost = 0;
  for (const PageRead& read : reads) {
    if (read.status.ok()) {
      EXPECT_TRUE(SameBytes(read.page, SamplePage(read.key))) << "silently wrong";
      continue;
    }
    ++lost;
    EXPECT_EQ(read.page, nullptr);
    EXPECT_TRUE(read.status.code() == StatusCode::kCorruption ||
                read.status.code() == StatusCode::kNotFound)
        << read.status.message();
  }
  return lost;
}

void PutPages(PageStore* store, const std::string& context, int begin, int end, int tokens = 4) {
  std::vector<PageWrite> writes;
  for (int page = begin; page < end; ++page) {
    const PageKey key = SampleKey(context, page);
    writes.push_back({key, SamplePage(key, 0, tokens)});
  }
  ASSERT_OK(store->Put(writes));
}

TEST(RocksDbPageStore, KeepsSyncedPagesOverReopening) {
  const TempDir dir;
  for (int round = 0; round < 3; ++round) {
    const auto store = MustOpen(dir.path());
    EXPECT_EQ(CountLostPages(store.get(), 50 * round), 0);
    PutPages(store.get(), "a", 50 * round, 50 * (round + 1));
    ASSERT_OK(store->Sync());
  }
}

TEST(RocksDbPageStore, RemovalSurvivesReopening) {
  const TempDir dir;
  {
    const auto store = MustOpen(dir.path());
    PutPages(store.get(), "a", 0, 50);
    PutPages(store.get(), "gone", 0, 50);
    ASSERT_OK(store->Sync());
    ASSERT_OK(store->RemoveContext(SampleContext("gone")));
  }
  const auto store = MustOpen(dir.path());
  EXPECT_EQ(CountLostPages(store.get(), 50), 0);
  for (int page = 0; page < 50; ++page) {
    EXPECT_EQ(ReadPage(store.get(), SampleKey("gone", page)).status.code(), StatusCode::kNotFound);
  }
}

TEST(RocksDbPageStore, GivesSpaceBackWhenAContextIsRemoved) {
  const TempDir dir;
  const auto store = MustOpen(dir.path());
  for (int part = 0; part < 4; ++part) {
    for (const char* context : {"a", "gone", "also"}) {
      PutPages(store.get(), context, 60 * part, 60 * (part + 1), 16);
    }
    ASSERT_OK(store->Sync());
  }
  const uint64_t context_bytes = 240 * SamplePage(SampleKey("a", 0), 0, 16)->size();
  EXPECT_GT(FolderBytes(dir.path()), 3 * context_bytes);
  ASSERT_OK(store->RemoveContext(SampleContext("gone")));
  // Files are deleted in the background.
  uint64_t left = 0;
  for (int wait = 0; wait < 500; ++wait) {
    left = FolderBytes(dir.path());
    if (left < 2 * context_bytes + (1 << 20)) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_LT(left, 2 * context_bytes + (1 << 20));
  EXPECT_GT(left, 2 * context_bytes);
}

TEST(RocksDbPageStore, FullDiskIsAnErrorAndSyncedPagesStay) {
  const SmallDisk disk("size=8m");
  if (!disk.mounted()) GTEST_SKIP() << "needs the right to mount a small file system";
  const std::string path = disk.File("store");
  {
    const auto store = MustOpen(path);
    PutPages(store.get(), "a", 0, 50, 64);
    ASSERT_OK(store->Sync());
    for (int page = 50; page < 150; page += 10) PutPages(store.get(), "a", page, page + 10, 64);
    ExpectError(store->Sync(), StatusCode::kIoError, path);
    WriteText(disk.File("rest"), std::string(16 << 20, 'x'));
    for (int again = 0; again < 3; ++again) {
      ExpectError(store->Sync(), StatusCode::kIoError, path);
      const PageKey key = SampleKey("b", again);
      ExpectError(PutPage(store.get(), key, SamplePage(key)), StatusCode::kIoError, path);
    }
    for (int page = 0; page < 150; ++page) {
      EXPECT_OK(ReadPage(store.get(), SampleKey("a", page)).status);
    }
  }
  EXPECT_FALSE(fs::exists(path + "/LOG")) << "a line in it on a full disk can abort the process";
  fs::remove(disk.File("rest"));
  const auto store = MustOpen(path);
  for (int page = 0; page < 50; ++page) {
    const PageKey key = SampleKey("a", page);
    EXPECT_TRUE(SameBytes(ReadPage(store.get(), key).page, SamplePage(key, 0, 64)));
  }
}

TEST(RocksDbPageStore, RefusesASecondStoreInThisProcess) {
  const TempDir dir;
  const auto store = MustOpen(dir.path());
  PutPages(store.get(), "a", 0, 3);
  ExpectError(OpenAt(dir.path()), StatusCode::kIoError,
              dir.path() + ": is in use by process " + std::to_string(::getpid()));
  EXPECT_EQ(CountLostPages(store.get(), 3), 0);
}

// Started by the test below in a process of its own.
TEST(RocksDbChild, DISABLED_HoldsTheFolderUntilKilled) {
  const char* path = std::getenv("PQCACHE_TEST_STORE");
  if (path == nullptr) GTEST_SKIP() << "only for SyncedPagesSurviveAKilledProcess";
  const auto store = MustOpen(path);
  PutPages(store.get(), "a", 0, 100);
  ASSERT_OK(store->Sync());
  PutPages(store.get(), "a", 100, 200);
  WriteText(std::string(path) + ".ready", "");
  while (true) ::pause();
}

TEST(RocksDbPageStore, SyncedPagesSurviveAKilledProcess) {
  const TempDir dir;
  const std::string path = dir.File("store");
  const pid_t child =
      StartChild("RocksDbChild.DISABLED_HoldsTheFolderUntilKilled", {{"PQCACHE_TEST_STORE", path}});
  ASSERT_GT(child, 0);
  for (int wait = 0; wait < 1000 && !fs::exists(path + ".ready"); ++wait) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  ExpectError(OpenAt(path), StatusCode::kIoError, path + ": is in use by");
  const std::optional<int> holder = LockHolder(path + "/" + kLockFile);
  if (holder.has_value()) {
    EXPECT_EQ(*holder, child);
  }
  ASSERT_TRUE(KillChild(child));

  const auto store = MustOpen(path);
  EXPECT_EQ(CountLostPages(store.get(), 100), 0);
  CountLostPages(store.get(), 200);  // the others may be gone, never wrong
}

// Started by the test below in a process of its own.
TEST(RocksDbChild, DISABLED_IsTheSecondOne) {
  const char* path = std::getenv("PQCACHE_TEST_STORE");
  if (path == nullptr) GTEST_SKIP() << "only for ASecondProcessDoesNotDisturbTheFirst";
  const std::string who = std::string(path) + ": is in use by process ";
  ExpectError(OpenAt(path), StatusCode::kIoError, who + std::to_string(::getppid()));
  ExpectError(ScanStoreFolder(path), StatusCode::kIoError, path);
}

TEST(RocksDbPageStore, ASecondProcessDoesNotDisturbTheFirst) {
  const TempDir dir;
  {
    const auto store = MustOpen(dir.path());
    ASSERT_OK(SaveContext(store.get(), "before", true));
    for (const char* name : {"during", "after"}) {
      const pid_t child =
          StartChild("RocksDbChild.DISABLED_IsTheSecondOne", {{"PQCACHE_TEST_STORE", dir.path()}});
      ASSERT_GT(child, 0);
      ASSERT_OK(SaveContext(store.get(), name, true));
      EXPECT_EQ(WaitForChild(child), 0);
    }
    EXPECT_EQ(WholeContexts(store.get()).size(), 3u);
  }
  EXPECT_EQ(WholeContexts(MustOpen(dir.path()).get()).size(), 3u);
}

TEST(RocksDbPageStore, NeverReturnsWrongDataFromDamagedFiles) {
  const TempDir dir;
  constexpr int kPages = 24;
  {
    const auto store = MustOpen(dir.path());
    PutPages(store.get(), "a", 0, kPages);
    ASSERT_OK(store->Sync());
  }
  const std::vector<std::string> files = TableFiles(dir.path());
  ASSERT_EQ(files.size(), 1u);
  const Result<std::string> whole = ReadFile(files[0], 1 << 30);
  ASSERT_OK(whole);
  Random random(3);
  int detected = 0;
  for (int round = 0; round < 150; ++round) {
    std::string damaged = *whole;
    if (round % 15 == 14) {
      damaged.resize(random.Below(damaged.size()));
    } else {
      // Every third flip goes to the end, where index, filter and footer are.
      const size_t reach = round % 3 == 0 ? 2048 : damaged.size();
      const size_t bit = random.Below(reach * 8);
      damaged[damaged.size() - 1 - bit / 8] ^= static_cast<char>(1 << (bit % 8));
    }
    WriteText(files[0], damaged);
    Result<std::unique_ptr<PageStore>> store = OpenAt(dir.path());
    if (!store.ok()) {
      ExpectError(store, StatusCode::kCorruption, dir.path());
      ++detected;
      continue;
    }
    const int lost = CountLostPages(store->get(), kPages);
    const PageStoreStats stats = (*store)->stats();
    EXPECT_EQ(stats.damaged_pages + stats.missing_pages, static_cast<uint64_t>(lost));
    detected += lost > 0;
  }
  EXPECT_GT(detected, 100);
  WriteText(files[0], *whole);
  EXPECT_EQ(CountLostPages(MustOpen(dir.path()).get(), kPages), 0);
}

// The database is content with these values; only our own check can refuse them.
TEST(RocksDbPageStore, RefusesPagesOfOthersAndDamageFromBefore) {
  const TempDir dir;
  MustOpen(dir.path()).reset();
  const auto text = [](const PageRef& page) {
    return std::string(reinterpret_cast<const char*>(page->data()), page->size());
  };
  {
    const std::unique_ptr<rocksdb::DB> db = OpenRaw(dir.path());
    const auto put = [&](int page, const std::string& value) {
      ASSERT_TRUE(
          db->Put(rocksdb::WriteOptions(), EncodePageKey(SampleKey("a", page)), value).ok());
    };
    std::string flipped = text(SamplePage(SampleKey("a", 1)));
    flipped.back() ^= 1;
    put(0, text(SamplePage(SampleKey("b", 0))));
    put(1, flipped);
    put(2, "");
    put(3, text(SamplePage(SampleKey("a", 3))));
  }
  const auto store = MustOpen(dir.path());
  const std::string pieces[] = {"context is", "checksum is", "has 0 bytes"};
  for (int page = 0; page < 3; ++page) {
    const PageRead read = ReadPage(store.get(), SampleKey("a", page));
    ExpectError(read.status, StatusCode::kCorruption, pieces[page]);
    ExpectError(read.status, StatusCode::kCorruption, "page " + std::to_string(page));
    ExpectError(read.status, StatusCode::kCorruption, dir.path());
    EXPECT_EQ(read.page, nullptr);
  }
  EXPECT_OK(ReadPage(store.get(), SampleKey("a", 3)).status);
  EXPECT_EQ(store->stats().damaged_pages, 3u);
  EXPECT_EQ(store->stats().missing_pages, 0u);
}

TEST(RocksDbPageStore, RefusesPagesThatDifferInAnyPartOfTheKey) {
  const TempDir dir;
  MustOpen(dir.path()).reset();
  const PageKey key = SampleKey("a", 5, 2, 3);
  std::vector<PageKey> others(6, key);
  others[0].context.tenant = FingerprintOf("other");
  others[1].context.model = FingerprintOf("other");
  others[2].context.context = FingerprintOf("other");
  others[3].layer = 3;
  others[4].head = 2;
  others[5].page = 6;
  std::vector<PageRef> foreign;
  for (const PageKey& other : others) foreign.push_back(SamplePage(other));
  PageKey sums = key;
  sums.kind = PageKind::kValueSums;
  const PageShape shape = {PageLayout::kValueSums, DType::kF32, 8, 64};
  foreign.push_back(EncodePage(sums, shape, 2, std::vector<uint8_t>(2 * shape.row_bytes())));
  uint64_t refused = 0;
  for (const PageRef& page : foreign) {
    {
      const std::unique_ptr<rocksdb::DB> db = OpenRaw(dir.path());
      const rocksdb::Slice value(reinterpret_cast<const char*>(page->data()), page->size());
      ASSERT_TRUE(db->Put(rocksdb::WriteOptions(), EncodePageKey(key), value).ok());
    }
    for (const char* tier : {"", "memory:limit=1M+"}) {
      const auto store = *OpenPageStore(std::string(tier) + "rocksdb:path=" + dir.path());
      const PageRead read = ReadPage(store.get(), key);
      ExpectError(read.status, StatusCode::kCorruption, dir.path());
      EXPECT_EQ(read.page, nullptr);
      EXPECT_EQ(store->stats().damaged_pages, 1u);
      ++refused;
    }
  }
  EXPECT_EQ(refused, 14u);
}

TEST(RocksDbPageStore, RefusesFoldersOfOthersAndLeavesThemAlone) {
  const TempDir dir;
  {
    rocksdb::Options options;
    options.create_if_missing = true;
    rocksdb::DB* raw = nullptr;
    ASSERT_TRUE(rocksdb::DB::Open(options, dir.File("database"), &raw).ok());
    delete raw;
  }
  fs::create_directory(dir.File("letters"));
  WriteText(dir.File("letters/000007.log"), "dear");
  for (const char* name : {"database", "letters"}) {
    const uint64_t before = FolderBytes(dir.File(name));
    ExpectError(OpenAt(dir.File(name)), StatusCode::kInvalidArgument,
                "and no PQCACHE_STORE, expected a page store or an empty folder");
    EXPECT_EQ(FolderBytes(dir.File(name)), before);
  }
}

TEST(RocksDbPageStore, ChecksTheVersionOfTheFolder) {
  const TempDir dir;
  MustOpen(dir.path()).reset();
  WriteText(dir.File("PQCACHE_STORE"), "pqcache-page-store 2\n");
  ExpectError(OpenAt(dir.path()), StatusCode::kUnsupported, "version is '2', expected 3");
  for (const char* damaged : {"", "pqcache", "pqcache-page-store 3", "pqcache_page-store 3\n"}) {
    WriteText(dir.File("PQCACHE_STORE"), damaged);
    ExpectError(OpenAt(dir.path()), StatusCode::kCorruption, "PQCACHE_STORE: is damaged");
  }
}

TEST(RocksDbPageStore, ClearsAwayWhatKilledProcessesWereWriting) {
  const TempDir dir;
  MustOpen(dir.path()).reset();
  for (const char* name : {".manifest.tmp.17", ".ingest-3"}) {
    WriteText(dir.File(std::string("PQCACHE_STORE") + name), "half");
  }
  MustOpen(dir.path()).reset();
  for (const auto& entry : fs::directory_iterator(dir.path())) {
    const std::string name = entry.path().filename().string();
    EXPECT_TRUE(name.find(".tmp.") == std::string::npos && !name.ends_with("ingest-3")) << name;
  }
}

TEST(RocksDbPageStore, FinishesAFolderWhoseMakingWasCutShort) {
  const TempDir dir;
  WriteText(dir.File("PQCACHE_STORE.tmp.17"), "pqc");
  EXPECT_OK(OpenAt(dir.path()));
  EXPECT_OK(OpenAt(dir.path()));
}

TEST(RocksDbPageStore, NamesPathsThatCannotBeFolders) {
  const TempDir dir;
  WriteText(dir.File("file"), "text");
  ExpectError(OpenAt(dir.File("file")), StatusCode::kInvalidArgument,
              dir.File("file") + ": is not a folder");
  ExpectError(OpenAt(dir.File("file/below")), StatusCode::kInvalidArgument,
              dir.File("file") + ": is not a folder");
  ExpectError(OpenAt("/proc/pqcache/store"), StatusCode::kIoError, "/proc/pqcache");
}

}  // namespace
}  // namespace pqcache::storage
