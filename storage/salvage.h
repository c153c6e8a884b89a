#pragma once

// What can be read of a RocksDB folder, copied into a new one. The old folder is not changed, and
// its list of files is not needed.

#include <cstdint>
#include <string>
#include <vector>

#include "pqcache/base/file_damage.h"
#include "pqcache/base/status.h"
#include "pqcache/cache/manifest.h"

namespace pqcache::storage {

struct Salvage {
  int64_t pages = 0;                      // copied
  std::vector<ContextManifest> contexts;  // of all tenants; pages may be missing
  // Names of contexts whose token ids cannot be read, without which nothing can be computed again.
  // Removals are not seen where the file of the record is still there: a removed context is mostly
  // listed here, its pages being gone, and comes back if they are not.
  std::vector<std::string> lost;
  std::vector<FileDamage> damaged;  // files, blocks and manifests that could not be read
  bool records_damaged = false;     // among them are records: there may have been more contexts
};

// Every page is verified. Of several records of one name that counts which was created last and
// whose token ids are there. Needs as much room again as the pages take; a copy that is broken off
// has no contexts yet. Errors: InvalidArgument if there are no tables at `from` or `to` is a store
// already; Unsupported if `from` is of another version; IoError if a process holds `from`, or a
// file cannot be read for a reason that may pass; those of the new store.
Result<Salvage> SalvageStoreFolder(const std::string& from, const std::string& to);

}  // namespace pqcache::storage
