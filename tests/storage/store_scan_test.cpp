#include "storage/store_scan.h"

#include <gtest/gtest.h>
#include <rocksdb/db.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "pqcache/base/file_io.h"
#include "pqcache/base/random.h"
#include "storage/page_key_codec.h"
#include "storage/store_folder.h"
#include "storage/stores.h"
#include "tests/storage/page_samples.h"
#include "tests/storage/raw_database.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace pqcache::storage {
namespace {

using namespace pqcache::testing;
namespace fs = std::filesystem;

struct Saved {
  std::string context;
  int pages = 0;
  int layers = 1;
  int heads = 1;
};

// Opens, puts the pages, syncs (which makes one file) and closes. Four tokens fill a block of the
// file, fewer share one.
void Save(const std::string& path, const std::vector<Saved>& contexts, int tokens = 4) {
  const auto store = OpenPageStore("rocksdb:path=" + path);
  ASSERT_OK(store);
  for (const Saved& saved : contexts) {
    for (int layer = 0; layer < saved.layers; ++layer) {
      for (int head = 0; head < saved.heads; ++head) {
        for (int page = 0; page < saved.pages; ++page) {
          const PageKey key = SampleKey(saved.context, page, layer, head);
          ASSERT_OK(PutPage(store->get(), key, SamplePage(key, 0, tokens)));
        }
      }
    }
  }
  ASSERT_OK((*store)->Sync());
}

std::vector<std::string> TableFiles(const std::string& path) {
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(path)) {
    if (entry.path().extension() == ".sst") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::string MustRead(const std::string& path) {
  Result<std::string> bytes = ReadFile(path, 1 << 30);
  PQCACHE_CHECK(bytes.ok(), bytes.status().message().c_str());
  return *std::move(bytes);
}

// Where the stored page begins in the file, or npos.
size_t Find(const std::string& bytes, const PageKey& key, int tokens = 4) {
  const PageRef page = SamplePage(key, 0, tokens);
  return bytes.find(std::string(reinterpret_cast<const char*>(page->data()), page->size()));
}

bool Holds(const std::string& file, const PageKey& key) {
  return Find(MustRead(file), key) != std::string::npos;
}

// Flips a bit in the middle of the stored page and returns its offset in the file.
uint64_t Flip(const std::string& file, const PageKey& key, int tokens = 4) {
  std::string bytes = MustRead(file);
  const size_t at = Find(bytes, key, tokens);
  PQCACHE_CHECK(at != std::string::npos, "the page is not in the file");
  bytes[at + 600] ^= 1;
  PQCACHE_CHECK(WriteFileAtomically(file, bytes).ok(), "cannot write");
  return at;
}

StoreScan MustScan(const std::string& path) {
  Result<StoreScan> scan = ScanStoreFolder(path);
  PQCACHE_CHECK(scan.ok(), scan.status().message().c_str());
  return *std::move(scan);
}

std::vector<std::string> Parts(const StoreScan& scan) {
  std::vector<std::string> parts;
  for (const FileDamage& damage : scan.damaged) parts.push_back(damage.part);
  std::sort(parts.begin(), parts.end());
  return parts;
}

using Listing = std::map<std::string, std::pair<std::string, fs::file_time_type>>;
Listing Snapshot(const std::string& path) {
  Listing listing;
  for (const auto& entry : fs::directory_iterator(path)) {
    listing[entry.path()] = {MustRead(entry.path()), entry.last_write_time()};
  }
  return listing;
}

TEST(StoreScan, AddsUpContextsAndChangesNothing) {
  const TempDir dir;
  Save(dir.path(), {{"a", 5, 2, 3}, {"b", 2}});
  const Listing before = Snapshot(dir.path());
  const StoreScan scan = MustScan(dir.path());
  EXPECT_EQ(Snapshot(dir.path()), before);
  EXPECT_TRUE(scan.damaged.empty());
  EXPECT_EQ(scan.pages, 32);
  EXPECT_EQ(scan.bytes, 32u * (128 + 4096));
  ASSERT_EQ(scan.contexts.size(), 2u);
  const bool a_first = scan.contexts[0].id == SampleContext("a");
  const StoredContext& a = scan.contexts[a_first ? 0 : 1];
  const StoredContext& b = scan.contexts[a_first ? 1 : 0];
  EXPECT_EQ(a.id, SampleContext("a"));
  EXPECT_EQ(a.pages, 30);
  EXPECT_EQ(a.bytes, 30u * (128 + 4096));
  EXPECT_EQ(a.tokens, 4 * 64 + 4);
  EXPECT_EQ(a.layers, 2);
  EXPECT_EQ(a.heads, 3);
  EXPECT_EQ(b.id, SampleContext("b"));
  EXPECT_EQ(b.pages, 2);
}

TEST(StoreScan, NamesEachDamagedPageAndReadsOn) {
  const TempDir dir;
  Save(dir.path(), {{"a", 6, 2, 2}, {"b", 6}});
  const std::vector<std::string> files = TableFiles(dir.path());
  ASSERT_EQ(files.size(), 3u) << "one of each layer";
  // Inside a layer, its last one, two in a row, the first and the last of a context.
  const PageKey keys[] = {SampleKey("a", 0),       SampleKey("a", 2, 0, 1), SampleKey("a", 5, 0, 1),
                          SampleKey("a", 3, 1, 0), SampleKey("a", 3, 1, 1), SampleKey("a", 5, 1, 1),
                          SampleKey("b", 0),       SampleKey("b", 5)};
  std::map<std::string, uint64_t> expected;
  for (const PageKey& key : keys) {
    const auto file = std::find_if(files.begin(), files.end(),
                                   [&](const std::string& f) { return Holds(f, key); });
    ASSERT_NE(file, files.end());
    expected[DescribePageKey(key)] = Flip(*file, key);
  }
  const StoreScan scan = MustScan(dir.path());
  EXPECT_EQ(scan.pages, 30 - 8);
  EXPECT_EQ(scan.damaged_pages, 8);
  ASSERT_EQ(scan.damaged.size(), expected.size());
  for (const FileDamage& damage : scan.damaged) {
    ASSERT_TRUE(expected.contains(damage.part)) << damage.part;
    EXPECT_TRUE(damage.file.ends_with(".sst")) << damage.file;
    ASSERT_TRUE(damage.offset.has_value()) << damage.what;
    EXPECT_LT(*damage.offset, expected[damage.part]);  // the block begins with the key
    EXPECT_GT(*damage.offset + 100, expected[damage.part]);
    EXPECT_NE(damage.what.find("checksum"), std::string::npos);
    expected.erase(damage.part);
  }
}

TEST(StoreScan, NamesAllPagesOfASharedBlock) {
  const TempDir dir;
  Save(dir.path(), {{"a", 40}}, 1);
  Flip(TableFiles(dir.path()).at(0), SampleKey("a", 17), 1);
  const StoreScan scan = MustScan(dir.path());
  EXPECT_EQ(scan.pages + scan.damaged_pages, 40);
  EXPECT_GT(scan.damaged_pages, 1);
  EXPECT_LT(scan.damaged_pages, 6);
  const std::vector<std::string> parts = Parts(scan);
  EXPECT_TRUE(std::count(parts.begin(), parts.end(), DescribePageKey(SampleKey("a", 17))));
}

TEST(StoreScan, TakesTheNewestCopyOfAPage) {
  const TempDir dir;
  Save(dir.path(), {{"a", 5}});
  Save(dir.path(), {{"a", 2}});
  const std::vector<std::string> files = TableFiles(dir.path());
  ASSERT_EQ(files.size(), 2u);
  EXPECT_EQ(MustScan(dir.path()).pages, 5);
  Flip(files[0], SampleKey("a", 1));  // replaced by the second file's
  const StoreScan scan = MustScan(dir.path());
  EXPECT_EQ(scan.pages, 5);
}

TEST(StoreScan, GoesOnWhenAFileIsMissingOrCutOff) {
  for (const bool missing : {true, false}) {
    const TempDir dir;
    Save(dir.path(), {{"a", 5}});
    Save(dir.path(), {{"b", 7}});
    const std::string lost = TableFiles(dir.path()).at(0);
    if (missing) {
      fs::remove(lost);
    } else {
      fs::resize_file(lost, fs::file_size(lost) - 60);
    }
    const StoreScan scan = MustScan(dir.path());
    ASSERT_EQ(scan.contexts.size(), 1u);
    EXPECT_EQ(scan.contexts[0].id, SampleContext("b"));
    EXPECT_EQ(scan.pages, 7);
    EXPECT_EQ(scan.damaged_pages, 0);
    ASSERT_EQ(scan.damaged.size(), 1u);
    EXPECT_EQ(scan.damaged[0].file, fs::path(lost).filename());
    EXPECT_NE(scan.damaged[0].part.find("file of "), std::string::npos);
  }
}

TEST(StoreScan, FindsPagesThatWereDamagedBeforeTheyWereStored) {
  const TempDir dir;
  Save(dir.path(), {});
  {
    const std::unique_ptr<rocksdb::DB> db = OpenRaw(dir.path());
    const auto put = [&](const std::string& key, const PageRef& page) {
      const rocksdb::Slice value(reinterpret_cast<const char*>(page->data()), page->size());
      ASSERT_TRUE(db->Put(rocksdb::WriteOptions(), key, value).ok());
    };
    put(EncodePageKey(SampleKey("a", 0)), SamplePage(SampleKey("a", 0)));
    put(EncodePageKey(SampleKey("a", 1)), SamplePage(SampleKey("c", 1)));
    put("x", SamplePage(SampleKey("a", 2)));
    const std::string zeros(128, '\0');
    ASSERT_TRUE(db->Put(rocksdb::WriteOptions(), EncodePageKey(SampleKey("b", 3)), zeros).ok());
    ASSERT_TRUE(db->Flush(rocksdb::FlushOptions()).ok());
  }
  const StoreScan scan = MustScan(dir.path());
  EXPECT_EQ(scan.pages, 1);
  EXPECT_EQ(scan.damaged_pages, 2);
  ASSERT_EQ(scan.damaged.size(), 3u);
  std::map<std::string, std::string> what;
  for (const FileDamage& damage : scan.damaged) what[damage.part] = damage.what;
  EXPECT_NE(what[DescribePageKey(SampleKey("a", 1))].find("holds page 1"), std::string::npos);
  EXPECT_NE(what["value without a page key"].find("1 bytes, expected 33"), std::string::npos);
  EXPECT_TRUE(std::any_of(what.begin(), what.end(), [](const auto& entry) {
    return entry.first.starts_with("page 3 of layer 0 head 0, unknown context") &&
           entry.second.find("magic") != std::string::npos;
  }));
}

TEST(StoreScan, RefusesAStoreThatIsInUseAndOtherFolders) {
  const TempDir dir;
  ExpectError(ScanStoreFolder(dir.path()), StatusCode::kNotFound, kFolderMarker);
  const auto store = OpenPageStore("rocksdb:path=" + dir.File("store"));
  ASSERT_OK(store);
  ExpectError(ScanStoreFolder(dir.File("store")), StatusCode::kIoError, "in use by process");
}

TEST(StoreScan, ReadsTheMarkerAndGoesOnWithoutCurrent) {
  const TempDir dir;
  const std::string marker = dir.File(kFolderMarker);
  ASSERT_OK(WriteFileAtomically(marker, "pqcache-page-store 3\n"));
  EXPECT_TRUE(MustScan(dir.path()).damaged.empty());  // marked and never used
  Save(dir.path(), {{"a", 3}});
  ASSERT_OK(WriteFileAtomically(marker, "pqcache-page-store 9\n"));
  ExpectError(ScanStoreFolder(dir.path()), StatusCode::kUnsupported, "expected 3");
  ASSERT_OK(WriteFileAtomically(marker, "qcache"));
  const StoreScan scan = MustScan(dir.path());
  EXPECT_EQ(scan.pages, 3);
  ASSERT_EQ(scan.damaged.size(), 1u);
  EXPECT_EQ(scan.damaged[0].file, kFolderMarker);
  fs::remove(dir.File("CURRENT"));
  const StoreScan headless = MustScan(dir.path());
  EXPECT_EQ(headless.pages, 0);
  ASSERT_EQ(headless.damaged.size(), 2u);
  EXPECT_NE(headless.damaged[1].what.find("CURRENT"), std::string::npos);
}

// Damage of any pattern: what can be read counts once, what cannot is named.
TEST(StoreScan, AgreesWithTheStore) {
  Random random(11);
  for (int round = 0; round < 6; ++round) {
    const TempDir dir;
    const int tokens = round % 2 == 0 ? 1 : 4;
    const std::vector<Saved> contexts = {{"a", 9, 2, 2}, {"b", 9, 1, 2}, {"c", 4}};
    Save(dir.path(), contexts, tokens);
    Save(dir.path(), {{"a", 3, 2, 1}, {"c", 6}}, tokens);  // newer copies
    for (const std::string& file : TableFiles(dir.path())) {
      std::string bytes = MustRead(file);
      for (int flip = 0; flip < 4; ++flip)
        bytes[random.Below(bytes.size() - std::min<size_t>(6000, bytes.size() / 2))] ^= 8;
      ASSERT_OK(WriteFileAtomically(file, bytes));
    }
    const StoreScan scan = MustScan(dir.path());
    const std::vector<std::string> parts = Parts(scan);
    const auto store = OpenPageStore("rocksdb:path=" + dir.path());
    ASSERT_OK(store);
    int64_t readable = 0;
    for (const auto& [context, pages, layers, heads] :
         {Saved{"a", 9, 2, 2}, Saved{"b", 9, 1, 2}, Saved{"c", 6}}) {
      for (int i = 0; i < pages * layers * heads; ++i) {
        const PageKey key = SampleKey(context, i % pages, i / pages / heads, i / pages % heads);
        const Status status = ReadPage(store->get(), key).status;
        readable += status.ok() ? 1 : 0;
        if (status.ok()) continue;
        // Without any undamaged page, nothing says which context it is.
        const std::string known = DescribePageKey(key);
        const std::string unknown = known.substr(0, known.find(", ")) + ", unknown context";
        EXPECT_TRUE(std::count(parts.begin(), parts.end(), known) +
                    std::count(parts.begin(), parts.end(), unknown))
            << status.message();
      }
    }
    EXPECT_EQ(scan.pages, readable);
  }
}

TEST(StoreScan, EveryFlippedBitOfAFileIsHarmlessOrSeen) {
  const TempDir dir;
  constexpr int kPages = 24;
  Save(dir.path(), {{"a", kPages}}, 2);
  const std::string file = TableFiles(dir.path()).at(0);
  const std::string whole = MustRead(file);
  Random random(5);
  int seen = 0;
  for (int round = 0; round < 100; ++round) {
    std::string damaged = whole;
    const size_t reach = round % 3 == 0 ? 2048 : whole.size();
    const size_t bit = random.Below(reach * 8);
    damaged[damaged.size() - 1 - bit / 8] ^= static_cast<char>(1 << (bit % 8));
    ASSERT_OK(WriteFileAtomically(file, damaged));
    const StoreScan scan = MustScan(dir.path());
    EXPECT_TRUE(scan.pages == kPages || !scan.damaged.empty()) << bit;
    EXPECT_LE(scan.pages, kPages);
    seen += scan.damaged.empty() ? 0 : 1;
  }
  EXPECT_GT(seen, 70);
}

}  // namespace
}  // namespace pqcache::storage
