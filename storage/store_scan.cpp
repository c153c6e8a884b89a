#include "storage/store_scan.h"

#include <rocksdb/db.h>
#include <rocksdb/metadata.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "pqcache/base/spec_string.h"
#include "pqcache/cache/page_codec.h"
#include "storage/manifest_mark.h"
#include "storage/page_key_codec.h"
#include "storage/page_table.h"
#include "storage/rocksdb_call.h"
#include "storage/store_folder.h"

namespace pqcache::storage {
namespace {

namespace fs = std::filesystem;

// Pages looked up one by one behind a damaged block; a damaged filter would go on for ever.
constexpr int kMaxProbes = 10000;

// Where the page behind `key` is likely to be: the next head, page, kind or layer.
std::vector<std::string> LikelySuccessors(const std::string& key) {
  const auto fields = DecodePageKey(key);
  if (!fields.has_value()) return {};
  std::vector<std::string> keys;
  const auto add = [&](int64_t layer, int kind, int64_t head, int64_t page) {
    PageKeyFields next = *fields;
    next.layer = static_cast<int32_t>(layer);
    next.kind = static_cast<PageKind>(kind);
    next.head = static_cast<int32_t>(head);
    next.page = page;
    keys.push_back(EncodePageKey(next));
  };
  const auto& f = *fields;
  const int kind = static_cast<int>(f.kind);
  if (f.head < std::numeric_limits<int32_t>::max()) add(f.layer, kind, int64_t{f.head} + 1, f.page);
  if (f.page < std::numeric_limits<int64_t>::max()) add(f.layer, kind, 0, f.page + 1);
  for (int next = kind + 1; next <= static_cast<int>(PageKind::kTokens); ++next) {
    add(f.layer, next, 0, 0);
  }
  if (f.layer < std::numeric_limits<int32_t>::max()) add(int64_t{f.layer} + 1, 0, 0, 0);
  return keys;
}

// The smallest key a page of the same context can have.
std::string FirstOfContext(const std::string& key) {
  const auto fields = DecodePageKey(key);
  if (!fields.has_value()) return "";
  PageKeyFields first;
  first.context = fields->context;
  return EncodePageKey(first);
}

// With file and offset if the message ends in "... DIR/000008.sst offset 123 ...".
FileDamage MakeDamage(std::string part, const std::string& file, const std::string& what) {
  FileDamage damage = {std::move(part), file, std::nullopt, what};
  const size_t offset = what.rfind(" offset ");
  const size_t slash = what.rfind('/', offset);
  if (offset == std::string::npos || slash == std::string::npos) return damage;
  const std::string digits = what.substr(offset + 8, what.find(' ', offset + 8) - offset - 8);
  const Result<int64_t> number = ParseCount(digits, "offset");
  if (!number.ok()) return damage;
  damage.file = what.substr(slash + 1, offset - slash - 1);
  damage.offset = static_cast<uint64_t>(*number);
  return damage;
}

// A file and how far the scan has come in it.
struct Table : PageTable {
  using PageTable::PageTable;
  std::string reached;  // the last key that is dealt with
};

// What the pages of one context add up to; their keys share a prefix.
struct ContextSums {
  StoredContext context;
  std::set<int32_t> layers, heads;
};

class Scanner {
 public:
  explicit Scanner(const std::string& path) : path_(path) {}
  ~Scanner() {
    if (records_ != nullptr) db_->DestroyColumnFamilyHandle(records_);
  }

  StoreScan Run();

 private:
  rocksdb::Status OpenStore();
  void ListTables();
  rocksdb::Status ListManifests();
  void Merge();
  Table* Smallest();
  void Activate(std::unique_ptr<Table> table);
  void PassDamage(Table* table);
  bool FollowPages(Table* table, std::vector<std::string> keys);
  void SkipBlocks(Table* table);
  rocksdb::Status Get(const std::string& key) const;
  void Visit(const std::string& key, std::span<const uint8_t> page);
  void NotePage(const std::string& key, const std::string& file, const std::string& what);
  void Finish();

  const std::string path_;
  std::unique_ptr<rocksdb::DB> db_;
  rocksdb::ColumnFamilyHandle* records_ = nullptr;
  std::vector<std::unique_ptr<Table>> waiting_;  // by first key, the smallest at the end
  std::vector<std::unique_ptr<Table>> active_;   // opened, the newest first
  std::vector<std::unique_ptr<Table>> lost_;     // cannot be opened
  bool ranges_removed_ = false;                  // some file says so: every key has to be looked up
  StoreScan scan_;
  std::map<std::string, ContextSums> sums_;  // by the prefix of the keys
  std::vector<std::pair<std::optional<PageKeyFields>, FileDamage>> damaged_;
  std::set<std::string> named_;  // keys of damaged pages
};

StoreScan Scanner::Run() {
  Status status = CallRocksDb(path_, "open to read", [&] { return OpenStore(); });
  if (status.ok()) {
    status = CallRocksDb(path_, "scan", [&] {
      ListTables();
      Merge();
      return ListManifests();
    });
  }
  if (!status.ok()) scan_.damaged.push_back({"store", "", std::nullopt, status.message()});
  Finish();
  return std::move(scan_);
}

rocksdb::Status Scanner::OpenStore() {
  rocksdb::Options options = StoreOptions();
  options.create_if_missing = false;
  // Missing and damaged files are found later, one by one.
  options.paranoid_checks = false;
  options.skip_checking_sst_file_sizes_on_db_open = true;
  const std::vector<rocksdb::ColumnFamilyDescriptor> families = {
      {rocksdb::kDefaultColumnFamilyName, options}, {kRecordFamily, options}};
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status s = rocksdb::DB::OpenForReadOnly(options, path_, families, &handles, &db);
  db_.reset(db);
  if (!s.ok()) return s;
  db_->DestroyColumnFamilyHandle(handles[0]);
  records_ = handles[1];
  return s;
}

void Scanner::ListTables() {
  std::vector<rocksdb::LiveFileMetaData> files;
  db_->GetLiveFilesMetaData(&files);
  for (const rocksdb::LiveFileMetaData& file : files) {
    if (file.column_family_name == kRecordFamily) continue;
    auto table = std::make_unique<Table>(file);
    if (const Status status = table->Open(path_); !status.ok()) {
      scan_.damaged.push_back(MakeDamage("file of " + std::to_string(file.size) + " bytes",
                                         table->name(), status.message()));
      lost_.push_back(std::move(table));
      continue;
    }
    ranges_removed_ = ranges_removed_ || table->RemovesRanges();
    table->Close();  // a store may have more files than a process may open
    waiting_.push_back(std::move(table));
  }
  std::sort(waiting_.begin(), waiting_.end(),
            [](const auto& a, const auto& b) { return a->first() > b->first(); });
}

rocksdb::Status Scanner::ListManifests() {
  const std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(rocksdb::ReadOptions(), records_));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    const auto key = DecodeRecordKey(it->key().ToStringView());
    Result<ContextManifest> manifest = DecodeManifest(it->value().ToStringView());
    if (key.has_value() && manifest.ok()) {
      scan_.manifests.push_back(*std::move(manifest));
      continue;
    }
    scan_.damaged.push_back({"manifest " + (key.has_value() ? key->name : "of unknown name"), "",
                             std::nullopt, manifest.status().message()});
  }
  return it->status();
}

// Visits every key once, in the newest file that has it. RocksDB's own iterator over all files is
// no use here: it stays unreadable as long as one file of level 0 is.
void Scanner::Merge() {
  while (true) {
    const Table* smallest = Smallest();
    while (!waiting_.empty() &&
           (smallest == nullptr || waiting_.back()->first() <= smallest->key())) {
      std::unique_ptr<Table> table = std::move(waiting_.back());
      waiting_.pop_back();
      Activate(std::move(table));
      smallest = Smallest();
    }
    if (smallest == nullptr) return;
    const std::string key(smallest->key());
    // A key that is named already has older copies, which do not count.
    const bool counts = !named_.contains(key) && (!ranges_removed_ || !Get(key).IsNotFound());
    if (counts) Visit(key, smallest->value());
    for (const auto& table : active_) {
      if (!table->valid() || table->key() != key) continue;
      table->reached = key;
      table->Next();
    }
  }
}

// Of the active tables the newest one with the smallest next key; null at the end of all.
Table* Scanner::Smallest() {
  Table* smallest = nullptr;
  for (const auto& table : active_) {
    if (!table->damage().empty()) PassDamage(table.get());
    if (!table->valid()) continue;
    if (smallest == nullptr || table->key() < smallest->key()) smallest = table.get();
  }
  std::erase_if(active_, [](const auto& table) { return !table->valid(); });
  return smallest;
}

void Scanner::Activate(std::unique_ptr<Table> table) {
  if (const Status status = table->Open(path_); !status.ok()) {  // it was open a moment ago
    damaged_.push_back({std::nullopt, MakeDamage("file", table->name(), status.message())});
    return;
  }
  table->Seek(table->first());
  const auto place = std::find_if(active_.begin(), active_.end(),
                                  [&](const auto& other) { return table->IsNewerThan(*other); });
  active_.insert(place, std::move(table));
}

// Moves the table from a damaged part to the next key that can be read, or to its end.
void Scanner::PassDamage(Table* table) {
  const std::string why = table->damage();
  const size_t before = damaged_.size();
  const std::vector<std::string> next =
      table->reached.empty() ? std::vector{table->first()} : LikelySuccessors(table->reached);
  if (!FollowPages(table, next)) {
    SkipBlocks(table);
    const std::string resume = table->valid() ? std::string(table->key()) : "";
    // The damaged part may have held the first pages of that context.
    const std::string start = FirstOfContext(resume.empty() ? table->last() : resume);
    if (start > table->reached && !FollowPages(table, {start})) {
      if (resume.empty() || !table->Seek(resume)) table->MoveToEnd();
    }
  }
  if (damaged_.size() == before) {
    damaged_.push_back({std::nullopt, MakeDamage("block with pages", table->name(), why)});
  }
}

// Moves behind the damaged part, one block of any file after the other.
void Scanner::SkipBlocks(Table* table) {
  std::string low = std::max(table->reached, table->first());
  for (int blocks = 0; blocks < kMaxProbes && !low.empty(); ++blocks) {
    const std::string next = FirstKeyAbove(low, [&](const std::string& key) {
      const rocksdb::Range range(low, key);
      uint64_t bytes = 0;  // between the blocks of the two keys, from the indexes alone
      const rocksdb::Status s = db_->GetApproximateSizes(
          rocksdb::SizeApproximationOptions(), db_->DefaultColumnFamily(), &range, 1, &bytes);
      return s.ok() && bytes > 0;
    });
    if (next.empty()) break;
    if (table->Seek(next)) return;
    low = next;
  }
  table->SeekBehindDamage(low);  // the index is damaged
}

// Looks likely keys up, the first of `keys` and then its successors; names the damaged pages, and
// stops where the table can be read. False if it runs out of keys before that.
bool Scanner::FollowPages(Table* table, std::vector<std::string> keys) {
  for (int probes = 0; probes < kMaxProbes; ++probes) {
    rocksdb::Status s;
    const auto key = std::find_if(keys.begin(), keys.end(), [&](const std::string& k) {
      // Below a lost file every key would seem to be there.
      const bool hidden =
          std::any_of(lost_.begin(), lost_.end(), [&](const auto& lost) { return lost->Holds(k); });
      if (hidden || !table->Holds(k)) return false;
      s = Get(k);
      return !s.IsNotFound();
    });
    if (key == keys.end()) return false;
    table->reached = *key;
    if (table->Seek(*key)) return true;
    if (!s.ok()) NotePage(*key, table->name(), s.ToString());
    keys = LikelySuccessors(table->reached);
  }
  return false;
}

// What the store would answer.
rocksdb::Status Scanner::Get(const std::string& key) const {
  rocksdb::PinnableSlice value;
  return db_->Get(rocksdb::ReadOptions(), db_->DefaultColumnFamily(), key, &value);
}

void Scanner::Visit(const std::string& key, std::span<const uint8_t> page) {
  const auto fields = DecodePageKey(key);
  if (!fields.has_value()) {
    return NotePage(key, "",
                    "key has " + std::to_string(key.size()) + " bytes, expected " +
                        std::to_string(kPageKeyBytes));
  }
  const Result<PageHeader> header = DecodePage(page);
  if (!header.ok()) return NotePage(key, "", header.status().message());
  if (EncodePageKey(header->key) != key) {
    return NotePage(key, "", "holds " + DescribePageKey(header->key));
  }
  ContextSums& sums = sums_[fields->context];
  sums.context.id = header->key.context;
  ++sums.context.pages;
  sums.context.bytes += page.size();
  if (header->key.kind != PageKind::kRows) return;
  sums.context.tokens = std::max(sums.context.tokens, header->first_token + header->tokens);
  sums.layers.insert(fields->layer);
  sums.heads.insert(fields->head);
}

void Scanner::NotePage(const std::string& key, const std::string& file, const std::string& what) {
  if (!named_.insert(key).second) return;
  damaged_.push_back({DecodePageKey(key), MakeDamage("value without a page key", file, what)});
}

// Names what is damaged, now that all contexts with an undamaged page are known.
void Scanner::Finish() {
  for (auto& [key, damage] : damaged_) {
    if (key.has_value()) {
      ++scan_.damaged_pages;
      const auto sums = sums_.find(key->context);
      damage.part =
          (key->kind == PageKind::kRows ? "" : std::string(PageKindName(key->kind)) + " ") +
          "page " + std::to_string(key->page) + " of layer " + std::to_string(key->layer) +
          " head " + std::to_string(key->head) +
          (sums == sums_.end() ? ", unknown context"
                               : ", context " + sums->second.context.id.context.Hex());
    }
    scan_.damaged.push_back(std::move(damage));
  }
  for (auto& [prefix, sums] : sums_) {
    sums.context.layers = static_cast<int>(sums.layers.size());
    sums.context.heads = static_cast<int>(sums.heads.size());
    scan_.pages += sums.context.pages;
    scan_.bytes += sums.context.bytes;
    scan_.contexts.push_back(sums.context);
  }
}

// True for a store that was marked and then never opened.
bool IsUnused(const std::string& path) {
  std::error_code error;
  for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    if (!it->path().filename().string().starts_with(kFolderMarker)) return false;
  }
  return !error;
}

}  // namespace

Result<StoreScan> ScanStoreFolder(const std::string& path) {
  const Status marker = CheckStoreFolder(path);
  if (!marker.ok() && marker.code() != StatusCode::kCorruption) return marker;
  PQCACHE_RETURN_IF_ERROR(CheckNobodyHolds(path));
  StoreScan scan;
  if (!IsUnused(path)) scan = Scanner(path).Run();
  if (!marker.ok()) {
    scan.damaged.insert(scan.damaged.begin(), {"marker", kFolderMarker, 0, marker.message()});
  }
  if (const Status list = CheckManifestMark(path); !list.ok()) {
    scan.damaged.insert(scan.damaged.begin(),
                        {"list of files", "MANIFEST", std::nullopt, list.message()});
  }
  return scan;
}

}  // namespace pqcache::storage
