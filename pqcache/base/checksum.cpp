#include "pqcache/base/checksum.h"

#include <openssl/sha.h>

#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace pqcache {

uint64_t Checksum64(const void* data, size_t size) { return XXH3_64bits(data, size); }

uint64_t Checksum64(std::initializer_list<std::span<const uint8_t>> parts) {
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  for (const auto& part : parts) XXH3_64bits_update(&state, part.data(), part.size());
  return XXH3_64bits_digest(&state);
}

std::string Fingerprint::Hex() const {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (uint8_t b : bytes) {
    out.push_back(kDigits[b >> 4]);
    out.push_back(kDigits[b & 15]);
  }
  return out;
}

Fingerprint FingerprintOf(std::string_view data) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(data.data()), data.size(), digest);
  Fingerprint f;
  std::memcpy(f.bytes.data(), digest, f.bytes.size());
  return f;
}

}  // namespace pqcache
