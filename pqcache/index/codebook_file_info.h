#pragma once

// A codebook file (codebook_format.md) described part by part, also a damaged one. To use the
// codebooks, LoadCodebooks and DecodeCodebooks (codebook.h) are the only ways.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "pqcache/base/checksum.h"
#include "pqcache/base/file_damage.h"
#include "pqcache/base/status.h"
#include "pqcache/index/codebook.h"

namespace pqcache {

// What every codebook file begins with.
inline constexpr std::string_view kCodebookMagic = "PQCBOOK1";

struct CodebookBlockInfo {
  int layer = 0;
  int kv_head = 0;
  uint64_t offset = 0;    // of the first byte in the file
  uint64_t checksum = 0;  // as stored
  bool damaged = false;
};

struct CodebookFileInfo {
  uint32_t version = 0;
  uint64_t file_bytes = 0;
  // False when the description cannot be read; then the fields up to `damaged` are empty.
  bool described = false;
  Fingerprint model;  // of the checkpoint
  std::string rotation;
  std::string report;  // training report, JSON text; may be empty
  int layers = 0;
  int kv_heads = 0;
  PqShape shape;
  bool position_mean = false;
  uint64_t block_bytes = 0;
  std::vector<CodebookBlockInfo> blocks;  // in file order, those that are there as a whole
  std::vector<FileDamage> damaged;        // in file order; empty when LoadCodebooks would succeed
};

// Reads on behind damage wherever the place of the next part is known. Errors: kNotFound, kIoError,
// kCorruption when the file does not begin with the magic, kUnsupported for another version.
Result<CodebookFileInfo> InspectCodebookFile(const std::string& path);
// The same for the bytes of a file.
Result<CodebookFileInfo> InspectCodebooks(std::string_view bytes);

}  // namespace pqcache
