#pragma once

// What the cache asks of storage: immutable pages by identity, and small records that say which
// contexts are complete.
//
// Contract of every store:
// - A page read back is the page that was put under that key: identity and checksum are verified
//   (VerifyPage in page_codec.h) whenever bytes cross from outside the process's memory. A page
//   that is missing, damaged or another's gives a non-OK status in its PageRead, never data.
// - A page put is readable at once by the same store object. It survives a crash only if it was
//   put before a Sync that returned OK. A store may write pages behind the caller's back; then a
//   failure is the answer of the next Put or Sync, and the pages it hit may be as if
//   never put.
// - A record is visible and durable when PutRecord or ReplaceRecord returns true; after a crash
//   it is there whole or as it was before. An error of theirs can leave open whether it was written
//   (a reply can get lost); GetRecord tells.
// - All functions may be called from many threads.

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

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

// What the rows of a page are. The numbers are part of stored keys; do not renumber.
enum class PageKind : uint8_t {
  kRows = 0,       // exact keys and values (or values alone) of tokens
  kCodes = 1,      // codes of tokens
  kValueSums = 2,  // sums of the values of blocks of tokens
  kTokens = 3,     // token ids; head is 0, layer the number of the copy
};

struct PageKey {
  ContextId context;
  int32_t layer = 0;
  int32_t head = 0;  // KV head
  int64_t page = 0;  // rows [page * page_tokens, (page + 1) * page_tokens)
  PageKind kind = PageKind::kRows;
  bool operator==(const PageKey&) const = default;
};

// The pages below `end` that no owner before this one has: contexts that begin alike share pages.
struct PageOwner {
  int64_t end = 0;
  ContextId context;
  bool operator==(const PageOwner&) const = default;
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

// A small value by name, at most kMaxRecordBytes. A tenant sees only its own.
struct RecordKey {
  Fingerprint tenant;
  std::string name;  // not empty
  bool operator==(const RecordKey&) const = default;
};
struct Record {
  RecordKey key;
  std::string value;
};
inline constexpr uint64_t kMaxRecordBytes = uint64_t{64} << 20;

// Since the store was opened. `bytes_read` is by tier name ("memory", "rocksdb", "resp").
struct PageStoreStats {
  std::map<std::string, uint64_t> bytes_read;
  uint64_t resident_bytes = 0;       // pages held in this process's memory now
  uint64_t peak_resident_bytes = 0;  // the most that pages and reservations took together
  // Pages asked for and not served: damaged or another's; not there; not reachable.
  uint64_t damaged_pages = 0;
  uint64_t missing_pages = 0;
  uint64_t unreachable_pages = 0;
  uint64_t prefetched_pages = 0;  // read ahead of their use
};

class PageStore {
 public:
  virtual ~PageStore() = default;

  // All or nothing for the batch. Putting a key again replaces its page.
  virtual Status Put(std::span<const PageWrite> pages) = 0;
  // Fills `page` and `status` of every element.
  virtual void Read(std::span<PageRead> pages) = 0;
  // True: pages stay in this process's memory until their context is removed, so that whoever holds
  // a PageRef of one takes no memory by it.
  virtual bool keeps_pages_in_memory() const { return false; }
  // The caller will probably read these pages soon. Never an error, may do nothing.
  virtual void Prefetch(std::span<const PageKey>) {}
  // Forgets every page of the context and gives their space back.
  virtual Status RemoveContext(const ContextId& context) = 0;
  // Gives back the space of pages that no manifest refers to: of runs that were killed, of saves
  // that failed. To be called before anything is put. Does nothing where other processes may be
  // using the store, or when a manifest cannot be read.
  virtual Status RemoveUnreferenced() { return Status::Ok(); }
  // After OK, everything put before survives power loss (durable stores; no-op for memory).
  virtual Status Sync() = 0;
  virtual PageStoreStats stats() const = 0;

  // True if the record was written; false, and nothing changed, if the name is taken: of several
  // writers one wins. What the record speaks of must be synced before.
  virtual Result<bool> PutRecord(const RecordKey& key, std::string_view value) = 0;
  // True if the record was `expected` and is `value` now; false, and nothing changed, if it was
  // not.
  virtual Result<bool> ReplaceRecord(const RecordKey& key, std::string_view expected,
                                     std::string_view value) = 0;
  // NotFound without such a record. The bytes are as stored: their own format protects them.
  virtual Result<std::string> GetRecord(const RecordKey& key) = 0;
  // All records of a tenant, by name.
  virtual Result<std::vector<Record>> ListRecords(const Fingerprint& tenant) = 0;
  // Durable when it returns OK; also if there was none.
  virtual Status RemoveRecord(const RecordKey& key) = 0;

  // Tells a store with a memory budget that `owner` (an address that names it, never followed)
  // holds `bytes` of keys and values outside the store; they count against the same budget.
  // Replaces what this owner declared before; 0 gives it back. OutOfMemory, and nothing changed, if
  // the budget cannot hold what all owners declared.
  virtual Status ReserveMemory(const void* owner, uint64_t bytes) = 0;
};

}  // namespace pqcache
