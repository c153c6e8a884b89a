#pragma once

// Pages by key under a byte budget, evicted by second chance (CLOCK; Corbato, 1968): the pages form
// a ring; a hand passes over them, clears the mark of those used since its last visit and drops the
// first one without a mark. A page enters unmarked just behind the hand, so pages that are used
// once leave before pages that are used again.
//
// A page that somebody else holds a PageRef of is pinned: it is not evicted, since that would free
// nothing. A page counts with its buffer's capacity_bytes(); about 150 bytes of bookkeeping a page
// come on top. Not thread-safe; holders may let go of their pages at any time.

#include <cstdint>
#include <list>
#include <unordered_map>

#include "pqcache/cache/page_store.h"
#include "storage/page_key_codec.h"

namespace pqcache::storage {

class ClockCache {
 public:
  explicit ClockCache(uint64_t budget) : budget_(budget), hand_(ring_.end()) {}
  ClockCache(const ClockCache&) = delete;
  ClockCache& operator=(const ClockCache&) = delete;

  // The page, marked as used; null when absent.
  PageRef Find(const PageKey& key);
  bool Contains(const PageKey& key) const { return slots_.contains(key); }
  // Replaces the key's page. Room is made before the page enters; false, and the key absent, if
  // there is none to be had.
  bool Insert(const PageKey& key, PageRef page);
  void Erase(const PageKey& key);
  void EraseContext(const ContextId& context);
  // Erases the key's page if it is this one.
  void EraseIfSame(const PageKey& key, const PageRef& page);
  // Evicts at once what no longer fits. False, and the budget unchanged, if pinned pages stand in
  // the way.
  bool SetBudget(uint64_t bytes);
  uint64_t budget() const { return budget_; }
  size_t pages() const { return slots_.size(); }

  // At most the budget, after every call and inside of each.
  uint64_t resident_bytes() const { return resident_; }

 private:
  struct Slot {
    PageKey key;
    PageRef page;
    bool used = false;
  };
  using Ring = std::list<Slot>;

  bool EvictDownTo(uint64_t bytes);
  Ring::iterator Drop(Ring::iterator slot);

  uint64_t budget_;
  uint64_t resident_ = 0;
  Ring ring_;
  Ring::iterator hand_;  // ring_.end() stands for the beginning
  std::unordered_map<PageKey, Ring::iterator, PageKeyHash> slots_;
};

}  // namespace pqcache::storage
