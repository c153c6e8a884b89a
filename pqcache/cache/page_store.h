#pragma once

// What the cache asks of storage: immutable pages of exact keys and values, by identity.
//
// Contract of every store:
// - A page read back is the page that was put under that key: identity and checksum are verified
//   (VerifyPage in page_codec.h) whenever bytes cross from outside the process's memory. A page
//   that is missing, damaged or another's gives a non-OK status in its PageRead, never data.
// - A page put is readable at once by the same store object. It survives a crash only if it was
//   put before a Sync that returned OK.
// - All functions may be called from many threads.

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "pqcache/base/aligned_buffer.h"
#include "pqcache/base/checksum.h"
#include "pqcache/base/status.h"

namespace pqcache {

// Whose page it is: tenant (salt), model and context. All three are part of the stored key and of
// the page header.
struct ContextId {
  Fingerprint tenant;
  Fingerprint model;
  Fingerprint context;
  bool operator==(const ContextId&) const = default;
};

struct PageKey {
  ContextId context;
  int32_t layer = 0;
  int32_t head = 0;  // KV head
  int64_t page = 0;  // tokens [page * page_tokens, (page + 1) * page_tokens)
  bool operator==(const PageKey&) const = default;
};

// Header and body as in page_format.md; shared and immutable.
using PageBytes = AlignedBuffer<uint8_t>;
using PageRef = std::shared_ptr<const PageBytes>;

struct PageWrite {
  PageKey key;
  PageRef page;
};

struct PageRead {
  PageKey key;
  PageRef page;   // set when status is OK
  Status status;  // one outcome per page
};

// Bytes since the store was opened, by tier name ("memory", "rocksdb").
struct PageStoreStats {
  std::map<std::string, uint64_t> bytes_read;
  uint64_t resident_bytes = 0;  // pages held in this process's memory now
  uint64_t damaged_pages = 0;
  uint64_t missing_pages = 0;
};

class PageStore {
 public:
  virtual ~PageStore() = default;

  // All or nothing for the batch. Putting a key again replaces its page.
  virtual Status Put(std::span<const PageWrite> pages) = 0;
  // Fills `page` and `status` of every element.
  virtual void Read(std::span<PageRead> pages) = 0;
  // Forgets every page of the context and gives their space back.
  virtual Status RemoveContext(const ContextId& context) = 0;
  // After OK, everything put before survives power loss (durable stores; no-op for memory).
  virtual Status Sync() = 0;
  virtual PageStoreStats stats() const = 0;

  // Tells a store with a memory budget that `owner` (an address that names it, never followed)
  // holds `bytes` of keys and values outside the store; they count against the same budget.
  // Replaces what this owner declared before; 0 gives it back. OutOfMemory, and nothing changed, if
  // the budget cannot hold what all owners declared.
  virtual Status ReserveMemory(const void* owner, uint64_t bytes) = 0;
};

}  // namespace pqcache
