#pragma once

// Pages in host memory, gone with the process. Arguments: limit=BYTES (none: unlimited).
//
// Held at every moment: capacity_bytes() of all resident pages + reserved bytes <= limit. A Put
// beyond it is OutOfMemory and changes nothing: this store never forgets a page on its own.
// Reads share the pages that were put; nothing is copied.

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "pqcache/base/spec_string.h"
#include "pqcache/cache/page_store.h"
#include "storage/memory_reservations.h"
#include "storage/page_key_codec.h"

namespace pqcache::storage {

inline constexpr uint64_t kNoMemoryLimit = std::numeric_limits<uint64_t>::max();

// The "limit" of a memory tier's arguments, at least 1; kNoMemoryLimit when absent.
Result<uint64_t> ParseMemoryLimit(const SpecString& spec);

class MemoryPageStore final : public PageStore {
 public:
  // Also the name of its tier in PageStoreStats.
  static constexpr std::string_view kName = "memory";

  static Result<std::unique_ptr<PageStore>> Open(const SpecString& spec);

  explicit MemoryPageStore(uint64_t limit) : limit_(limit) {}

  bool keeps_pages_in_memory() const override { return true; }
  Status Put(std::span<const PageWrite> pages) override;
  void Read(std::span<PageRead> pages) override;
  Status RemoveContext(const ContextId& context) override;
  Status Sync() override { return Status::Ok(); }
  PageStoreStats stats() const override;
  Result<bool> PutRecord(const RecordKey& key, std::string_view value) override;
  Result<bool> ReplaceRecord(const RecordKey& key, std::string_view expected,
                             std::string_view value) override;
  Result<std::string> GetRecord(const RecordKey& key) override;
  Result<std::vector<Record>> ListRecords(const Fingerprint& tenant) override;
  Status RemoveRecord(const RecordKey& key) override;
  // OutOfMemory, with the former reservation kept, if resident pages and `bytes` exceed the limit.
  Status ReserveMemory(const void* owner, uint64_t bytes) override;

 private:
  const uint64_t limit_;
  mutable std::mutex mutex_;  // guards everything below
  std::unordered_map<PageKey, PageRef, PageKeyHash> pages_;
  std::map<std::string, std::string> records_;  // by EncodeRecordKey; not under the limit
  uint64_t resident_ = 0;
  uint64_t peak_ = 0;
  MemoryReservations reserved_;
  uint64_t bytes_read_ = 0;
  uint64_t missing_ = 0;
};

}  // namespace pqcache::storage
