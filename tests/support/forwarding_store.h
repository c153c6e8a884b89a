#pragma once

// A memory store to derive from: tests override what they want to see or to spoil.

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "storage/memory_page_store.h"

namespace pqcache::testing {

class ForwardingStore : public PageStore {
 public:
  Status Put(std::span<const PageWrite> pages) override { return pages_.Put(pages); }
  void Read(std::span<PageRead> pages) override { pages_.Read(pages); }
  Status RemoveContext(const ContextId& context) override { return pages_.RemoveContext(context); }
  Status Sync() override { return pages_.Sync(); }
  PageStoreStats stats() const override { return pages_.stats(); }
  Result<bool> PutRecord(const RecordKey& key, std::string_view value) override {
    return pages_.PutRecord(key, value);
  }
  Result<bool> ReplaceRecord(const RecordKey& key, std::string_view expected,
                             std::string_view value) override {
    return pages_.ReplaceRecord(key, expected, value);
  }
  Result<std::string> GetRecord(const RecordKey& key) override { return pages_.GetRecord(key); }
  Result<std::vector<Record>> ListRecords(const Fingerprint& tenant) override {
    return pages_.ListRecords(tenant);
  }
  Status RemoveRecord(const RecordKey& key) override { return pages_.RemoveRecord(key); }
  Status ReserveMemory(const void*, uint64_t) override { return Status::Ok(); }

 private:
  storage::MemoryPageStore pages_{storage::kNoMemoryLimit};
};

}  // namespace pqcache::testing
