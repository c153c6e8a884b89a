#pragma once

// A memory tier in front of another store: a write-through cache of pages. Pages live below; losing
// the cache loses nothing.
//
// Held at every moment: capacity_bytes() of the cached pages + reserved bytes <= limit.
// A page that a reader still holds stays alive by its PageRef after the cache has dropped it; such
// bytes are the reader's, who counts them with ReserveMemory. That is also the only form of
// pinning. Pages enter the cache when they are put and when a read found them below.

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "pqcache/cache/page_store.h"
#include "storage/clock_cache.h"
#include "storage/memory_reservations.h"

namespace pqcache::storage {

class TieredPageStore final : public PageStore {
 public:
  // `limit` in bytes, or kNoMemoryLimit.
  TieredPageStore(uint64_t limit, std::unique_ptr<PageStore> below);

  Status Put(std::span<const PageWrite> pages) override;
  // One batch for all pages that are not in the cache; the store below verifies them.
  void Read(std::span<PageRead> pages) override;
  Status RemoveContext(const ContextId& context) override;
  Status Sync() override { return below_->Sync(); }
  // Those of the store below, with this tier's bytes added; resident_bytes is the cache.
  PageStoreStats stats() const override;
  // Evicts at once what no longer fits. OutOfMemory, with the former reservation kept, if what all
  // owners declared exceeds the limit.
  Status ReserveMemory(const void* owner, uint64_t bytes) override;

 private:
  // One counter per group of keys, raised by every write: a page read below enters the cache only
  // if no write to its group came between, so that an older page never hides a newer one.
  static constexpr size_t kGroups = 1024;
  static size_t GroupOf(const PageKey& key) { return PageKeyHash()(key) % kGroups; }

  std::vector<size_t> ReadCached(std::span<PageRead> pages, std::vector<uint64_t>* versions);

  const uint64_t limit_;
  MemoryReservations reserved_;  // guarded by mutex_
  const std::unique_ptr<PageStore> below_;
  std::mutex write_mutex_;    // held over both tiers, so that they see writes in one order
  mutable std::mutex mutex_;  // guards everything below; never held during I/O
  ClockCache cache_;
  std::array<uint64_t, kGroups> versions_{};
  uint64_t bytes_read_ = 0;
};

}  // namespace pqcache::storage
