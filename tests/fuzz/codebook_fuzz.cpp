// The input is a codebook file, read as it is and once more with the lengths and checksums that its
// description asks for.

#include <algorithm>

#include "pqcache/base/check.h"
#include "pqcache/base/checksum.h"
#include "pqcache/base/coding.h"
#include "pqcache/index/codebook.h"
#include "pqcache/index/codebook_file_info.h"
#include "tests/fuzz/fuzz_bytes.h"

namespace pqcache {
namespace {

using namespace pqcache::testing;

// Places in codebook_format.md.
constexpr size_t kLengthAt = 12, kDescriptionSumAt = 16, kHeaderSumAt = 24, kHeaderBytes = 32;
constexpr size_t kMaxFilled = 1 << 16;

// Up to where the braces of the description close, or everything.
size_t DescriptionBytes(std::string_view text) {
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted && c == '\\') {
      ++i;
    } else if (c == '"') {
      quoted = !quoted;
    } else if (!quoted && c == '{') {
      ++depth;
    } else if (!quoted && c == '}' && --depth <= 0) {
      return i + 1;
    }
  }
  return text.size();
}

// As long as the description says, with zeros where bytes are missing, unless that is too much.
void Fill(const CodebookFileInfo& info, size_t start, std::vector<uint8_t>* bytes) {
  const uint64_t blocks = static_cast<uint64_t>(info.layers) * static_cast<uint64_t>(info.kv_heads);
  if (info.described && info.block_bytes <= kMaxFilled / blocks) {
    bytes->resize(start + info.block_bytes * blocks);
    bytes->shrink_to_fit();
  }
}

std::vector<uint8_t> Resealed(std::span<const uint8_t> input) {
  std::vector<uint8_t> bytes(input.begin(), input.end());
  if (bytes.size() < kHeaderBytes) return bytes;
  const size_t length = DescriptionBytes(TextOf(input.subspan(kHeaderBytes)));
  OverwriteFixed32(kLengthAt, static_cast<uint32_t>(length), &bytes);
  OverwriteFixed64(kDescriptionSumAt, Checksum64(bytes.data() + kHeaderBytes, length), &bytes);
  OverwriteFixed64(kHeaderSumAt, Checksum64(bytes.data(), kHeaderSumAt), &bytes);
  if (const auto info = InspectCodebooks(TextOf(bytes)); info.ok()) {
    Fill(*info, kHeaderBytes + length, &bytes);
  }
  const auto filled = InspectCodebooks(TextOf(bytes));
  if (!filled.ok()) return bytes;
  for (const CodebookBlockInfo& block : filled->blocks) {
    const size_t numbers = filled->block_bytes - 8;
    OverwriteFixed64(block.offset + numbers, Checksum64(bytes.data() + block.offset, numbers),
                     &bytes);
  }
  return bytes;
}

void CheckCodes(const HeadCodebook& codebook) {
  const PqShape& shape = codebook.shape();
  std::vector<float> key(static_cast<size_t>(shape.dim), 1.0f);
  std::vector<uint8_t> codes(static_cast<size_t>(shape.subspaces));
  codebook.Encode(0, 1, key.data(), codes.data());
  PQCACHE_CHECK(*std::max_element(codes.begin(), codes.end()) < shape.centroids(), "no such code");
  codebook.Decode(0, 1, codes.data(), key.data());
}

// True if it can be loaded.
bool Try(std::span<const uint8_t> bytes) {
  const auto set = DecodeCodebooks(TextOf(bytes));
  const auto info = InspectCodebooks(TextOf(bytes));
  PQCACHE_CHECK(set.ok() == (info.ok() && info->damaged.empty()), "the two readers disagree");
  if (!set.ok()) return false;
  CheckCodes((*set)->heads.back());
  const Result<std::string> encoded = EncodeCodebooks(**set);
  PQCACHE_CHECK(encoded.ok(), "what was read cannot be written");
  const auto again = DecodeCodebooks(*encoded);
  PQCACHE_CHECK(again.ok(), "what was written cannot be read");
  PQCACHE_CHECK(EncodeCodebooks(**again).value() == *encoded, "writing changes what is read");
  return true;
}

}  // namespace
}  // namespace pqcache

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  pqcache::testing::TryRawAndResealed({data, size}, pqcache::Resealed, pqcache::Try);
  return 0;
}
