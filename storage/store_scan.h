#pragma once

// All pages of a RocksDB folder read and checked, also of a damaged one, without changing a byte of
// it.

#include <cstdint>
#include <string>
#include <vector>

#include "pqcache/base/file_damage.h"
#include "pqcache/base/status.h"
#include "pqcache/cache/manifest.h"
#include "pqcache/cache/page_store.h"

namespace pqcache::storage {

// What the undamaged pages of one context add up to.
struct StoredContext {
  ContextId id;
  int64_t pages = 0;
  uint64_t bytes = 0;
  int64_t tokens = 0;  // behind the newest row of any page
  int layers = 0;      // that have pages
  int heads = 0;       // KV heads that have pages
};

struct StoreScan {
  int64_t pages = 0;  // undamaged
  uint64_t bytes = 0;
  std::vector<StoredContext> contexts;     // in the order of their keys
  std::vector<ContextManifest> manifests;  // by tenant and name; of the damaged ones the name only
  int64_t damaged_pages = 0;               // those that could be named
  // Pages, files that cannot be opened, and blocks whose pages could not be named. Keys inside a
  // damaged block are known from the file's Bloom filter, so one name in a hundred may be of a page
  // that never was. Without an offset, a page was damaged before it was stored.
  std::vector<FileDamage> damaged;
};

// Reads on behind damaged blocks and files. An older copy of a damaged page does not count; behind
// a file that cannot be opened, older copies of its pages do. Errors: NotFound without a marker
// (store_folder.h); Unsupported for another version; IoError when a process holds the folder, since
// its files change.
Result<StoreScan> ScanStoreFolder(const std::string& path);

}  // namespace pqcache::storage
