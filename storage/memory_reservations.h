#pragma once

// Bytes that the users of a store hold outside of it, by owner. Not thread-safe: the store's lock
// guards it.

#include <cstdint>
#include <map>

namespace pqcache::storage {

class MemoryReservations {
 public:
  uint64_t total() const { return total_; }

  // The total if `owner` held `bytes` instead of what it holds now.
  uint64_t TotalWith(const void* owner, uint64_t bytes) const {
    const auto it = by_owner_.find(owner);
    const uint64_t others = total_ - (it == by_owner_.end() ? 0 : it->second);
    return bytes > UINT64_MAX - others ? UINT64_MAX : others + bytes;
  }

  void Set(const void* owner, uint64_t bytes) {
    total_ = TotalWith(owner, bytes);
    if (bytes == 0) {
      by_owner_.erase(owner);
    } else {
      by_owner_[owner] = bytes;
    }
  }

 private:
  std::map<const void*, uint64_t> by_owner_;
  uint64_t total_ = 0;
};

}  // namespace pqcache::storage
