#pragma once

// Checksums and digests. XXH3 (xxHash) guards against accidents; SHA-256 (OpenSSL) names things
// whose collision would be a security fault (models, contexts, tenants).

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

namespace pqcache {

// XXH3, 64 bits, seed 0.
uint64_t Checksum64(const void* data, size_t size);
// Of the parts one after the other.
uint64_t Checksum64(std::initializer_list<std::span<const uint8_t>> parts);

// A 128-bit name: the first half of a SHA-256 digest.
struct Fingerprint {
  std::array<uint8_t, 16> bytes{};
  bool operator==(const Fingerprint&) const = default;
  // 32 lower-case hexadecimal digits.
  std::string Hex() const;
};

// Of the bytes of `data`.
Fingerprint FingerprintOf(std::string_view data);

}  // namespace pqcache
