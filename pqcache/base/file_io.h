#pragma once

// Whole files in, whole files out. Errors name the path and the operating system's reason.

#include <cstdint>
#include <string>
#include <string_view>

#include "pqcache/base/status.h"

namespace pqcache {

// Bytes of a regular file. Refuses files above `max_bytes` before reading them.
Result<std::string> ReadFile(const std::string& path, uint64_t max_bytes);

// Replaces `path` as a whole: temporary file beside it, fsync, rename, fsync of the folder. A crash
// leaves either the old file or the new one.
Status WriteFileAtomically(const std::string& path, std::string_view bytes);

}  // namespace pqcache
