#include "storage/rocksdb_call.h"

#include <rocksdb/env.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>
#include <rocksdb/version.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdarg>
#include <exception>
#include <new>

#include "storage/rocksdb_page_store.h"

namespace pqcache::storage {
namespace {

// Of records and of marks for removed ranges, of each of two families.
constexpr size_t kWriteBufferBytes = 2 << 20;
constexpr int kWriteBuffers = 2;
constexpr int kMinOpenFiles = 64, kMaxOpenFiles = 1 << 16;
static_assert(kRocksDbBufferBytes == 2 * kWaitingBytes + 2 * kWriteBuffers * kWriteBufferBytes);

// Later releases have other defaults; whatever files or memory depend on is set here.
rocksdb::BlockBasedTableOptions TableOptions() {
  rocksdb::BlockBasedTableOptions table;
  table.format_version = 5;
  table.checksum = rocksdb::kXXH3;
  // No cache: pages are cached by the memory tier, and filling a cache with blocks that are not
  // read again costs a third of the time of a warm read. Indexes stay with their open files
  // instead; with keys that differ only at their ends they take 7 bytes a page.
  table.no_block_cache = true;
  table.index_type = rocksdb::BlockBasedTableOptions::kBinarySearch;
  table.index_block_restart_interval = 16;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  return table;
}

// RocksDB's own log file is left out: once the disk was full, its next line in it aborts a build
// with assertions, such as the distribution's. What matters comes back as a status.
class NoLog final : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;
  void Logv(const char*, va_list) override {}
};

// A file that is opened anew for every read is several times slower. The process needs others too.
int MaxOpenFiles() {
  struct rlimit limit;
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return kMinOpenFiles;
  return static_cast<int>(std::clamp<rlim_t>(limit.rlim_cur / 2, kMinOpenFiles, kMaxOpenFiles));
}

StatusCode CodeOf(const rocksdb::Status& s) {
  if (s.IsNotFound()) return StatusCode::kNotFound;
  if (s.IsCorruption()) return StatusCode::kCorruption;
  if (s.IsMemoryLimit()) return StatusCode::kOutOfMemory;
  if (s.IsInvalidArgument()) {
    // So is what the system says when it does not let CURRENT be opened.
    const bool refused = s.ToString().find(": IO error: ") != std::string::npos;
    return refused ? StatusCode::kIoError : StatusCode::kInvalidArgument;
  }
  if (s.IsNotSupported()) return StatusCode::kUnsupported;
  if (s.IsIOError() || s.IsNoSpace() || s.IsBusy() || s.IsTimedOut() || s.IsTryAgain()) {
    return StatusCode::kIoError;
  }
  return StatusCode::kInternal;
}

}  // namespace

rocksdb::Options StoreOptions() {
  rocksdb::Options options;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.paranoid_checks = true;
  options.use_fsync = true;
  // What is not synced may go, and a record whose writing failed must not become durable at last.
  options.avoid_flush_during_shutdown = true;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(TableOptions()));
  options.compression = rocksdb::kNoCompression;
  options.bottommost_compression = rocksdb::kNoCompression;
  options.enable_blob_files = false;
  options.level_compaction_dynamic_level_bytes = true;
  options.write_buffer_size = kWriteBufferBytes;
  options.max_write_buffer_number = kWriteBuffers;
  options.max_background_jobs = 2;
  options.max_open_files = MaxOpenFiles();
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

std::string RocksDbVersion() { return rocksdb::GetRocksVersionAsString(); }

Status CallRocksDb(const std::string& path, const char* action,
                   const std::function<rocksdb::Status()>& call) {
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

}  // namespace pqcache::storage
