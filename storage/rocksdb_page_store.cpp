#include "storage/rocksdb_page_store.h"

#include <rocksdb/convenience.h>
#include <rocksdb/db.h>
#include <rocksdb/sst_file_writer.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <filesystem>
#include <set>
#include <string>
#include <utility>

#include "pqcache/base/check.h"
#include "pqcache/base/log.h"
#include "pqcache/cache/manifest.h"
#include "pqcache/cache/page_codec.h"
#include "storage/page_buffer.h"
#include "storage/page_key_codec.h"
#include "storage/rocksdb_call.h"
#include "storage/rocksdb_database.h"
#include "storage/rocksdb_records.h"
#include "storage/store_folder.h"

namespace pqcache::storage {
namespace {

// What RocksDB's MultiGet works on at a time; more would only pin more blocks.
constexpr size_t kReadBatch = 32;

rocksdb::Slice Value(const PageBytes& page) {
  return {reinterpret_cast<const char*>(page.data()), page.size()};
}

// A page that is not in memory.
struct StoredRead {
  PageRead* read;
  std::string key;
};

using Handles = RocksDbDatabase::Handles;
using PageIterator = PageBuffer::Pages::const_iterator;

// Of the file that begins there: it holds one layer of a context.
PageIterator EndOfFile(PageIterator begin, PageIterator end) {
  return std::find_if(begin, end, [&](const auto& page) {
    return page.first.compare(0, kLayerPrefixBytes, begin->first, 0, kLayerPrefixBytes) != 0;
  });
}

}  // namespace

struct RocksDbPageStore::Impl {
  Impl(std::unique_ptr<RocksDbDatabase> opened, uint64_t bytes)
      : database(std::move(opened)), waiting_bytes(bytes) {}

  Status Write(const PageBuffer::Pages& pages);
  Status WriteTable(const std::string& file, PageIterator begin, PageIterator end);
  Status RemoveRange(const std::string& first, const std::string& last);
  Result<bool> HasPagesIn(const rocksdb::Slice& begin, const rocksdb::Slice& end) const;
  Status RemoveOneByOne(const rocksdb::Slice& begin, const rocksdb::Slice& end);
  void ReadBatch(std::span<StoredRead> reads);
  void ReadBatch(std::span<StoredRead> reads, const Handles& h);
  Status Accept(const rocksdb::Slice& value, PageRead* read) const;
  void Count(const PageRead& read);

  const std::unique_ptr<RocksDbDatabase> database;
  const uint64_t waiting_bytes;  // at most, before pages are written
  RocksDbRecords records{database.get()};
  std::atomic<uint64_t> bytes_read{0};
  std::atomic<uint64_t> damaged{0};
  std::atomic<uint64_t> missing{0};
  PageBuffer buffer{waiting_bytes, [this](const PageBuffer::Pages& pages) { return Write(pages); }};
};

RocksDbPageStore::RocksDbPageStore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

RocksDbPageStore::~RocksDbPageStore() {
  const Status status = impl_->records.Restore();
  if (status.ok()) return;
  Log(LogLevel::kWarning, "a record that was not written may show up later: " + status.message());
}

Result<std::unique_ptr<PageStore>> RocksDbPageStore::Open(const SpecString& spec,
                                                          bool make_if_missing) {
  PQCACHE_ASSIGN_OR_RETURN(const std::string path, FolderOf(spec));
  if (!make_if_missing) {
    PQCACHE_RETURN_IF_ERROR(CheckStoreFolder(path).Annotate("rocksdb store"));
  }
  PQCACHE_ASSIGN_OR_RETURN(std::unique_ptr<RocksDbPageStore> store,
                           Open(path, nullptr, kWaitingBytes));
  return std::unique_ptr<PageStore>(std::move(store));
}

Result<std::string> RocksDbPageStore::FolderOf(const SpecString& spec) {
  static constexpr std::string_view kKnown[] = {"path"};
  PQCACHE_RETURN_IF_ERROR(spec.CheckKnown(kKnown));
  std::string path = spec.StringOr("path", "");
  if (!path.empty()) return path;
  return Status::InvalidArgument(spec.name + ": has no path, expected " + spec.name + ":path=DIR");
}

Result<std::unique_ptr<RocksDbPageStore>> RocksDbPageStore::Open(const std::string& path,
                                                                 rocksdb::Env* env,
                                                                 uint64_t waiting_bytes) {
  PQCACHE_ASSIGN_OR_RETURN(auto database, RocksDbDatabase::Open(path, env));
  return std::unique_ptr<RocksDbPageStore>(
      new RocksDbPageStore(std::make_unique<Impl>(std::move(database), waiting_bytes)));
}

Status RocksDbPageStore::Put(std::span<const PageWrite> pages) { return impl_->buffer.Put(pages); }

// Sorted files are written once, synced, and become part of the store in one step. With one layer
// in a file, it does not overlap those of later tokens, which would have to be merged; and it goes
// when its context goes.
Status RocksDbPageStore::Impl::Write(const PageBuffer::Pages& pages) {
  PQCACHE_RETURN_IF_ERROR(database->Repair());
  std::vector<std::string> files;
  Status status;
  for (auto begin = pages.begin(); status.ok() && begin != pages.end();) {
    const auto end = EndOfFile(begin, pages.end());
    files.push_back(database->NewTableFile());
    status = WriteTable(files.back(), begin, end);
    begin = end;
  }
  if (status.ok()) return database->TakeIn(files);
  for (const std::string& file : files) (void)database->options().env->DeleteFile(file);
  return status;
}

Status RocksDbPageStore::Impl::WriteTable(const std::string& file, PageIterator begin,
                                          PageIterator end) {
  return CallRocksDb(database->path(), "write pages", [&] {
    rocksdb::EnvOptions io;
    io.bytes_per_sync = 1 << 20;  // so that the disk works before the file is whole
    rocksdb::SstFileWriter writer(io, database->options(), /*column_family=*/nullptr,
                                  /*invalidate_page_cache=*/false);
    rocksdb::Status s = writer.Open(file);
    for (auto it = begin; s.ok() && it != end; ++it) s = writer.Put(it->first, Value(*it->second));
    return s.ok() ? writer.Finish() : s;
  });
}

void RocksDbPageStore::Read(std::span<PageRead> pages) {
  std::vector<std::string> keys;
  for (const PageRead& read : pages) keys.push_back(EncodePageKey(read.key));
  std::vector<PageRef> waiting = impl_->buffer.Find(keys);
  std::vector<StoredRead> stored;
  for (size_t i = 0; i < pages.size(); ++i) {
    pages[i].status = Status::Ok();
    pages[i].page = std::move(waiting[i]);
    if (pages[i].page != nullptr) {
      impl_->Count(pages[i]);
    } else {
      stored.push_back({&pages[i], std::move(keys[i])});
    }
  }
  std::sort(stored.begin(), stored.end(),
            [](const StoredRead& a, const StoredRead& b) { return a.key < b.key; });
  for (size_t i = 0; i < stored.size(); i += kReadBatch) {
    impl_->ReadBatch(std::span(stored).subspan(i, std::min(kReadBatch, stored.size() - i)));
  }
}

void RocksDbPageStore::Impl::ReadBatch(std::span<StoredRead> reads) {
  const Status status = database->Read("read", [&](const Handles& h) {
    ReadBatch(reads, h);
    return rocksdb::Status::OK();
  });
  for (const StoredRead& stored : reads) {
    PageRead& read = *stored.read;
    if (!status.ok()) read.status = status;
    if (!read.status.ok()) read.status = read.status.Annotate(DescribePageKey(read.key));
    Count(read);
  }
}

void RocksDbPageStore::Impl::ReadBatch(std::span<StoredRead> reads, const Handles& h) {
  std::array<rocksdb::Slice, kReadBatch> keys;
  std::array<rocksdb::PinnableSlice, kReadBatch> values;
  std::array<rocksdb::Status, kReadBatch> statuses;
  for (size_t i = 0; i < reads.size(); ++i) keys[i] = reads[i].key;
  rocksdb::ReadOptions options;
  options.verify_checksums = true;
  h.db->MultiGet(options, h.pages, reads.size(), keys.data(), values.data(), statuses.data(),
                 /*sorted_input=*/true);
  for (size_t i = 0; i < reads.size(); ++i) {
    PageRead* read = reads[i].read;
    read->status = statuses[i].ok()
                       ? Accept(values[i], read)
                       : CallRocksDb(database->path(), "read", [&] { return statuses[i]; });
    values[i].Reset();
  }
}

// Copies first and verifies the copy: that is the memory which will be used.
Status RocksDbPageStore::Impl::Accept(const rocksdb::Slice& value, PageRead* read) const {
  PageRef page = CopyPage(value.data(), value.size());
  const Status status = VerifyPage(page->span(), read->key);
  if (!status.ok()) return status.Annotate("rocksdb store " + database->path());
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
  PQCACHE_RETURN_IF_ERROR(records.Restore());
  buffer.Remove(first, last);
  const rocksdb::Slice begin = first, end = last;
  // Mostly these are all: no file has pages of two contexts. It takes next to no disk space.
  PQCACHE_RETURN_IF_ERROR(database->GiveBack("drop files of context", [&](const Handles& h) {
    return rocksdb::DeleteFilesInRange(h.db, h.pages, &begin, &end, /*include_end=*/false);
  }));
  PQCACHE_ASSIGN_OR_RETURN(const bool more, HasPagesIn(begin, end));
  if (more) PQCACHE_RETURN_IF_ERROR(RemoveOneByOne(begin, end));
  database->Mark();
  return Status::Ok();
}

Result<bool> RocksDbPageStore::Impl::HasPagesIn(const rocksdb::Slice& begin,
                                                const rocksdb::Slice& end) const {
  bool found = false;
  PQCACHE_RETURN_IF_ERROR(database->Read("look for pages", [&](const Handles& h) {
    const std::unique_ptr<rocksdb::Iterator> it(h.db->NewIterator(rocksdb::ReadOptions(), h.pages));
    it->Seek(begin);
    found = it->Valid() ? it->key().compare(end) < 0 : !it->status().ok();  // a damaged page
    return rocksdb::Status::OK();
  }));
  return found;
}

// Pages of files that are being merged, or that newer ones overlap.
Status RocksDbPageStore::Impl::RemoveOneByOne(const rocksdb::Slice& begin,
                                              const rocksdb::Slice& end) {
  PQCACHE_RETURN_IF_ERROR(database->ChangeDurably(
      "remove context", &Handles::pages,
      [&](const Handles& h) { return h.db->DeleteRange(WithoutLog(), h.pages, begin, end); }));
  return database->Change("compact after removal", [&](const Handles& h) {
    // On a nearly full disk a later compaction gives the space back.
    const rocksdb::Range range(begin, end);
    uint64_t bytes = 0;
    h.db->GetApproximateSizes(h.pages, &range, 1, &bytes);
    std::error_code error;
    const uint64_t room = std::filesystem::space(database->path(), error).available;
    if (!error && room < 2 * bytes + waiting_bytes) return rocksdb::Status::OK();
    return h.db->CompactRange(rocksdb::CompactRangeOptions(), h.pages, &begin, &end);
  });
}

Status RocksDbPageStore::Sync() { return impl_->buffer.Flush(); }

PageStoreStats RocksDbPageStore::stats() const {
  PageStoreStats stats;
  stats.bytes_read[std::string(kName)] = impl_->bytes_read;
  stats.damaged_pages = impl_->damaged;
  stats.missing_pages = impl_->missing;
  return stats;
}

Result<bool> RocksDbPageStore::PutRecord(const RecordKey& key, std::string_view value) {
  return impl_->records.Put(key, value);
}

Result<bool> RocksDbPageStore::ReplaceRecord(const RecordKey& key, std::string_view expected,
                                             std::string_view value) {
  return impl_->records.Replace(key, expected, value);
}

Result<std::string> RocksDbPageStore::GetRecord(const RecordKey& key) {
  return impl_->records.Get(key);
}

Result<std::vector<Record>> RocksDbPageStore::ListRecords(const Fingerprint& tenant) {
  return impl_->records.List(tenant);
}

Status RocksDbPageStore::RemoveRecord(const RecordKey& key) { return impl_->records.Remove(key); }

Status RocksDbPageStore::RemoveUnreferenced() {
  PQCACHE_RETURN_IF_ERROR(impl_->records.Restore());
  std::set<std::string> referenced, stored;  // contexts by the beginning of their keys
  bool all_known = true;
  PQCACHE_RETURN_IF_ERROR(
      impl_->database->Read("look for unreferenced pages", [&](const Handles& h) {
        const std::unique_ptr<rocksdb::Iterator> records(
            h.db->NewIterator(rocksdb::ReadOptions(), h.records));
        for (records->SeekToFirst(); records->Valid(); records->Next()) {
          const Result<ContextManifest> manifest = DecodeManifest(records->value().ToStringView());
          all_known = all_known && manifest.ok();
          if (!manifest.ok()) continue;
          for (const ContextId& context : ReferencedContexts(*manifest)) {
            referenced.insert(ContextKeyRange(context).begin);
          }
        }
        all_known = all_known && !records->status().IsCorruption();
        if (!records->status().ok() && all_known) return records->status();
        if (!all_known) return rocksdb::Status::OK();
        const std::unique_ptr<rocksdb::Iterator> pages(
            h.db->NewIterator(rocksdb::ReadOptions(), h.pages));
        for (pages->SeekToFirst(); pages->Valid();) {
          const std::string context = pages->key().ToString().substr(0, kContextPrefixBytes);
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
