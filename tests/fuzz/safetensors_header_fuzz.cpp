// The input is a whole .safetensors file, and then a number of data bytes and a header of any
// length, so that an input that became longer or shorter still reaches the parser.

#include <algorithm>

#include "attention/model/safetensors_header.h"
#include "pqcache/base/check.h"
#include "pqcache/base/coding.h"
#include "tests/fuzz/fuzz_bytes.h"

namespace pqcache::attention {
namespace {

// Tensors lie within the data and fill it.
void TryHeader(std::string_view json, uint64_t data_bytes) {
  const Result<SafetensorsHeader> header = ParseSafetensorsHeader(json, data_bytes);
  if (!header.ok()) {
    PQCACHE_CHECK(header.status().code() == StatusCode::kCorruption, "another error");
    return;
  }
  PQCACHE_CHECK(header->tensors.size() + header->metadata.size() <= json.size(), "more than sent");
  uint64_t bytes = 0;
  for (const auto& [name, info] : header->tensors) {
    PQCACHE_CHECK(info.offset <= data_bytes, "begins behind the data");
    PQCACHE_CHECK(info.bytes <= data_bytes - info.offset, "ends behind the data");
    bytes += info.bytes;
  }
  PQCACHE_CHECK(bytes == data_bytes, "bytes that belong to no tensor");
}

void TryFile(std::string_view file) {
  const Result<uint64_t> length =
      ParseSafetensorsLength(file.substr(0, std::min<size_t>(file.size(), 64)), file.size());
  if (!length.ok()) return;
  PQCACHE_CHECK(*length <= file.size() - 8, "a header longer than the file");
  TryHeader(file.substr(8, *length), file.size() - 8 - *length);
}

}  // namespace
}  // namespace pqcache::attention

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input = pqcache::testing::TextOf({data, size});
  pqcache::attention::TryFile(input);
  if (size >= 8) {
    pqcache::attention::TryHeader(input.substr(8), pqcache::GetFixed64(input.data()));
  }
  return 0;
}
