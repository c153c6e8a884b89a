#pragma once

// Bytes that a fuzz target changes before it reads them. Kept in arrays without spare room, so that
// reading one byte too many is seen.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "pqcache/base/check.h"

namespace pqcache::testing {

inline std::string_view TextOf(std::span<const uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

inline bool SameBytes(std::span<const uint8_t> a, std::span<const uint8_t> b) {
  return TextOf(a) == TextOf(b);
}

// Over the 4 (8) bytes from `at` on, which must be there.
inline void OverwriteFixed32(size_t at, uint32_t value, std::vector<uint8_t>* bytes) {
  for (size_t i = 0; i < 4; ++i) bytes->at(at + i) = static_cast<uint8_t>(value >> (8 * i));
}
inline void OverwriteFixed64(size_t at, uint64_t value, std::vector<uint8_t>* bytes) {
  for (size_t i = 0; i < 8; ++i) bytes->at(at + i) = static_cast<uint8_t>(value >> (8 * i));
}

// Reads the input as it is, and resealed: with the lengths and checksums that its content asks for.
// `try_bytes` is true for what can be read; that must have been sealed so already.
inline void TryRawAndResealed(std::span<const uint8_t> input,
                              std::vector<uint8_t> (*reseal)(std::span<const uint8_t>),
                              bool (*try_bytes)(std::span<const uint8_t>)) {
  const std::vector<uint8_t> resealed = reseal(input);
  try_bytes(resealed);
  if (try_bytes(input)) PQCACHE_CHECK(SameBytes(input, resealed), "not how it is sealed");
}

}  // namespace pqcache::testing
