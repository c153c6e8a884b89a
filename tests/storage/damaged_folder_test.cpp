// A store's folder with every file cut off at every block, and with bits flipped anywhere: opening
// says what is wrong, or all that is served is right and the rest is counted.

#include <gtest/gtest.h>
#include <rocksdb/sst_file_reader.h>
#include <rocksdb/table_properties.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pqcache/base/file_io.h"
#include "pqcache/base/random.h"
#include "storage/rocksdb_call.h"
#include "storage/salvage.h"
#include "storage/store_scan.h"
#include "storage/stores.h"
#include "tests/storage/saved_contexts.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace pqcache::storage {
namespace {

using namespace pqcache::testing;
namespace fs = std::filesystem;

const std::string kNames[] = {"bulk", "small"};

// "MANIFEST" of "MANIFEST-000005", "sst" of "000012.sst".
std::string KindOf(const std::string& file) {
  const std::string extension = fs::path(file).extension().string();
  return extension.empty() ? file.substr(0, file.find('-')) : extension.substr(1);
}

// What became of one damage. Harmless is what changes nothing of what is served: then nothing
// depends on it. Absent: a context is neither listed nor is anything said about it.
enum class Outcome { kRefused, kCounted, kHarmless, kAbsent };

class DamagedFolder : public ::testing::Test {
 protected:
  DamagedFolder() {
    for (const std::string& name : kNames) {  // each in files of its own
      const auto store = OpenPageStore("rocksdb:path=" + dir_.File("whole"));
      EXPECT_OK(SaveContext(store->get(), name, name == "small"));
      pages_[name] = PagesOf(name);
      manifests_[name] = EncodeManifest(*SavedCatalog(store->get()).Find(name));
    }
    for (const auto& entry : fs::directory_iterator(dir_.File("whole"))) {
      const std::string name = entry.path().filename().string();
      files_[name] = *ReadFile(entry.path().string(), 1 << 30);
    }
  }

  // Opens a copy of the folder in which one file has other contents, or is not there.
  Outcome With(const std::string& file, const std::optional<std::string>& contents) {
    MakeCopy(file, contents);
    return OpenCopy();
  }

  void MakeCopy(const std::string& file, const std::optional<std::string>& contents) const {
    fs::remove_all(copy_);
    fs::create_directory(copy_);
    for (const auto& [name, bytes] : files_) {
      if (name == file && !contents.has_value()) continue;
      std::ofstream(copy_ + "/" + name, std::ios::binary) << (name == file ? *contents : bytes);
    }
  }

  Outcome OpenCopy() const {
    const auto store = OpenPageStore(copy_spec_, OpenMode::kExisting);
    if (!store.ok()) {
      const Status& status = store.status();
      EXPECT_NE(status.message().find(copy_), std::string::npos) << status.message();
      EXPECT_TRUE(status.code() == StatusCode::kCorruption ||
                  status.code() == StatusCode::kIoError || status.code() == StatusCode::kNotFound ||
                  status.code() == StatusCode::kUnsupported ||
                  status.code() == StatusCode::kInvalidArgument)
          << status.message();
      return Outcome::kRefused;
    }
    return Look(store->get());
  }

  // The folder that it was copied into.
  std::string Rescue(const std::string& from, Salvage* salvage = nullptr) const {
    const std::string to = dir_.File("rescued");
    fs::remove_all(to);
    Result<Salvage> made = SalvageStoreFolder(from, to);
    EXPECT_OK(made);
    if (made.ok() && salvage != nullptr) *salvage = *std::move(made);
    return to;
  }

  // Opened as the program does.
  int WholeContextsIn(const std::string& folder) const {
    const auto store = OpenPageStore("rocksdb:path=" + folder, OpenMode::kExisting);
    EXPECT_OK(store);
    EXPECT_OK((*store)->RemoveUnreferenced());
    int whole = 0;
    const Result<CatalogListing> listing = SavedCatalog(store->get()).List();
    EXPECT_OK(listing);
    for (const ContextManifest& m : listing->contexts) {
      EXPECT_EQ(EncodeManifest(m), manifests_.at(m.name));
      const Result<ContextCheck> check = SavedCatalog(store->get()).Verify(m);
      EXPECT_OK(check);
      const bool complete = check->missing + check->damaged == 0;
      whole += complete && ServedPages(store->get(), pages_.at(m.name)) == kSavedPages;
    }
    return whole;
  }

  Outcome Look(PageStore* store) const {
    int lost = 0;
    for (const auto& [name, pages] : pages_) lost += kSavedPages - ServedPages(store, pages);
    const PageStoreStats stats = store->stats();
    EXPECT_EQ(stats.damaged_pages + stats.missing_pages, static_cast<uint64_t>(lost));

    const Result<CatalogListing> listing = SavedCatalog(store).List();
    if (!listing.ok()) return Outcome::kCounted;
    for (const ContextManifest& m : listing->contexts) {
      EXPECT_EQ(EncodeManifest(m), manifests_.at(m.name)) << "silently wrong";
      const Result<ContextCheck> check = SavedCatalog(store).Verify(m);
      EXPECT_OK(check);
      const int there = ServedPages(store, pages_.at(m.name));
      const int64_t found = check->missing + check->damaged;
      EXPECT_GE(found, kSavedPages - there) << m.name;
      lost += static_cast<int>(found);
    }
    if (listing->contexts.size() + listing->damaged.size() < std::size(kNames)) {
      return stats.damaged_pages > 0 ? Outcome::kCounted : Outcome::kAbsent;
    }
    return lost > 0 || !listing->damaged.empty() ? Outcome::kCounted : Outcome::kHarmless;
  }

  void Note(const std::string& file, Outcome outcome) {
    ++counts_[KindOf(file)][static_cast<size_t>(outcome)];
  }
  void PrintCounts() const {
    for (const auto& [kind, counts] : counts_) {
      std::cout << kind << ": refused " << counts[0] << ", counted " << counts[1] << ", harmless "
                << counts[2] << ", absent " << counts[3] << "\n";
    }
  }

  // Bytes of blocks with pages or records, their checksums included: all that lies before indexes.
  uint64_t DataBytes(const std::string& table) const {
    rocksdb::SstFileReader reader(StoreOptions());
    EXPECT_TRUE(reader.Open(dir_.File("whole/" + table)).ok());
    return reader.GetTableProperties()->data_size;
  }

  const TempDir dir_{FastFolder()};
  const std::string copy_ = dir_.File("copy"), copy_spec_ = "rocksdb:path=" + copy_;
  std::map<std::string, std::string> files_;
  std::map<std::string, std::vector<PageWrite>> pages_;  // of each context
  std::map<std::string, std::string> manifests_;
  std::map<std::string, std::array<int, 4>> counts_;
};

TEST_F(DamagedFolder, CutOffAnywhere) {
  for (const auto& [file, bytes] : files_) {
    size_t step = bytes.size() < 4096 ? 64 : 4096;
    if (KindOf(file) == "MANIFEST") step = 1;
    for (size_t size = 0; size < bytes.size(); size += step) {
      SCOPED_TRACE(file + " cut off at " + std::to_string(size));
      const Outcome outcome = With(file, bytes.substr(0, size));
      Note(file, outcome);
      const bool refused = KindOf(file) == "sst" || KindOf(file) == "MANIFEST";
      EXPECT_TRUE(!refused || outcome == Outcome::kRefused);
      EXPECT_NE(outcome, Outcome::kAbsent);
      if (HasFailure()) return;
    }
  }
  PrintCounts();
  ASSERT_GT(counts_["sst"][0] + counts_["sst"][1], 300);
}

// A list of files with a damaged length reads as one that lost its end.
TEST_F(DamagedFolder, EveryByteOfTheListOfFilesCounts) {
  for (const auto& [file, bytes] : files_) {
    if (KindOf(file) != "MANIFEST") continue;
    for (size_t at = 0; at < bytes.size(); ++at) {
      for (const int bit : {static_cast<int>(at % 8), 4}) {
        std::string damaged = bytes;
        damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
        ASSERT_EQ(With(file, damaged), Outcome::kRefused) << "bit " << bit << " of byte " << at;
        if (at % 16 > 0) continue;
        const Result<StoreScan> scan = ScanStoreFolder(copy_);
        ASSERT_OK(scan);
        ASSERT_FALSE(scan->damaged.empty());
        EXPECT_EQ(scan->damaged[0].part, "list of files");
      }
    }
  }
}

// Nothing else goes because one file is gone, and what the others hold can be had again.
TEST_F(DamagedFolder, WithoutOneFile) {
  for (const auto& [file, bytes] : files_) {
    SCOPED_TRACE("without " + file);
    const Outcome outcome = With(file, std::nullopt);
    Note(file, outcome);
    EXPECT_TRUE(outcome == Outcome::kRefused || outcome == Outcome::kHarmless);
    for (const auto& [name, held] : files_) {
      const bool rewritten = KindOf(name) != "sst" && outcome == Outcome::kHarmless;
      if (name != file && !rewritten && !held.empty()) {
        EXPECT_TRUE(fs::exists(copy_ + "/" + name)) << name;
      }
    }
    if (outcome == Outcome::kHarmless) continue;
    const int whole = WholeContextsIn(Rescue(copy_));
    EXPECT_EQ(whole, KindOf(file) == "sst" ? 1 : 2);
    if (HasFailure()) return;
  }
  PrintCounts();
  EXPECT_GT(counts_["sst"][0], 2);
}

// What lies in other files than the damaged one, and in front of the damage and behind it.
TEST_F(DamagedFolder, ADamagedTableIsRescuedBlockByBlock) {
  for (const auto& [file, bytes] : files_) {
    if (KindOf(file) != "sst" || bytes.size() < 100000) continue;
    std::string damaged = bytes;
    damaged[bytes.size() / 3] ^= 1;
    MakeCopy(file, damaged);
    fs::remove(copy_ + "/CURRENT");
    Salvage salvage;
    const std::string rescued = Rescue(copy_, &salvage);
    EXPECT_EQ(salvage.damaged.size(), 1u);
    EXPECT_EQ(WholeContextsIn(rescued), 1);
    const auto store = OpenPageStore("rocksdb:path=" + rescued);
    ASSERT_OK(store);
    for (const auto& [name, pages] : pages_) {
      EXPECT_GE(ServedPages(store->get(), pages), kSavedPages - 1) << name;
    }
  }
}

// The record of a removed context may still lie in an old file.
TEST_F(DamagedFolder, ARescueBringsNoRemovedContextBack) {
  MakeCopy("", std::nullopt);
  {
    const auto store = OpenPageStore(copy_spec_);
    ASSERT_OK(store);
    ASSERT_OK(SavedCatalog(store->get()).Remove("small"));
  }
  Salvage salvage;
  const std::string rescued = Rescue(copy_, &salvage);
  EXPECT_EQ(WholeContextsIn(rescued), 1);
  EXPECT_EQ(salvage.contexts.size(), 1u);
}

TEST_F(DamagedFolder, ARescueChangesNothingAndOverwritesNothing) {
  MakeCopy("", std::nullopt);
  {
    const auto store = OpenPageStore(copy_spec_);
    ASSERT_OK(store);
    EXPECT_EQ(SalvageStoreFolder(copy_, dir_.File("into")).status().code(), StatusCode::kIoError);
    EXPECT_FALSE(fs::exists(dir_.File("into")));
  }
  MakeCopy("", std::nullopt);
  EXPECT_EQ(WholeContextsIn(Rescue(copy_)), 2);
  for (const auto& [name, bytes] : files_) EXPECT_EQ(*ReadFile(copy_ + "/" + name, 1 << 30), bytes);
  EXPECT_EQ(SalvageStoreFolder(copy_, dir_.File("whole")).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(SalvageStoreFolder(dir_.File("nowhere"), dir_.File("into")).status().code(),
            StatusCode::kIoError);
  fs::create_directory(dir_.File("empty"));
  EXPECT_EQ(SalvageStoreFolder(dir_.File("empty"), dir_.File("into")).status().code(),
            StatusCode::kInvalidArgument);
}

// A bit in a record must not keep the other contexts' pages from being read, nor remove any.
TEST_F(DamagedFolder, DamagedRecordsRemoveNoPages) {
  for (const auto& [file, bytes] : files_) {
    if (KindOf(file) != "sst" || bytes.size() > 10000) continue;
    std::string damaged = bytes;
    damaged[bytes.size() / 8] ^= 1;
    MakeCopy(file, damaged);
    const auto store = OpenPageStore(copy_spec_);
    ASSERT_OK(store);
    EXPECT_OK((*store)->RemoveUnreferenced());
    for (const auto& [name, pages] : pages_) {
      EXPECT_EQ(ServedPages(store->get(), pages), kSavedPages);
    }
  }
}

TEST_F(DamagedFolder, OpeningLeavesNoMoreFilesEachTime) {
  MakeCopy("", std::nullopt);
  const auto files = [&] { return std::distance(fs::directory_iterator(copy_), {}); };
  OpenCopy();
  const auto before = files();
  for (int i = 0; i < 5; ++i) OpenCopy();
  EXPECT_LE(files(), before);
}

// RocksDB would take the folder for a new one and delete its tables.
TEST_F(DamagedFolder, WithoutCurrentItIsRefusedAndLeftAlone) {
  for (const bool marked : {true, false}) {
    const std::string copy = dir_.File(marked ? "marked" : "unmarked_copy");
    fs::copy(dir_.File("whole"), copy);
    fs::remove(copy + "/CURRENT");
    if (!marked) fs::remove(copy + "/PQCACHE_STORE.manifest");
    for (int i = 0; i < 2; ++i) {
      const auto store = OpenPageStore("rocksdb:path=" + copy);
      ASSERT_FALSE(store.ok());
      EXPECT_EQ(store.status().code(), StatusCode::kCorruption) << store.status().message();
      for (const auto& [name, bytes] : files_) {
        if (KindOf(name) == "sst") {
          EXPECT_TRUE(fs::exists(copy + "/" + name)) << name;
        }
      }
    }
  }
}

// What was written is durable without a mark: saving must not fail, or its pages would go.
TEST_F(DamagedFolder, AMarkThatCannotBeWrittenIsNoFailure) {
  const std::string folder = dir_.File("unmarked");
  const auto store = OpenPageStore("rocksdb:path=" + folder);
  ASSERT_OK(store);
  const std::string mark = folder + "/PQCACHE_STORE.manifest";
  fs::remove(mark);
  fs::create_directories(mark + "/in the way");
  ASSERT_OK(SaveContext(store->get(), "small", true));
  const auto listing = SavedCatalog(store->get()).List();
  ASSERT_OK(listing);
  EXPECT_EQ(listing->contexts.size(), 1u);
}

TEST_F(DamagedFolder, FlippedBits) {
  std::vector<std::string> names;
  for (const auto& [file, bytes] : files_) {
    if (!bytes.empty()) names.push_back(file);
  }
  Random random(9);
  for (int i = 0; i < 1000; ++i) {
    const std::string& file = names[random.Below(names.size())];
    std::string bytes = files_[file];
    // Tables are mostly pages; every other flip goes to their ends.
    const size_t reach = i % 2 == 0 ? std::min<size_t>(4096, bytes.size()) : bytes.size();
    const size_t at = bytes.size() - 1 - random.Below(reach);
    const auto bit = random.Below(8);
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << bit));
    SCOPED_TRACE(file + " with bit " + std::to_string(bit) + " of byte " + std::to_string(at));
    const Outcome outcome = With(file, bytes);
    Note(file, outcome);
    const bool in_data = KindOf(file) == "sst" && at < DataBytes(file);
    EXPECT_FALSE(in_data && outcome == Outcome::kHarmless);
    EXPECT_NE(outcome, Outcome::kAbsent);
    if (HasFailure()) return;
  }
  PrintCounts();
  EXPECT_EQ(counts_["MANIFEST"][2], 0) << "every byte of the list of files counts";
}

}  // namespace
}  // namespace pqcache::storage
