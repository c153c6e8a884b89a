#pragma once

// How long RocksDB's list of files (MANIFEST) was when it was last synced. RocksDB reads a list that
// lost its end as an older one, without what was stored since; the mark, a file of its own, tells
// the two apart.

#include <cstdint>
#include <string>
#include <string_view>

#include "pqcache/base/status.h"

namespace pqcache::storage {

// Before the folder is opened. Corruption if its list of files is the marked one and shorter than
// that. A mark that is missing or damaged says nothing.
Status CheckManifestMark(const std::string& path);

// Durable when it returns OK. `manifest` is the list's file name, of which `bytes` are synced.
Status WriteManifestMark(const std::string& path, std::string_view manifest, uint64_t bytes);

}  // namespace pqcache::storage
