#include "storage/tiered_page_store.h"

#include <string>
#include <utility>

#include "pqcache/base/check.h"
#include "storage/memory_page_store.h"

namespace pqcache::storage {

TieredPageStore::TieredPageStore(uint64_t limit, std::unique_ptr<PageStore> below)
    : limit_(limit), below_(std::move(below)), cache_(limit) {
  PQCACHE_CHECK(below_ != nullptr, "a memory tier needs a store below");
}

Status TieredPageStore::Put(std::span<const PageWrite> pages) {
  const std::lock_guard write_lock(write_mutex_);
  PQCACHE_RETURN_IF_ERROR(below_->Put(pages));
  const std::lock_guard lock(mutex_);
  for (const PageWrite& write : pages) {
    ++versions_[GroupOf(write.key)];
    cache_.Insert(write.key, write.page);
  }
  return Status::Ok();
}

void TieredPageStore::Read(std::span<PageRead> pages) {
  std::vector<uint64_t> versions;
  const std::vector<size_t> missed = ReadCached(pages, &versions);
  if (missed.empty()) return;

  std::vector<PageRead> found(missed.size());
  for (size_t i = 0; i < missed.size(); ++i) found[i].key = pages[missed[i]].key;
  below_->Read(found);

  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < missed.size(); ++i) {
    const PageKey& key = found[i].key;
    if (found[i].status.ok() && versions_[GroupOf(key)] == versions[i]) {
      cache_.Insert(key, found[i].page);
    }
    pages[missed[i]] = std::move(found[i]);
  }
}

// Indices of the pages that are not in the cache, and the versions of their groups.
std::vector<size_t> TieredPageStore::ReadCached(std::span<PageRead> pages,
                                                std::vector<uint64_t>* versions) {
  std::vector<size_t> missed;
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < pages.size(); ++i) {
    pages[i].status = Status::Ok();
    pages[i].page = cache_.Find(pages[i].key);
    if (pages[i].page != nullptr) {
      bytes_read_ += pages[i].page->size();
    } else {
      missed.push_back(i);
      versions->push_back(versions_[GroupOf(pages[i].key)]);
    }
  }
  return missed;
}

Status TieredPageStore::RemoveContext(const ContextId& context) {
  const std::lock_guard write_lock(write_mutex_);
  const Status status = below_->RemoveContext(context);
  // Even after a failure: what is left of the context is below, if anywhere.
  const std::lock_guard lock(mutex_);
  for (uint64_t& version : versions_) ++version;
  cache_.EraseContext(context);
  return status;
}

PageStoreStats TieredPageStore::stats() const {
  PageStoreStats stats = below_->stats();
  const std::lock_guard lock(mutex_);
  stats.bytes_read[std::string(MemoryPageStore::kName)] += bytes_read_;
  stats.resident_bytes = cache_.resident_bytes();
  return stats;
}

Status TieredPageStore::ReserveMemory(const void* owner, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  const uint64_t total = reserved_.TotalWith(owner, bytes);
  if (total > limit_) {
    return Status::OutOfMemory("memory tier: " + std::to_string(total) +
                               " bytes to reserve, expected at most the limit of " +
                               std::to_string(limit_));
  }
  reserved_.Set(owner, bytes);
  cache_.SetBudget(limit_ == kNoMemoryLimit ? kNoMemoryLimit : limit_ - total);
  return Status::Ok();
}

}  // namespace pqcache::storage
