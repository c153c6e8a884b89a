#pragma once

// Pages in a RocksDB folder on disk. Arguments: path=DIR, made if missing.
//
// Pages are whole values in SST files with XXH3 block checksums, uncompressed, under the keys of
// key_format.md. There is no write-ahead log: pages wait in memory until there are kWaitingBytes of
// them or Sync is called, and then become files, which are synced and part of the store in one
// step. When that fails they wait on. Every page is verified on every read from a file. What waits
// when the store is closed is lost.
//
// Memory: kRocksDbBufferBytes at most for write buffers, about 8 bytes a page for the indexes of
// open files (at most half of the files that the process may have open), and the batches in flight.
// It is not under any memory limit, and not in resident_bytes. One process at a time holds the
// folder.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pqcache/base/spec_string.h"
#include "pqcache/cache/page_store.h"

namespace rocksdb {
class Env;
}

namespace pqcache::storage {

// Of pages that are written together, unless Sync comes first.
inline constexpr uint64_t kWaitingBytes = 32 << 20;

// Pages that wait, those being written, and RocksDB's own buffers.
inline constexpr uint64_t kRocksDbBufferBytes = 2 * kWaitingBytes + (8 << 20);

class RocksDbPageStore final : public PageStore {
 public:
  // Also the name of its tier in PageStoreStats.
  static constexpr std::string_view kName = "rocksdb";

  // Errors as PrepareStoreFolder's, or if it is not to be made, NotFound; IoError naming the
  // process if another one holds the folder; Corruption if the files in it are damaged beyond
  // opening.
  static Result<std::unique_ptr<PageStore>> Open(const SpecString& spec, bool make_if_missing);
  // path=DIR of the arguments.
  static Result<std::string> FolderOf(const SpecString& spec);
  // Makes it if missing. `env` is borrowed: RocksDB's files go through it. nullptr: the system's.
  static Result<std::unique_ptr<RocksDbPageStore>> Open(const std::string& path, rocksdb::Env* env,
                                                        uint64_t waiting_bytes = kWaitingBytes);

  ~RocksDbPageStore() override;

  Status Put(std::span<const PageWrite> pages) override;
  void Read(std::span<PageRead> pages) override;
  // Durable when it returns OK, without a Sync.
  Status RemoveContext(const ContextId& context) override;
  Status RemoveUnreferenced() override;
  // IoError while the disk is full; the next call tries again. Put and the writing of records fail
  // as well until then; reads go on.
  Status Sync() override;
  PageStoreStats stats() const override;
  Result<bool> PutRecord(const RecordKey& key, std::string_view value) override;
  Result<bool> ReplaceRecord(const RecordKey& key, std::string_view expected,
                             std::string_view value) override;
  Result<std::string> GetRecord(const RecordKey& key) override;
  Result<std::vector<Record>> ListRecords(const Fingerprint& tenant) override;
  Status RemoveRecord(const RecordKey& key) override;
  // This store has no budget: always OK.
  Status ReserveMemory(const void*, uint64_t) override { return Status::Ok(); }

 private:
  struct Impl;
  explicit RocksDbPageStore(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace pqcache::storage
