#include "storage/stores.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <set>
#include <string>

#include "tests/storage/page_samples.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace pqcache::storage {
namespace {

using namespace pqcache::testing;

TEST(Stores, ListsEachStoreOnceWithHelp) {
  std::set<std::string_view> names;
  for (const PageStoreEntry& entry : PageStores()) {
    EXPECT_TRUE(names.insert(entry.name).second) << entry.name;
    EXPECT_FALSE(entry.help.empty());
    EXPECT_EQ(entry.help.find('\n'), std::string_view::npos);
    EXPECT_EQ(entry.durable, entry.name != "memory");
  }
  EXPECT_EQ(names, (std::set<std::string_view>{"memory", "rocksdb", "resp"}));
}

TEST(Stores, RefusesWhatItCannotOpen) {
  const TempDir dir;
  const std::string rocksdb = "rocksdb:path=" + dir.File("db");
  const std::pair<std::string, std::string> cases[] = {
      {"", "memory, rocksdb, resp"},
      {"tape", "unknown store 'tape', expected one of: memory, rocksdb, resp"},
      {"Memory", "unknown store 'Memory'"},
      {"memory+tape", "unknown store 'tape'"},
      {"memory+", "known stores: memory, rocksdb, resp"},
      {"+" + rocksdb, "known stores: memory, rocksdb, resp"},
      {"memory:limit=1M,limit=2M", "'limit' twice"},
      {"memory:size=1M", "unknown parameter 'size', expected one of: limit"},
      {"memory:limit", "memory:limit has no number, expected a whole number"},
      {"memory:limit=", "memory:limit is ''"},
      {"memory:limit=-1", "memory:limit is '-1'"},
      {"memory:limit=0", "memory:limit is 0, expected at least 1 byte"},
      {"memory:limit=x+" + rocksdb, "memory:limit is 'x'"},
      {"rocksdb", "rocksdb: has no path, expected rocksdb:path=DIR"},
      {"rocksdb:path=", "rocksdb: has no path"},
      {"rocksdb:dir=x", "unknown parameter 'dir', expected one of: path"},
      {"memory+memory", "'memory' in front of 'memory', expected each tier once"},
      {"memory+" + rocksdb + "+" + rocksdb,
       "'rocksdb' in front of 'rocksdb', expected each tier once"},
      {rocksdb + "+memory",
       "'rocksdb' in front of 'memory', expected each tier once and in the order"},
  };
  for (const auto& [spec, piece] : cases) {
    ExpectError(OpenPageStore(spec), StatusCode::kInvalidArgument, piece);
  }
  EXPECT_FALSE(std::filesystem::exists(dir.File("db"))) << "a refused spec must make nothing";
}

TEST(Stores, HoldsAMemoryStoreToItsLimit) {
  const PageKey a = SampleKey("a", 0), b = SampleKey("a", 1);
  const uint64_t size = SamplePage(a)->capacity_bytes();
  Result<std::unique_ptr<PageStore>> opened =
      OpenPageStore("memory:limit=" + std::to_string(2 * size));
  ASSERT_OK(opened);
  PageStore* store = opened->get();

  const PageKey c = SampleKey("a", 2);
  const PageWrite three[] = {{a, SamplePage(a)}, {b, SamplePage(b)}, {c, SamplePage(c)}};
  ExpectError(store->Put(three), StatusCode::kOutOfMemory,
              "needs " + std::to_string(3 * size) +
                  " bytes of pages and 0 reserved, expected at "
                  "most " +
                  std::to_string(2 * size));
  EXPECT_EQ(store->stats().resident_bytes, 0u);
  EXPECT_EQ(ReadPage(store, a).status.code(), StatusCode::kNotFound);

  ASSERT_OK(store->Put(std::span(three).first(2)));
  EXPECT_EQ(store->stats().resident_bytes, 2 * size);
  EXPECT_OK(PutPage(store, a, SamplePage(a, 5)));  // replacing needs no more room
  ExpectError(PutPage(store, a, SamplePage(a, 5, 8)), StatusCode::kOutOfMemory, "bytes of pages");
  EXPECT_TRUE(SameBytes(ReadPage(store, a).page, SamplePage(a, 5)));

  ExpectError(store->ReserveMemory(nullptr, 1), StatusCode::kOutOfMemory, "and 1 reserved");
  ASSERT_OK(store->RemoveContext(SampleContext("a")));
  EXPECT_EQ(store->stats().resident_bytes, 0u);
  ASSERT_OK(store->ReserveMemory(nullptr, size + 1));
  ExpectError(PutPage(store, a, SamplePage(a)), StatusCode::kOutOfMemory, "reserved");
  ASSERT_OK(store->ReserveMemory(nullptr, size));
  EXPECT_OK(PutPage(store, a, SamplePage(a)));
  ExpectError(store->ReserveMemory(nullptr, UINT64_MAX), StatusCode::kOutOfMemory, "reserved");
}

TEST(Stores, SharesPagesInMemoryWithoutCopies) {
  Result<std::unique_ptr<PageStore>> store = OpenPageStore("memory");
  ASSERT_OK(store);
  const PageKey key = SampleKey("a", 0);
  const PageRef page = SamplePage(key);
  ASSERT_OK(PutPage(store->get(), key, page));
  EXPECT_EQ(ReadPage(store->get(), key).page, page);
  EXPECT_OK((*store)->ReserveMemory(nullptr, 1ull << 50));
}

TEST(Stores, MakesMissingFoldersAndOpensThemAgain) {
  const TempDir dir;
  for (const char* spec : {"memory:limit=1M+rocksdb:path=", "rocksdb:path="}) {
    EXPECT_OK(OpenPageStore(spec + dir.File("deep/er/db/")));
    EXPECT_TRUE(std::filesystem::is_directory(dir.File("deep/er/db")));
  }
}

TEST(Stores, AMistypedFolderIsNotMade) {
  const TempDir dir;
  std::filesystem::create_directory(dir.File("empty"));
  for (const char* name : {"nowhere", "nowhere/else", "empty"}) {
    for (const char* tiers : {"", "memory:limit=1M+"}) {
      ExpectError(OpenPageStore(tiers + ("rocksdb:path=" + dir.File(name)), OpenMode::kExisting),
                  StatusCode::kNotFound, dir.File(name));
    }
  }
  EXPECT_FALSE(std::filesystem::exists(dir.File("nowhere")));
  EXPECT_TRUE(std::filesystem::is_empty(dir.File("empty")));
  const std::string spec = "rocksdb:path=" + dir.File("there");
  EXPECT_OK(OpenPageStore(spec));
  EXPECT_OK(OpenPageStore(spec, OpenMode::kExisting));
}

TEST(Stores, KnowsWhichKeepTheirPages) {
  EXPECT_OK(CheckDurable("rocksdb:path=x"));
  EXPECT_OK(CheckDurable("memory:limit=1M+rocksdb:path=x"));
  EXPECT_OK(CheckDurable("rocksdb:path=x+resp:host=h,port=1"));
  ExpectError(CheckDurable("memory:limit=1M"), StatusCode::kInvalidArgument,
              "expected one whose last tier is rocksdb or resp");
  ExpectError(CheckDurable("nope"), StatusCode::kInvalidArgument, "unknown store");
}

}  // namespace
}  // namespace pqcache::storage
