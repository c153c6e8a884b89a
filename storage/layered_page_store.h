#pragma once

// A durable store as a near copy of another one: a local disk in front of a cluster. Pages are put
// into both, read from the near one, and fetched from the far one, which heals the near copy, when
// they are not there or damaged there. The far store alone says which contexts exist.
//
// A near store that fails to write does not fail a Put: it is a copy. Thread-safe as its stores.

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "pqcache/cache/page_store.h"

namespace pqcache::storage {

class LayeredPageStore final : public PageStore {
 public:
  LayeredPageStore(std::unique_ptr<PageStore> near, std::unique_ptr<PageStore> far);
  // Syncs the near copy: what was fetched is there the next time.
  ~LayeredPageStore() override;

  Status Put(std::span<const PageWrite> pages) override;
  void Read(std::span<PageRead> pages) override;
  Status RemoveContext(const ContextId& context) override;
  Status Sync() override;
  // Bytes by both stores' tiers. A page counts as missing or unreachable as the far store says;
  // damage counts in both.
  PageStoreStats stats() const override;
  Result<bool> PutRecord(const RecordKey& key, std::string_view value) override {
    return far_->PutRecord(key, value);
  }
  Result<bool> ReplaceRecord(const RecordKey& key, std::string_view expected,
                             std::string_view value) override {
    return far_->ReplaceRecord(key, expected, value);
  }
  Result<std::string> GetRecord(const RecordKey& key) override { return far_->GetRecord(key); }
  Result<std::vector<Record>> ListRecords(const Fingerprint& tenant) override {
    return far_->ListRecords(tenant);
  }
  Status RemoveRecord(const RecordKey& key) override { return far_->RemoveRecord(key); }
  Status ReserveMemory(const void*, uint64_t) override { return Status::Ok(); }

 private:
  void PutNear(std::span<const PageWrite> pages);
  void SyncNear();

  const std::unique_ptr<PageStore> near_, far_;
  std::atomic<bool> near_failed_{false};  // said once
};

}  // namespace pqcache::storage
