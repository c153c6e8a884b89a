#pragma once

// What RocksDB's list of files (MANIFEST) held when it was last synced: its length and checksum.
// RocksDB reads a list that lost its end, or whose last lengths are damaged, as an older one,
// without what was stored since; the mark, a file of its own, tells them apart. It may be of an
// earlier sync: lists only grow.

#include <cstdint>
#include <string>
#include <string_view>

#include "pqcache/base/status.h"

namespace pqcache::storage {

// Before the folder is opened. Corruption if its list of files is the marked one and does not begin
// with what was marked. A mark that is missing or damaged says nothing.
Status CheckManifestMark(const std::string& path);

// Durable when it returns OK. `manifest` is the list's file name, of which `bytes` are synced. The
// store goes on without a mark.
Status WriteManifestMark(const std::string& path, std::string_view manifest, uint64_t bytes);

}  // namespace pqcache::storage
