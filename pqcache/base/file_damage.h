#pragma once

// A damaged part of a file, for functions that describe what is left of damaged files.

#include <cstdint>
#include <optional>
#include <string>

namespace pqcache {

struct FileDamage {
  std::string part;                // "block of layer 3 head 1"
  std::string file;                // its name in the folder; empty when a single file is described
  std::optional<uint64_t> offset;  // of the part's first byte in the file, where it is known
  std::string what;                // what was found, then what was expected
};

}  // namespace pqcache
