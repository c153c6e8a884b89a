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

// Byte offset of entry `code` number i of a word of codes, in a table of kWords words an entry.
template <int kBits, int kWords>
__device__ inline uint32_t EntryOffset(uint32_t word, int i) {
  constexpr int kShift = kWords == 1 ? 2 : 3;
  constexpr uint32_t kMask = ((1u << kBits) - 1) << kShift;
  const int shift = i * kBits - kShift;
  return (shift < 0 ? word << -shift : word >> shift) & kMask;
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
    asm("ld.shared.u32 %0, [%1];" : "=r"(e.words[0]) : "r"(address));
  } else {
    asm("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(e.words[0]), "=r"(e.words[1]) : "r"(address));
  }
  return e;
}

// What the address of a table in shared memory is a multiple of, so that low bits may name an entry
// of tables whose sub-spaces take no more.
constexpr int kTableAlignment = 1024;

// sums_02, sums_13: of the first and third, and of the second and fourth query of each word, in 16
// bits each. Entries are at most 127, so two add up in a byte; a wrapped sum of whole words less
// that of the odd bytes is that of the even ones.
template <int kBits, int kBytes, int kWords>
__device__ inline void SumEntries(uint32_t table, const KeyCodes<kBytes>& codes,
                                  uint32_t (&sums_02)[kWords], uint32_t (&sums_13)[kWords]) {
  constexpr int kOfWord = 32 / kBits;  // codes
  constexpr int kEntryBytes = 4 * kWords << kBits;
  const auto address = [table](uint32_t offset) {
    return kEntryBytes <= kTableAlignment ? offset | table : offset + table;
  };
  uint32_t all[kWords] = {}, odd[kWords] = {};
#pragma unroll
  for (int w = 0; w < kBytes / 4; ++w) {
#pragma unroll
    for (int i = 0; i < kOfWord; i += 2) {
      const uint32_t word = codes.words[w];
      const int first = (w * kOfWord + i) * kEntryBytes;
      const auto a = LoadEntry<kWords>(address(EntryOffset<kBits, kWords>(word, i)) + first);
      const auto b =
          LoadEntry<kWords>(address(EntryOffset<kBits, kWords>(word, i + 1)) + first + kEntryBytes);
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
