#pragma once

// The folder of a durable store: made if missing, marked as ours, and refused if it is not.

#include <optional>
#include <string>

#include "pqcache/base/status.h"

namespace pqcache::storage {

// The marker file (key_format.md). Names that begin with it are ours as well.
inline constexpr char kFolderMarker[] = "PQCACHE_STORE";
inline constexpr int kStoreVersion = 3;
// Locked by the process that holds the folder.
inline constexpr char kLockFile[] = "PQCACHE_STORE.lock";

// Makes `path` and its missing parents, durably, and writes the marker into a new or empty folder.
// Errors: IoError if the system refuses; InvalidArgument if `path` is no folder or holds other
// files; Unsupported if the marker is of another version; Corruption if it is unreadable.
// Nothing in a foreign folder is touched.
Status PrepareStoreFolder(const std::string& path);

// Of a folder that has to be there already; touches nothing. Errors: NotFound without a marker;
// Unsupported if it is of another version; Corruption if it is unreadable.
Status CheckStoreFolder(const std::string& path);

// IoError naming the process that holds the folder, if one does.
Status CheckNobodyHolds(const std::string& path);

// Process that holds a POSIX lock on the file, from /proc/locks; nothing if unknown. Opens no
// descriptor of the file, since closing one would drop this process's own locks on it.
std::optional<int> LockHolder(const std::string& file);

}  // namespace pqcache::storage
