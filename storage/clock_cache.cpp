#include "storage/clock_cache.h"

#include <utility>

namespace pqcache::storage {

PageRef ClockCache::Find(const PageKey& key) {
  const auto found = slots_.find(key);
  if (found == slots_.end()) return nullptr;
  found->second->used = true;
  return found->second->page;
}

void ClockCache::Insert(const PageKey& key, PageRef page) {
  Erase(key);
  const uint64_t bytes = page->capacity_bytes();
  if (bytes > budget_) return;
  EvictDownTo(budget_ - bytes);
  slots_[key] = ring_.insert(hand_, Slot{.key = key, .page = std::move(page)});
  resident_ += bytes;
}

void ClockCache::Erase(const PageKey& key) {
  const auto found = slots_.find(key);
  if (found != slots_.end()) Drop(found->second);
}

void ClockCache::EraseContext(const ContextId& context) {
  for (auto slot = ring_.begin(); slot != ring_.end();) {
    slot = slot->key.context == context ? Drop(slot) : std::next(slot);
  }
}

void ClockCache::SetBudget(uint64_t bytes) {
  budget_ = bytes;
  EvictDownTo(bytes);
}

void ClockCache::EvictDownTo(uint64_t bytes) {
  while (resident_ > bytes) {
    if (hand_ == ring_.end()) hand_ = ring_.begin();
    if (hand_->used) {
      hand_->used = false;
      ++hand_;
    } else {
      Drop(hand_);
    }
  }
}

ClockCache::Ring::iterator ClockCache::Drop(Ring::iterator slot) {
  resident_ -= slot->page->capacity_bytes();
  slots_.erase(slot->key);
  if (slot == hand_) ++hand_;
  return ring_.erase(slot);
}

}  // namespace pqcache::storage
