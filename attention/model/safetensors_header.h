#pragma once

// Private to attention/model: the header of a .safetensors file, that is, 8 bytes of little-endian
// length N, N bytes of JSON, and then the data that the JSON describes. Every rule of the format
// is checked; a broken one is kCorruption.

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "attention/model/checkpoint.h"

namespace pqcache::attention {

inline constexpr uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;

struct SafetensorsHeader {
  std::map<std::string, TensorInfo, std::less<>> tensors;  // offsets from the start of the data
  std::map<std::string, std::string> metadata;
};

// N, from the first bytes of a file of `file_bytes`; `start` has 64 bytes, or the whole of a
// shorter file.
Result<uint64_t> ParseSafetensorsLength(std::string_view start, uint64_t file_bytes);

// `json`: the N bytes; `data_bytes`: the file's size without them and the length.
Result<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json, uint64_t data_bytes);

}  // namespace pqcache::attention
