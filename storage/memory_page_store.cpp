#include "storage/memory_page_store.h"

#include <algorithm>
#include <string>

#include "pqcache/base/check.h"

namespace pqcache::storage {
namespace {

Status OverLimit(uint64_t pages, uint64_t reserved, uint64_t limit) {
  return Status::OutOfMemory("memory store: needs " + std::to_string(pages) +
                             " bytes of pages and " + std::to_string(reserved) +
                             " reserved, expected at most " + std::to_string(limit) + " in all");
}

}  // namespace

Result<uint64_t> ParseMemoryLimit(const SpecString& spec) {
  static constexpr std::string_view kKnown[] = {"limit"};
  PQCACHE_RETURN_IF_ERROR(spec.CheckKnown(kKnown));
  if (!spec.args.contains("limit")) return kNoMemoryLimit;
  PQCACHE_ASSIGN_OR_RETURN(const int64_t limit, spec.IntOr("limit", 0));
  if (limit < 1) {
    return Status::InvalidArgument(spec.name + ":limit is " + std::to_string(limit) +
                                   ", expected at least 1 byte");
  }
  return static_cast<uint64_t>(limit);
}

Result<std::unique_ptr<PageStore>> MemoryPageStore::Open(const SpecString& spec) {
  PQCACHE_ASSIGN_OR_RETURN(const uint64_t limit, ParseMemoryLimit(spec));
  return std::unique_ptr<PageStore>(std::make_unique<MemoryPageStore>(limit));
}

Status MemoryPageStore::Put(std::span<const PageWrite> pages) {
  std::unordered_map<PageKey, PageRef, PageKeyHash> batch;  // the last page of a key counts
  for (const PageWrite& write : pages) {
    PQCACHE_CHECK(write.page != nullptr, "a page to put is null");
    batch.insert_or_assign(write.key, write.page);
  }
  const std::lock_guard lock(mutex_);
  uint64_t after = resident_;
  for (const auto& [key, page] : batch) {
    after += page->capacity_bytes();
    const auto old = pages_.find(key);
    if (old != pages_.end()) after -= old->second->capacity_bytes();
  }
  if (after > limit_ - reserved_.total()) return OverLimit(after, reserved_.total(), limit_);
  for (auto& [key, page] : batch) pages_.insert_or_assign(key, std::move(page));
  resident_ = after;
  peak_ = std::max(peak_, resident_ + reserved_.total());
  return Status::Ok();
}

void MemoryPageStore::Read(std::span<PageRead> pages) {
  const std::lock_guard lock(mutex_);
  for (PageRead& read : pages) {
    const auto found = pages_.find(read.key);
    if (found == pages_.end()) {
      ++missing_;
      read.page = nullptr;
      read.status = Status::NotFound(DescribePageKey(read.key) + ": not in the memory store");
      continue;
    }
    read.page = found->second;
    read.status = Status::Ok();
    bytes_read_ += read.page->size();
  }
}

Status MemoryPageStore::RemoveContext(const ContextId& context) {
  const std::lock_guard lock(mutex_);
  std::erase_if(pages_, [&](const auto& entry) {
    if (entry.first.context != context) return false;
    resident_ -= entry.second->capacity_bytes();
    return true;
  });
  return Status::Ok();
}

PageStoreStats MemoryPageStore::stats() const {
  const std::lock_guard lock(mutex_);
  PageStoreStats stats;
  stats.bytes_read[std::string(kName)] = bytes_read_;
  stats.resident_bytes = resident_;
  stats.peak_resident_bytes = peak_;
  stats.missing_pages = missing_;
  return stats;
}

Status MemoryPageStore::ReserveMemory(const void* owner, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  const uint64_t total = reserved_.TotalWith(owner, bytes);
  if (total > limit_ - resident_) return OverLimit(resident_, total, limit_);
  reserved_.Set(owner, bytes);
  peak_ = std::max(peak_, resident_ + total);
  return Status::Ok();
}

Result<bool> MemoryPageStore::PutRecord(const RecordKey& key, std::string_view value) {
  PQCACHE_RETURN_IF_ERROR(CheckRecord(key, value));
  const std::lock_guard lock(mutex_);
  return records_.try_emplace(EncodeRecordKey(key), value).second;
}

Result<bool> MemoryPageStore::ReplaceRecord(const RecordKey& key, std::string_view expected,
                                            std::string_view value) {
  PQCACHE_RETURN_IF_ERROR(CheckRecord(key, value));
  const std::lock_guard lock(mutex_);
  const auto found = records_.find(EncodeRecordKey(key));
  if (found == records_.end() || found->second != expected) return false;
  found->second = value;
  return true;
}

Result<std::string> MemoryPageStore::GetRecord(const RecordKey& key) {
  const std::lock_guard lock(mutex_);
  const auto found = records_.find(EncodeRecordKey(key));
  if (found == records_.end()) return Status::NotFound(key.name + ": no such record");
  return found->second;
}

Result<std::vector<Record>> MemoryPageStore::ListRecords(const Fingerprint& tenant) {
  const std::string begin = EncodeRecordKey({tenant, ""});
  std::vector<Record> list;
  const std::lock_guard lock(mutex_);
  for (auto it = records_.lower_bound(begin); it != records_.end() && it->first.starts_with(begin);
       ++it) {
    list.push_back({{tenant, it->first.substr(begin.size())}, it->second});
  }
  return list;
}

Status MemoryPageStore::RemoveRecord(const RecordKey& key) {
  const std::lock_guard lock(mutex_);
  records_.erase(EncodeRecordKey(key));
  return Status::Ok();
}

}  // namespace pqcache::storage
