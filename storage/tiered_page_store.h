#pragma once

// A memory tier in front of another store: a cache of pages, with write-back and reading ahead.
//
// Held at every moment: capacity_bytes() of the cached pages + reserved bytes <= limit. A page that
// is being read or still has to be written below is pinned: it stays and counts. A page that finds
// no room because all others are pinned is handed to its reader without being kept.
//
// Put returns when the pages are in memory; a thread writes them below in the order of the puts. If
// that fails, the next Put or Sync returns the failure, and those pages are as if never put. What
// does not fit into half of the budget is written below before Put returns.
// Pages enter the cache when they are put, when a read found them below, and by Prefetch.

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "pqcache/base/task_queue.h"
#include "pqcache/cache/page_store.h"
#include "storage/clock_cache.h"
#include "storage/memory_reservations.h"

namespace pqcache::storage {

class TieredPageStore final : public PageStore {
 public:
  // `limit` in bytes, or kNoMemoryLimit.
  TieredPageStore(uint64_t limit, std::unique_ptr<PageStore> below);
  // Writes what was put.
  ~TieredPageStore() override;

  Status Put(std::span<const PageWrite> pages) override;
  // One batch for all pages that are not in the cache; the store below verifies them.
  void Read(std::span<PageRead> pages) override;
  // In the background; gives way when newer hints come, and does nothing when the pages would take
  // more than half of the cache.
  void Prefetch(std::span<const PageKey> pages) override;
  Status RemoveContext(const ContextId& context) override;
  Status RemoveUnreferenced() override { return below_->RemoveUnreferenced(); }
  Status Sync() override;
  // Those of the store below, with this tier's bytes added; resident_bytes is the cache.
  PageStoreStats stats() const override;
  Result<bool> PutRecord(const RecordKey& key, std::string_view value) override {
    return below_->PutRecord(key, value);
  }
  Result<bool> ReplaceRecord(const RecordKey& key, std::string_view expected,
                             std::string_view value) override {
    return below_->ReplaceRecord(key, expected, value);
  }
  Result<std::string> GetRecord(const RecordKey& key) override { return below_->GetRecord(key); }
  Result<std::vector<Record>> ListRecords(const Fingerprint& tenant) override {
    return below_->ListRecords(tenant);
  }
  Status RemoveRecord(const RecordKey& key) override { return below_->RemoveRecord(key); }
  // Evicts at once what no longer fits. OutOfMemory, with the former reservation kept, if what all
  // owners declared exceeds the limit, or pinned pages stand in the way.
  Status ReserveMemory(const void* owner, uint64_t bytes) override;

 private:
  // One counter per group of keys, raised by every write: a page read below enters the cache only
  // if no write to its group came between, so that an older page never hides a newer one.
  static constexpr size_t kGroups = 1024;
  static size_t GroupOf(const PageKey& key) { return PageKeyHash()(key) % kGroups; }

  std::vector<size_t> ReadCached(std::span<PageRead> pages, std::vector<uint64_t>* versions);
  void ReadBelow(std::span<PageRead> pages, std::span<const uint64_t> versions);
  bool Keep(std::span<const PageWrite> pages, uint64_t bytes);
  void WriteBelow(const std::vector<PageWrite>& pages, uint64_t bytes);
  Status WriteThrough(std::span<const PageWrite> pages);
  void ReadAhead(std::vector<PageKey> keys, uint64_t hint);
  Status TakeFailure();
  void NotePeak();

  const uint64_t limit_;
  const std::unique_ptr<PageStore> below_;
  std::mutex write_mutex_;    // held by Put and RemoveContext, so that both tiers see one order
  mutable std::mutex mutex_;  // guards everything down to bytes_read_; never held during I/O
  std::condition_variable written_;
  MemoryReservations reserved_;
  ClockCache cache_;
  std::array<uint64_t, kGroups> versions_{};
  uint64_t unwritten_bytes_ = 0;
  Status failed_;  // of a write below that nobody was told of
  uint64_t peak_ = 0;
  uint64_t prefetched_ = 0;
  uint64_t bytes_read_ = 0;
  std::atomic<uint64_t> hints_{0};
  TaskQueue reader_, writer_;  // last: they use the rest
};

}  // namespace pqcache::storage
