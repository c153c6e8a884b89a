// The input is a manifest, read as it is and once more with the right length and checksum.

#include <numeric>

#include "pqcache/base/check.h"
#include "pqcache/base/checksum.h"
#include "pqcache/cache/manifest.h"
#include "tests/fuzz/fuzz_bytes.h"

namespace pqcache {
namespace {

using namespace pqcache::testing;

// Places in manifest_format.md.
constexpr size_t kLengthAt = 12, kChecksumAt = 16, kBodyAt = 24;

std::vector<uint8_t> Resealed(std::span<const uint8_t> input) {
  std::vector<uint8_t> bytes(input.begin(), input.end());
  if (bytes.size() < kBodyAt) return bytes;
  OverwriteFixed32(kLengthAt, static_cast<uint32_t>(bytes.size() - kBodyAt), &bytes);
  const std::span<const uint8_t> all(bytes);
  OverwriteFixed64(kChecksumAt, Checksum64({all.first(kChecksumAt), all.subspan(kBodyAt)}), &bytes);
  return bytes;
}

void CheckPrefix(const ContextManifest& manifest) {
  std::vector<int64_t> tokens(100);
  std::iota(tokens.begin(), tokens.end(), 0);
  const std::vector<Fingerprint> chain = HashChain(manifest.identity, tokens);
  const int64_t shared = SharedPrefix(manifest, tokens, chain, 99);
  PQCACHE_CHECK(shared >= 0 && shared <= 99 && shared <= manifest.tokens, "too long a prefix");
}

// True if it is a good manifest.
bool Try(std::span<const uint8_t> bytes) {
  const Result<ContextManifest> manifest = DecodeManifest(TextOf(bytes));
  if (!manifest.ok()) return false;
  PQCACHE_CHECK(manifest->owners.back().end == manifest->row_pages(), "pages without an owner");
  CheckPrefix(*manifest);
  const std::string encoded = EncodeManifest(*manifest);
  const Result<ContextManifest> again = DecodeManifest(encoded);
  PQCACHE_CHECK(again.ok(), "what was written cannot be read");
  PQCACHE_CHECK(EncodeManifest(*again) == encoded, "writing changes what is read");
  return true;
}

}  // namespace
}  // namespace pqcache

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  pqcache::testing::TryRawAndResealed({data, size}, pqcache::Resealed, pqcache::Try);
  return 0;
}
