#include "storage/rocksdb_page_store.h"

#include <rocksdb/convenience.h>
#include <rocksdb/db.h>
#include <rocksdb/write_batch.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "pqcache/base/check.h"
#include "pqcache/cache/page_codec.h"
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
  std::unique_ptr<rocksdb::DB> db;
  std::atomic<uint64_t> bytes_read{0};
  std::atomic<uint64_t> damaged{0};
  std::atomic<uint64_t> missing{0};

  template <typename F>
  Status Call(const char* action, F&& call) const {
    return CallRocksDb(path, action, std::forward<F>(call));
  }
  void ReadBatch(std::span<PageRead> pages);
  Status Accept(const rocksdb::Slice& value, PageRead* read) const;
  void Count(const PageRead& read);
};

RocksDbPageStore::RocksDbPageStore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RocksDbPageStore::~RocksDbPageStore() = default;

Result<std::unique_ptr<PageStore>> RocksDbPageStore::Open(const SpecString& spec) {
  static constexpr std::string_view kKnown[] = {"path"};
  PQCACHE_RETURN_IF_ERROR(spec.CheckKnown(kKnown));
  const std::string path = spec.StringOr("path", "");
  if (path.empty()) {
    return Status::InvalidArgument(spec.name + ": has no path, expected " + spec.name +
                                   ":path=DIR");
  }
  PQCACHE_RETURN_IF_ERROR(PrepareStoreFolder(path).Annotate("rocksdb store"));
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  const Status opened = impl->Call("open", [&] {
    rocksdb::DB* db = nullptr;
    const rocksdb::Status s = rocksdb::DB::Open(StoreOptions(), path, &db);
    impl->db.reset(db);
    return s;
  });
  if (!opened.ok()) return ExplainLock(path, opened);
  return std::unique_ptr<PageStore>(new RocksDbPageStore(std::move(impl)));
}

Status RocksDbPageStore::Put(std::span<const PageWrite> pages) {
  return impl_->Call("put", [&] {
    rocksdb::WriteBatch batch;
    for (const PageWrite& write : pages) {
      PQCACHE_CHECK(write.page != nullptr, "a page to put is null");
      const auto* data = reinterpret_cast<const char*>(write.page->data());
      const rocksdb::Status s =
          batch.Put(EncodePageKey(write.key), rocksdb::Slice(data, write.page->size()));
      if (!s.ok()) return s;
    }
    return impl_->db->Write(WithoutLog(), &batch);
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
  const Status batch = Call("read", [&] {
    rocksdb::ReadOptions options;
    options.verify_checksums = true;
    db->MultiGet(options, db->DefaultColumnFamily(), pages.size(), slices.data(), values.data(),
                 statuses.data());
    return rocksdb::Status::OK();
  });
  for (size_t i = 0; i < pages.size(); ++i) {
    PageRead& read = pages[i];
    read.page = nullptr;
    read.status = batch.ok() ? Call("read", [&] { return statuses[i]; }) : batch;
    if (read.status.ok()) read.status = Accept(values[i], &read);
    values[i].Reset();
    if (!read.status.ok()) read.status = read.status.Annotate(DescribePageKey(read.key));
    Count(read);
  }
}

// Copies first and verifies the copy: that is the memory which will be used.
Status RocksDbPageStore::Impl::Accept(const rocksdb::Slice& value, PageRead* read) const {
  auto page = std::make_shared<PageBytes>(value.size());
  if (!value.empty()) std::memcpy(page->data(), value.data(), value.size());
  PQCACHE_RETURN_IF_ERROR(VerifyPage(page->span(), read->key).Annotate("rocksdb store " + path));
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
  const rocksdb::Slice begin = range.begin, end = range.end;
  rocksdb::DB* db = impl_->db.get();
  rocksdb::ColumnFamilyHandle* family = db->DefaultColumnFamily();
  // Whole files go first: that takes next to no disk space, so a context can be removed from a full
  // disk. The range marker covers what is left in the files at both ends and in memory.
  PQCACHE_RETURN_IF_ERROR(impl_->Call("drop files of context", [&] {
    return rocksdb::DeleteFilesInRange(db, family, &begin, &end, /*include_end=*/false);
  }));
  PQCACHE_RETURN_IF_ERROR(impl_->Call(
      "remove context", [&] { return db->DeleteRange(WithoutLog(), family, begin, end); }));
  PQCACHE_RETURN_IF_ERROR(Sync());
  return impl_->Call("compact after removal", [&] {
    const rocksdb::Status s =
        db->CompactRange(rocksdb::CompactRangeOptions(), family, &begin, &end);
    // On a nearly full disk the files at both ends wait for a later compaction.
    return s.IsCompactionTooLarge() ? rocksdb::Status::OK() : s;
  });
}

Status RocksDbPageStore::Sync() {
  return impl_->Call("sync", [&] {
    rocksdb::FlushOptions options;
    options.wait = true;
    options.allow_write_stall = true;  // do not wait for compactions first
    return impl_->db->Flush(options);
  });
}

PageStoreStats RocksDbPageStore::stats() const {
  PageStoreStats stats;
  stats.bytes_read[std::string(kName)] = impl_->bytes_read;
  stats.damaged_pages = impl_->damaged;
  stats.missing_pages = impl_->missing;
  return stats;
}

}  // namespace pqcache::storage
