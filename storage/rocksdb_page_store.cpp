#include "storage/rocksdb_page_store.h"

#include <rocksdb/convenience.h>
#include <rocksdb/db.h>
#include <rocksdb/sst_file_writer.h>
#include <rocksdb/write_batch.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "pqcache/base/check.h"
#include "pqcache/base/log.h"
#include "pqcache/cache/manifest.h"
#include "pqcache/cache/page_codec.h"
#include "pqcache/cache/stored_pages.h"
#include "storage/manifest_mark.h"
#include "storage/page_key_codec.h"
#include "storage/rocksdb_call.h"
#include "storage/store_folder.h"

namespace pqcache::storage {
namespace {

// What RocksDB's MultiGet works on at a time; more would only pin more blocks.
constexpr size_t kReadBatch = 32;

rocksdb::WriteOptions WithoutLog() {
  rocksdb::WriteOptions options;
  options.disableWAL = true;
  return options;
}

rocksdb::Slice Value(const PageWrite& write) {
  return {reinterpret_cast<const char*>(write.page->data()), write.page->size()};
}

// Files that were being written when a process was killed. They become the store's by a move.
const std::string kIngestPrefix = std::string(kFolderMarker) + ".ingest-";

const std::string kMarkPrefix = std::string(kFolderMarker) + ".manifest.tmp.";

// In the order in which they were written.
std::vector<std::filesystem::path> FilesOf(const std::string& path, const std::string& prefix) {
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (std::filesystem::directory_iterator it(path, error), end; !error && it != end;
       it.increment(error)) {
    if (it->path().filename().string().starts_with(prefix)) files.push_back(it->path());
  }
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) {
    return std::pair(a.string().size(), a) < std::pair(b.string().size(), b);
  });
  return files;
}

// The table that could not be opened because it is not there, e.g. "000123.sst"; or empty.
std::string MissingTable(const Status& opened) {
  const std::string& message = opened.message();
  const size_t end = message.find(".ldb: No such file");
  const size_t slash = message.rfind('/', end);
  if (opened.code() != StatusCode::kCorruption || end == std::string::npos) return "";
  return message.substr(slash + 1, end - slash - 1) + ".sst";
}

// Says who holds the folder if that is why it could not be opened.
Status ExplainLock(const std::string& path, const Status& status) {
  std::optional<int> holder;
  if (status.message().find("lock hold by current process") != std::string::npos) {
    holder = static_cast<int>(::getpid());
  } else if (status.message().find("While lock file: ") != std::string::npos) {
    holder = LockHolder(path + "/LOCK");
  } else {
    return status;
  }
  return Status::IoError("rocksdb store " + path + ": is in use by " +
                         (holder ? "process " + std::to_string(*holder) : "another process") +
                         ", expected a folder that no other store holds (" + status.message() +
                         ")");
}

}  // namespace

struct RocksDbPageStore::Impl {
  std::string path;
  rocksdb::Options options;
  std::unique_ptr<rocksdb::DB> db;
  rocksdb::ColumnFamilyHandle* records = nullptr;
  std::mutex records_mutex;  // one writer looks and writes before the next one looks
  std::mutex undone_mutex;   // guards undone
  std::mutex mark_mutex;     // marks are written in the order of their sizes
  // Records whose writing failed: what was written may lie in the buffer and become durable later,
  // so what was there before (nothing: no record) is served in its place until it is written back.
  std::map<std::string, std::optional<std::string>> undone;
  std::atomic<uint64_t> ingested{0};
  std::atomic<uint64_t> bytes_read{0};
  std::atomic<uint64_t> damaged{0};
  std::atomic<uint64_t> missing{0};

  ~Impl() {
    if (records != nullptr) db->DestroyColumnFamilyHandle(records);
  }
  Status OpenDb();
  Status OpenWithIngestFile(const Status& opened);
  Status Ingest(std::span<const PageWrite> pages);
  Status RemoveRange(const std::string& first, const std::string& last);
  Status Flush(const char* action, rocksdb::ColumnFamilyHandle* family);
  void MarkManifest();
  Status WriteRecord(const std::string& key, std::string_view value,
                     const std::optional<std::string>& before);
  Status RestoreRecords();
  template <typename F>
  Status Call(const char* action, F&& call) const {
    return CallRocksDb(path, action, std::forward<F>(call));
  }
  void ReadBatch(std::span<PageRead> pages);
  Status Accept(const rocksdb::Slice& value, PageRead* read) const;
  void Count(const PageRead& read);
};

RocksDbPageStore::RocksDbPageStore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RocksDbPageStore::~RocksDbPageStore() {
  const Status status = impl_->RestoreRecords();
  if (!status.ok())
    Log(LogLevel::kWarning, "a record that was not written may show up later: " + status.message());
}

Result<std::unique_ptr<PageStore>> RocksDbPageStore::Open(const SpecString& spec) {
  static constexpr std::string_view kKnown[] = {"path"};
  PQCACHE_RETURN_IF_ERROR(spec.CheckKnown(kKnown));
  const std::string path = spec.StringOr("path", "");
  if (path.empty()) {
    return Status::InvalidArgument(spec.name + ": has no path, expected " + spec.name +
                                   ":path=DIR");
  }
  PQCACHE_ASSIGN_OR_RETURN(std::unique_ptr<RocksDbPageStore> store, Open(path, nullptr));
  return std::unique_ptr<PageStore>(std::move(store));
}

Result<std::unique_ptr<RocksDbPageStore>> RocksDbPageStore::Open(const std::string& path,
                                                                 rocksdb::Env* env) {
  PQCACHE_RETURN_IF_ERROR(PrepareStoreFolder(path).Annotate("rocksdb store"));
  PQCACHE_RETURN_IF_ERROR(CheckManifestMark(path));
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  impl->options = StoreOptions();
  if (env != nullptr) impl->options.env = env;
  Status opened = impl->OpenDb();
  if (!MissingTable(opened).empty()) opened = impl->OpenWithIngestFile(opened);
  if (!opened.ok()) return ExplainLock(path, opened);
  impl->MarkManifest();
  std::error_code ignored;
  for (const auto& file : FilesOf(path, kIngestPrefix)) std::filesystem::remove(file, ignored);
  for (const auto& file : FilesOf(path, kMarkPrefix)) std::filesystem::remove(file, ignored);
  return std::unique_ptr<RocksDbPageStore>(new RocksDbPageStore(std::move(impl)));
}

// When the list of files could not be synced while it took in a bulk write, the database removes
// the file again, but the list on disk may name it. The file still lies there under its first name.
Status RocksDbPageStore::Impl::OpenWithIngestFile(const Status& opened) {
  const std::filesystem::path table = std::filesystem::path(path) / MissingTable(opened);
  for (const std::filesystem::path& file : FilesOf(path, kIngestPrefix)) {
    std::error_code error;
    std::filesystem::rename(file, table, error);
    if (error) continue;
    if (OpenDb().ok()) return Status::Ok();
    std::filesystem::rename(table, file, error);
  }
  return opened;
}

Status RocksDbPageStore::Impl::OpenDb() {
  return Call("open", [&] {
    const std::vector<rocksdb::ColumnFamilyDescriptor> families = {
        {rocksdb::kDefaultColumnFamilyName, options}, {kRecordFamily, options}};
    std::vector<rocksdb::ColumnFamilyHandle*> handles;
    rocksdb::DB* opened = nullptr;
    const rocksdb::Status s = rocksdb::DB::Open(options, path, families, &handles, &opened);
    db.reset(opened);
    if (!s.ok()) return s;
    db->DestroyColumnFamilyHandle(handles[0]);
    records = handles[1];
    return s;
  });
}

Status RocksDbPageStore::Put(std::span<const PageWrite> pages) {
  uint64_t bytes = 0;
  for (const PageWrite& write : pages) {
    PQCACHE_CHECK(write.page != nullptr, "a page to put is null");
    bytes += write.page->size();
  }
  if (bytes >= kIngestBytes) return impl_->Ingest(pages);
  return impl_->Call("put", [&] {
    rocksdb::WriteBatch batch;
    for (const PageWrite& write : pages) {
      const rocksdb::Status s = batch.Put(EncodePageKey(write.key), Value(write));
      if (!s.ok()) return s;
    }
    return impl_->db->Write(WithoutLog(), &batch);
  });
}

// A sorted file is written once, synced, and becomes part of the store in one step.
Status RocksDbPageStore::Impl::Ingest(std::span<const PageWrite> pages) {
  // Files of their own have no filters: who asks for a page of a context knows that it is there.
  std::map<std::string, const PageWrite*> sorted;  // the last page of a key counts
  for (const PageWrite& write : pages) sorted[EncodePageKey(write.key)] = &write;
  const std::string file = path + "/" + kIngestPrefix + std::to_string(++ingested);
  Status status = Call("write pages", [&] {
    rocksdb::SstFileWriter writer(rocksdb::EnvOptions(), options, /*column_family=*/nullptr,
                                  /*invalidate_page_cache=*/false,
                                  rocksdb::Env::IOPriority::IO_TOTAL,
                                  /*skip_filters=*/true);
    rocksdb::Status s = writer.Open(file);
    for (const auto& [key, write] : sorted) {
      if (s.ok()) s = writer.Put(key, Value(*write));
    }
    return s.ok() ? writer.Finish() : s;
  });
  if (!status.ok()) {
    (void)options.env->DeleteFile(file);
    return status;
  }
  // When this fails the file has to stay: see OpenWithIngestFile.
  return Call("take in pages", [&] {
    rocksdb::IngestExternalFileOptions ingest;
    ingest.move_files = true;
    ingest.write_global_seqno = false;
    return db->IngestExternalFile({file}, ingest);
  });
}

void RocksDbPageStore::Read(std::span<PageRead> pages) {
  for (size_t i = 0; i < pages.size(); i += kReadBatch) {
    impl_->ReadBatch(pages.subspan(i, std::min(kReadBatch, pages.size() - i)));
  }
}

void RocksDbPageStore::Impl::ReadBatch(std::span<PageRead> pages) {
  std::array<std::string, kReadBatch> keys;
  std::array<rocksdb::Slice, kReadBatch> slices;
  std::array<rocksdb::PinnableSlice, kReadBatch> values;
  std::array<rocksdb::Status, kReadBatch> statuses;
  for (size_t i = 0; i < pages.size(); ++i) {
    keys[i] = EncodePageKey(pages[i].key);
    slices[i] = keys[i];
  }
  const bool sorted =
      std::is_sorted(keys.begin(), keys.begin() + static_cast<int64_t>(pages.size()));
  const Status batch = Call("read", [&] {
    rocksdb::ReadOptions read_options;
    read_options.verify_checksums = true;
    db->MultiGet(read_options, db->DefaultColumnFamily(), pages.size(), slices.data(),
                 values.data(), statuses.data(), sorted);
    return rocksdb::Status::OK();
  });
  for (size_t i = 0; i < pages.size(); ++i) {
    PageRead& read = pages[i];
    read.page = nullptr;
    read.status =
        batch.ok() && !statuses[i].ok() ? Call("read", [&] { return statuses[i]; }) : batch;
    if (read.status.ok()) read.status = Accept(values[i], &read);
    values[i].Reset();
    if (!read.status.ok()) read.status = read.status.Annotate(DescribePageKey(read.key));
    Count(read);
  }
}

// Copies first and verifies the copy: that is the memory which will be used.
Status RocksDbPageStore::Impl::Accept(const rocksdb::Slice& value, PageRead* read) const {
  auto page = std::make_shared<PageBytes>(PageBytes::ForOverwrite(value.size()));
  if (!value.empty()) std::memcpy(page->data(), value.data(), value.size());
  const Status status = VerifyPage(page->span(), read->key);
  if (!status.ok()) return status.Annotate("rocksdb store " + path);
  read->page = std::move(page);
  return Status::Ok();
}

void RocksDbPageStore::Impl::Count(const PageRead& read) {
  if (read.status.ok()) bytes_read += read.page->size();
  if (read.status.code() == StatusCode::kNotFound) ++missing;
  if (read.status.code() == StatusCode::kCorruption) ++damaged;
}

Status RocksDbPageStore::RemoveContext(const ContextId& context) {
  const PageKeyRange range = ContextKeyRange(context);
  return impl_->RemoveRange(range.begin, range.end);
}

Status RocksDbPageStore::Impl::RemoveRange(const std::string& first, const std::string& last) {
  // A record that may still become durable must not speak of pages that are gone.
  PQCACHE_RETURN_IF_ERROR(RestoreRecords());
  const rocksdb::Slice begin = first, end = last;
  rocksdb::ColumnFamilyHandle* family = db->DefaultColumnFamily();
  // Whole files go first: that takes next to no disk space, so a context can be removed from a full
  // disk. The range marker covers what is left in the files at both ends and in memory.
  PQCACHE_RETURN_IF_ERROR(Call("drop files of context", [&] {
    return rocksdb::DeleteFilesInRange(db.get(), family, &begin, &end, /*include_end=*/false);
  }));
  PQCACHE_RETURN_IF_ERROR(
      Call("remove context", [&] { return db->DeleteRange(WithoutLog(), family, begin, end); }));
  PQCACHE_RETURN_IF_ERROR(Flush("sync", family));
  PQCACHE_RETURN_IF_ERROR(Call("compact after removal", [&] {
    const rocksdb::Status s =
        db->CompactRange(rocksdb::CompactRangeOptions(), family, &begin, &end);
    // On a nearly full disk the files at both ends wait for a later compaction.
    return s.IsCompactionTooLarge() ? rocksdb::Status::OK() : s;
  }));
  MarkManifest();
  return Status::Ok();
}

Status RocksDbPageStore::Sync() { return impl_->Flush("sync", impl_->db->DefaultColumnFamily()); }

// There is no log: what was put is durable once its write buffer is a file.
Status RocksDbPageStore::Impl::Flush(const char* action, rocksdb::ColumnFamilyHandle* family) {
  PQCACHE_RETURN_IF_ERROR(Call(action, [&] {
    rocksdb::FlushOptions flush;
    flush.wait = true;
    flush.allow_write_stall = true;  // do not wait for compactions first
    return db->Flush(flush, family);
  }));
  MarkManifest();
  return Status::Ok();
}

// What was flushed is durable with or without a mark, so a mark that cannot be written is no
// failure of the flush: the one before stays true.
void RocksDbPageStore::Impl::MarkManifest() {
  const std::lock_guard lock(mark_mutex);
  std::vector<std::string> files;
  uint64_t bytes = 0;  // that are synced
  Status status = Call("look at the list of files",
                       [&] { return db->GetLiveFiles(files, &bytes, /*flush_memtable=*/false); });
  const auto list = std::find_if(files.begin(), files.end(), [](const std::string& file) {
    return file.starts_with("/MANIFEST-");
  });
  if (list != files.end()) status = WriteManifestMark(path, list->substr(1), bytes);
  if (!status.ok()) Log(LogLevel::kWarning, "no new mark: " + status.message());
}

PageStoreStats RocksDbPageStore::stats() const {
  PageStoreStats stats;
  stats.bytes_read[std::string(kName)] = impl_->bytes_read;
  stats.damaged_pages = impl_->damaged;
  stats.missing_pages = impl_->missing;
  return stats;
}

Result<bool> RocksDbPageStore::PutRecord(const RecordKey& key, std::string_view value) {
  PQCACHE_RETURN_IF_ERROR(CheckRecord(key, value));
  const std::lock_guard lock(impl_->records_mutex);
  const Result<std::string> present = GetRecord(key);
  if (present.ok()) return false;
  if (present.status().code() != StatusCode::kNotFound) return present.status();
  PQCACHE_RETURN_IF_ERROR(impl_->WriteRecord(EncodeRecordKey(key), value, std::nullopt));
  return true;
}

Status RocksDbPageStore::ReplaceRecord(const RecordKey& key, std::string_view value) {
  PQCACHE_RETURN_IF_ERROR(CheckRecord(key, value));
  const std::lock_guard lock(impl_->records_mutex);
  const Result<std::string> present = GetRecord(key);
  if (!present.ok() && present.status().code() != StatusCode::kNotFound) return present.status();
  return impl_->WriteRecord(EncodeRecordKey(key), value,
                            present.ok() ? std::optional(*present) : std::nullopt);
}

Status RocksDbPageStore::Impl::WriteRecord(const std::string& key, std::string_view value,
                                           const std::optional<std::string>& before) {
  PQCACHE_RETURN_IF_ERROR(RestoreRecords());
  PQCACHE_RETURN_IF_ERROR(Call("put record", [&] {
    return db->Put(WithoutLog(), records, key, rocksdb::Slice(value.data(), value.size()));
  }));
  const Status flushed = Flush("sync records", records);
  if (flushed.ok()) return flushed;
  const std::lock_guard lock(undone_mutex);
  undone.emplace(key, before);
  return flushed;
}

Status RocksDbPageStore::Impl::RestoreRecords() {
  const std::lock_guard lock(undone_mutex);
  if (undone.empty()) return Status::Ok();
  for (const auto& [key, before] : undone) {
    PQCACHE_RETURN_IF_ERROR(Call("restore record", [&] {
      return before.has_value() ? db->Put(WithoutLog(), records, key, *before)
                                : db->Delete(WithoutLog(), records, key);
    }));
  }
  PQCACHE_RETURN_IF_ERROR(Flush("sync records", records));
  undone.clear();
  return Status::Ok();
}

Result<std::string> RocksDbPageStore::GetRecord(const RecordKey& key) {
  const std::string bytes = EncodeRecordKey(key);
  {
    const std::lock_guard lock(impl_->undone_mutex);
    if (const auto it = impl_->undone.find(bytes); it != impl_->undone.end()) {
      if (it->second.has_value()) return *it->second;
      return Status::NotFound("record " + key.name);
    }
  }
  std::string value;
  const Status status = impl_->Call("read record", [&] {
    return impl_->db->Get(rocksdb::ReadOptions(), impl_->records, bytes, &value);
  });
  if (!status.ok()) return status.Annotate("record " + key.name);
  return value;
}

Result<std::vector<Record>> RocksDbPageStore::ListRecords(const Fingerprint& tenant) {
  const std::string begin = EncodeRecordKey({tenant, ""});
  std::map<std::string, std::optional<std::string>> found;
  const std::lock_guard lock(impl_->undone_mutex);
  PQCACHE_RETURN_IF_ERROR(impl_->Call("list records", [&] {
    const std::unique_ptr<rocksdb::Iterator> it(
        impl_->db->NewIterator(rocksdb::ReadOptions(), impl_->records));
    for (it->Seek(begin); it->Valid() && it->key().starts_with(begin); it->Next()) {
      found[it->key().ToString()] = it->value().ToString();
    }
    return it->status();
  }));
  for (const auto& [key, before] : impl_->undone) {
    if (key.starts_with(begin)) found[key] = before;
  }
  std::vector<Record> list;
  for (auto& [key, value] : found) {
    if (value.has_value()) list.push_back({*DecodeRecordKey(key), *std::move(value)});
  }
  return list;
}

Status RocksDbPageStore::RemoveRecord(const RecordKey& key) {
  const std::lock_guard lock(impl_->records_mutex);
  PQCACHE_RETURN_IF_ERROR(impl_->RestoreRecords());
  PQCACHE_RETURN_IF_ERROR(impl_->Call("remove record", [&] {
    return impl_->db->Delete(WithoutLog(), impl_->records, EncodeRecordKey(key));
  }));
  return impl_->Flush("sync records", impl_->records);
}

Status RocksDbPageStore::RemoveUnreferenced() {
  PQCACHE_RETURN_IF_ERROR(impl_->RestoreRecords());
  std::set<std::string> referenced, stored;  // contexts by the beginning of their keys
  bool all_known = true;
  PQCACHE_RETURN_IF_ERROR(impl_->Call("look for unreferenced pages", [&] {
    const std::unique_ptr<rocksdb::Iterator> records(
        impl_->db->NewIterator(rocksdb::ReadOptions(), impl_->records));
    for (records->SeekToFirst(); records->Valid(); records->Next()) {
      const Result<ContextManifest> manifest = DecodeManifest(records->value().ToStringView());
      all_known = all_known && manifest.ok();
      if (!manifest.ok()) continue;
      for (const ContextId& context : ReferencedContexts(*manifest)) {
        referenced.insert(ContextKeyRange(context).begin);
      }
    }
    if (!records->status().ok() || !all_known) return records->status();
    const std::unique_ptr<rocksdb::Iterator> pages(impl_->db->NewIterator(rocksdb::ReadOptions()));
    for (pages->SeekToFirst(); pages->Valid();) {
      const std::string context = pages->key().ToString().substr(0, sizeof(Fingerprint::bytes));
      stored.insert(context);
      pages->Seek(context + '\xff');
    }
    return pages->status().IsCorruption() ? rocksdb::Status::OK() : pages->status();
  }));
  for (const std::string& context : stored) {
    if (!all_known || referenced.contains(context)) continue;
    PQCACHE_RETURN_IF_ERROR(impl_->RemoveRange(context, context + '\xff'));
  }
  return Status::Ok();
}

}  // namespace pqcache::storage
