#include "storage/rocksdb_page_store.h"

#include <rocksdb/cache.h>
#include <rocksdb/convenience.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdarg>
#include <cstring>
#include <exception>
#include <new>
#include <optional>
#include <string>
#include <utility>

#include "pqcache/base/check.h"
#include "pqcache/cache/page_codec.h"
#include "storage/page_key_codec.h"
#include "storage/store_folder.h"

namespace pqcache::storage {
namespace {

// What RocksDB's MultiGet works on at a time; more would only pin more blocks.
constexpr size_t kReadBatch = 32;
constexpr size_t kWriteBufferBytes = 32 << 20;
constexpr int kWriteBuffers = 2;
constexpr size_t kBlockCacheBytes = 8 << 20;
static_assert(kRocksDbBufferBytes == kWriteBuffers * kWriteBufferBytes + kBlockCacheBytes);

// Later releases have other defaults; whatever files or memory depend on is set here.
rocksdb::BlockBasedTableOptions TableOptions() {
  rocksdb::BlockBasedTableOptions table;
  table.format_version = 5;
  table.checksum = rocksdb::kXXH3;
  // 4-KiB partitions of index and filter go through the cache, so memory stays bounded however
  // large the store grows. Measured on 192,000 pages of 1.1 KiB: 4.1 bytes read per byte of page,
  // as with all indexes resident; 24 with one index per file in this cache, 6.9 with partitions
  // but reads that do not fill the cache.
  table.block_cache = rocksdb::NewLRUCache(kBlockCacheBytes, /*num_shard_bits=*/4);
  table.index_type = rocksdb::BlockBasedTableOptions::kTwoLevelIndexSearch;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  table.partition_filters = true;
  table.cache_index_and_filter_blocks = true;
  table.cache_index_and_filter_blocks_with_high_priority = true;
  return table;
}

// RocksDB's own log file is left out: once the disk was full, its next line in it aborts a build
// with assertions, such as the distribution's. What matters comes back as a status.
class NoLog final : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;
  void Logv(const char*, va_list) override {}
};

rocksdb::Options StoreOptions() {
  rocksdb::Options options;
  options.create_if_missing = true;
  options.paranoid_checks = true;
  options.use_fsync = true;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(TableOptions()));
  options.compression = rocksdb::kNoCompression;
  options.bottommost_compression = rocksdb::kNoCompression;
  options.enable_blob_files = false;
  options.level_compaction_dynamic_level_bytes = true;
  options.write_buffer_size = kWriteBufferBytes;
  options.max_write_buffer_number = kWriteBuffers;
  options.max_background_jobs = 2;
  options.max_open_files = 256;
  options.skip_stats_update_on_db_open = true;
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  options.info_log = std::make_shared<NoLog>();
  return options;
}

rocksdb::WriteOptions WithoutLog() {
  rocksdb::WriteOptions options;
  options.disableWAL = true;
  return options;
}

StatusCode CodeOf(const rocksdb::Status& s) {
  if (s.IsNotFound()) return StatusCode::kNotFound;
  if (s.IsCorruption()) return StatusCode::kCorruption;
  if (s.IsMemoryLimit()) return StatusCode::kOutOfMemory;
  if (s.IsInvalidArgument()) return StatusCode::kInvalidArgument;
  if (s.IsNotSupported()) return StatusCode::kUnsupported;
  if (s.IsIOError() || s.IsNoSpace() || s.IsBusy() || s.IsTimedOut() || s.IsTryAgain()) {
    return StatusCode::kIoError;
  }
  return StatusCode::kInternal;
}

// The one place where RocksDB's statuses and exceptions become ours. `call` returns
// rocksdb::Status; the message names the folder and the action.
template <typename F>
Status CallRocksDb(const std::string& path, const char* action, F&& call) {
  const std::string prefix = "rocksdb store " + path + ": " + action + ": ";
  try {
    const rocksdb::Status s = call();
    return s.ok() ? Status::Ok() : Status(CodeOf(s), prefix + s.ToString());
  } catch (const std::bad_alloc&) {
    return Status::OutOfMemory(prefix + "no memory");
  } catch (const std::exception& e) {
    return Status::Internal(prefix + e.what());
  }
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
