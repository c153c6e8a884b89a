// The input is a page, read as it is and once more with the right length and checksum.

#include "pqcache/base/check.h"
#include "pqcache/base/checksum.h"
#include "pqcache/cache/page_codec.h"
#include "tests/fuzz/fuzz_bytes.h"

namespace pqcache {
namespace {

using namespace pqcache::testing;

// Places in page_format.md.
constexpr size_t kBodyLengthAt = 96, kChecksumAt = 120;

std::vector<uint8_t> Resealed(std::span<const uint8_t> input) {
  std::vector<uint8_t> page(input.begin(), input.end());
  if (page.size() < kPageHeaderBytes) return page;
  OverwriteFixed64(kBodyLengthAt, page.size() - kPageHeaderBytes, &page);
  OverwriteFixed64(kChecksumAt, 0, &page);
  OverwriteFixed64(kChecksumAt, Checksum64(page.data(), page.size()), &page);
  return page;
}

// True if it is a good page.
bool Try(std::span<const uint8_t> bytes) {
  const Result<PageHeader> header = DecodePage(bytes);
  if (!header.ok()) {
    PQCACHE_CHECK(header.status().code() == StatusCode::kCorruption, "another error");
    return false;
  }
  PQCACHE_CHECK(VerifyPage(bytes, header->key).ok(), "not its own key");
  const PageRef encoded =
      EncodePage(header->key, header->shape, header->tokens, bytes.subspan(kPageHeaderBytes));
  PQCACHE_CHECK(SameBytes(encoded->span(), bytes), "two pages of the same content");
  PageKey other = header->key;
  other.page ^= 1;
  PQCACHE_CHECK(!VerifyPage(bytes, other).ok(), "another's key");
  return true;
}

}  // namespace
}  // namespace pqcache

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  pqcache::testing::TryRawAndResealed({data, size}, pqcache::Resealed, pqcache::Try);
  return 0;
}
