#include "storage/layered_page_store.h"

#include <utility>

#include "pqcache/base/log.h"

namespace pqcache::storage {

LayeredPageStore::LayeredPageStore(std::unique_ptr<PageStore> near, std::unique_ptr<PageStore> far)
    : near_(std::move(near)), far_(std::move(far)) {}

LayeredPageStore::~LayeredPageStore() { SyncNear(); }

Status LayeredPageStore::Put(std::span<const PageWrite> pages) {
  PQCACHE_RETURN_IF_ERROR(far_->Put(pages));
  PutNear(pages);
  return Status::Ok();
}

void LayeredPageStore::PutNear(std::span<const PageWrite> pages) {
  const Status status = near_->Put(pages);
  if (!status.ok() && !near_failed_.exchange(true)) {
    Log(LogLevel::kWarning, "the near copy of the pages is incomplete: " + status.message());
  }
}

void LayeredPageStore::Read(std::span<PageRead> pages) {
  near_->Read(pages);
  std::vector<PageRead> found;
  std::vector<size_t> places;
  for (size_t i = 0; i < pages.size(); ++i) {
    if (pages[i].status.ok()) continue;
    found.push_back({pages[i].key, nullptr, Status::Ok()});
    places.push_back(i);
  }
  if (found.empty()) return;
  far_->Read(found);
  std::vector<PageWrite> copies;
  for (size_t i = 0; i < found.size(); ++i) {
    if (found[i].status.ok()) copies.push_back({found[i].key, found[i].page});
    pages[places[i]] = std::move(found[i]);
  }
  if (!copies.empty()) PutNear(copies);
}

Status LayeredPageStore::RemoveContext(const ContextId& context) {
  const Status near = near_->RemoveContext(context);
  PQCACHE_RETURN_IF_ERROR(far_->RemoveContext(context));
  return near;
}

Status LayeredPageStore::Sync() {
  SyncNear();
  return far_->Sync();
}

void LayeredPageStore::SyncNear() {
  const Status near = near_->Sync();
  if (!near.ok()) Log(LogLevel::kWarning, "the near copy is not synced: " + near.message());
}

PageStoreStats LayeredPageStore::stats() const {
  PageStoreStats stats = far_->stats();
  const PageStoreStats near = near_->stats();
  for (const auto& [tier, bytes] : near.bytes_read) stats.bytes_read[tier] += bytes;
  stats.damaged_pages += near.damaged_pages;
  stats.resident_bytes += near.resident_bytes;
  return stats;
}

}  // namespace pqcache::storage
