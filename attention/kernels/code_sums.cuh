#pragma once

// Table look-ups of one key's codes for four queries at a time: a table word holds the entries of
// four queries in a byte each. With 4-bit codes the words of a sub-space lie in different banks of
// shared memory, so that no look-up waits for another.

#include <cstdint>

namespace pqcache::attention {

template <int kBytes>
struct KeyCodes {
  uint32_t words[kBytes / 4];
};

template <int kBytes>
__device__ inline KeyCodes<kBytes> LoadCodes(const uint8_t* codes) {
  KeyCodes<kBytes> c;
  if constexpr (kBytes == 8) {
    const uint2 v = __ldg(reinterpret_cast<const uint2*>(codes));
    c.words[0] = v.x, c.words[1] = v.y;
  } else {
    for (int i = 0; i < kBytes / 16; ++i) {
      const uint4 v = __ldg(reinterpret_cast<const uint4*>(codes) + i);
      c.words[4 * i] = v.x, c.words[4 * i + 1] = v.y;
      c.words[4 * i + 2] = v.z, c.words[4 * i + 3] = v.w;
    }
  }
  return c;
}

template <int kWords>
struct TableEntry {
  uint32_t words[kWords];
};

// From an address in shared memory.
template <int kWords>
__device__ inline TableEntry<kWords> LoadEntry(uint32_t address) {
  TableEntry<kWords> e;
  if constexpr (kWords == 1) {
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(e.words[0]) : "r"(address));
  } else {
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];"
                 : "=r"(e.words[0]), "=r"(e.words[1])
                 : "r"(address));
  }
  return e;
}

// What the address of a table in shared memory is a multiple of.
constexpr int kTableAlignment = 1024;

// Addresses of the entries that a word of codes names, each as if its sub-space were the table's
// first.
template <int kBits, int kWords>
__device__ inline void EntryAddresses(uint32_t table, uint32_t word,
                                      uint32_t (&addresses)[32 / kBits]) {
  constexpr int kShift = kWords == 1 ? 2 : 3;  // bytes of an entry
  if constexpr (kBits == 4) {
    // Offsets of four codes at a time, a byte each, then below the higher bytes of the address.
    constexpr uint32_t kMask = 0x0f0f0f0fu << kShift;
    const uint32_t even = word << kShift & kMask, odd = word >> (4 - kShift) & kMask;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      addresses[2 * i] = __byte_perm(even, table, 0x7650 + i);
      addresses[2 * i + 1] = __byte_perm(odd, table, 0x7650 + i);
    }
  } else {
    constexpr uint32_t kMask = 0xffu << kShift;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int shift = i * 8 - kShift;
      const uint32_t offset = (shift < 0 ? word << -shift : word >> shift) & kMask;
      addresses[i] = kMask < kTableAlignment ? offset | table : offset + table;
    }
  }
}

// sums_02, sums_13: of the first and third, and of the second and fourth query of each word, in 16
// bits each. Entries are at most 127, so two add up in a byte; a wrapped sum of whole words less
// that of the odd bytes is that of the even ones.
template <int kBits, int kBytes, int kWords>
__device__ inline void SumEntries(uint32_t table, const KeyCodes<kBytes>& codes,
                                  uint32_t (&sums_02)[kWords], uint32_t (&sums_13)[kWords]) {
  constexpr int kOfWord = 32 / kBits;  // codes
  constexpr int kEntryBytes = 4 * kWords << kBits;
  uint32_t all[kWords] = {}, odd[kWords] = {};
#pragma unroll
  for (int w = 0; w < kBytes / 4; ++w) {
    uint32_t addresses[kOfWord];
    EntryAddresses<kBits, kWords>(table, codes.words[w], addresses);
#pragma unroll
    for (int i = 0; i < kOfWord; i += 2) {
      const int first = (w * kOfWord + i) * kEntryBytes;
      const auto a = LoadEntry<kWords>(addresses[i] + first);
      const auto b = LoadEntry<kWords>(addresses[i + 1] + first + kEntryBytes);
#pragma unroll
      for (int j = 0; j < kWords; ++j) {
        const uint32_t pair = a.words[j] + b.words[j];
        all[j] += pair;
        odd[j] += __byte_perm(pair, 0, 0x4341);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kWords; ++j) {
    sums_13[j] = odd[j];
    sums_02[j] = all[j] - (odd[j] << 8);
  }
}

}  // namespace pqcache::attention
