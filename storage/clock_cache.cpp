#include "storage/clock_cache.h"

#include <utility>

namespace pqcache::storage {

PageRef ClockCache::Find(const PageKey& key) {
  const auto found = slots_.find(key);
  if (found == slots_.end()) return nullptr;
  found->second->used = true;
  return found->second->page;
}

bool ClockCache::Insert(const PageKey& key, PageRef page) {
  Erase(key);
  const uint64_t bytes = page->capacity_bytes();
  if (bytes > budget_ || !EvictDownTo(budget_ - bytes)) return false;
  slots_[key] = ring_.insert(hand_, Slot{.key = key, .page = std::move(page)});
  resident_ += bytes;
  return true;
}

void ClockCache::EraseIfSame(const PageKey& key, const PageRef& page) {
  const auto found = slots_.find(key);
  if (found != slots_.end() && found->second->page == page) Drop(found->second);
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

bool ClockCache::SetBudget(uint64_t bytes) {
  if (!EvictDownTo(bytes)) return false;
  budget_ = bytes;
  return true;
}

bool ClockCache::EvictDownTo(uint64_t bytes) {
  // Two rounds of the hand visit every page without its mark; what is left then is pinned.
  for (size_t steps = 2 * ring_.size() + 1; resident_ > bytes; --steps) {
    if (steps == 0) return false;
    if (hand_ == ring_.end()) hand_ = ring_.begin();
    if (hand_->used || hand_->page.use_count() > 1) {
      hand_->used = false;
      ++hand_;
    } else {
      Drop(hand_);
    }
  }
  return true;
}

ClockCache::Ring::iterator ClockCache::Drop(Ring::iterator slot) {
  resident_ -= slot->page->capacity_bytes();
  slots_.erase(slot->key);
  if (slot == hand_) ++hand_;
  return ring_.erase(slot);
}

}  // namespace pqcache::storage
