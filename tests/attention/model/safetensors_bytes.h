#pragma once

// Bytes of small .safetensors files, right or wrong, for tests.

#include <fstream>
#include <string>

#include "pqcache/base/check.h"
#include "pqcache/base/coding.h"

namespace pqcache::attention {

// Length, header and data.
inline std::string SafetensorsBytes(const std::string& header, const std::string& data) {
  std::string bytes;
  PutFixed64(&bytes, header.size());
  return bytes + header + data;
}

inline void WriteBytes(const std::string& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary);
  out << bytes;
  out.close();
  PQCACHE_CHECK(out.good(), "cannot write a test file");
}

}  // namespace pqcache::attention
