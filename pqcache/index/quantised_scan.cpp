#include "pqcache/index/quantised_scan.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "pqcache/base/vector_clones.h"
#include "pqcache/base/vector_math.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace pqcache {
namespace {

constexpr int kTokens = kScanBlockTokens;
// Two entries fit into 8 bits, and those of all sub-spaces into 16.
float LargestEntry(int subspaces) { return static_cast<float>(std::min(127, 65535 / subspaces)); }
constexpr float kSmallestRange = 1e-30f;  // so that its inverse is finite

int64_t LinesOf(const QuantisedTables& t) { return t.bits == 8 ? t.subspaces : t.subspaces / 2; }

// entries[i] = (table[i] - low) * scale, rounded.
PQCACHE_VECTOR_CLONES void Quantise(const float* table, int n, float low, float scale,
                                    float largest, uint8_t* entries) {
  for (int i = 0; i < n; ++i) {
    const float entry = std::min(largest, (table[i] - low) * scale + 0.5f);
    entries[i] = static_cast<uint8_t>(static_cast<int32_t>(entry));
  }
}

// Four 16-bit sums in one word.
void ScanScalar(const QuantisedTables& t, const uint8_t* codes, int64_t block, int count,
                uint16_t* sums) {
  const int64_t lines = LinesOf(t);
  const int k = 1 << t.bits;
  for (int b = 0; b < count; ++b) {
    const uint8_t* bytes = codes + (block + b) * lines * kTokens;
    uint64_t words[kTokens] = {};
    for (int64_t line = 0; line < lines; ++line, bytes += kTokens) {
      if (t.bits == 8) {
        const uint64_t* table = t.lanes.data() + line * k;
        for (int i = 0; i < kTokens; ++i) words[i] += table[bytes[i]];
      } else {
        const uint64_t* low = t.lanes.data() + 2 * line * k;
        const uint64_t* high = low + k;
        for (int i = 0; i < kTokens; ++i) words[i] += low[bytes[i] & 15] + high[bytes[i] >> 4];
      }
    }
    for (int q = 0; q < t.queries; ++q) {
      for (int i = 0; i < kTokens; ++i) {
        sums[q * kScanTokens + b * kTokens + i] = static_cast<uint16_t>(words[i] >> (16 * q));
      }
    }
  }
}

uint64_t AtLeastScalar(const uint16_t* sums, uint16_t threshold) {
  uint64_t bits = 0;
  for (int i = 0; i < kTokens; ++i) bits |= uint64_t{sums[i] >= threshold} << i;
  return bits;
}

#ifdef __x86_64__
#define PQCACHE_AVX2 __attribute__((target("avx2")))
#define PQCACHE_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")))

// Looked-up entries of two sub-spaces are added in 8 bits; their sums go on in 16 bits, those of
// tokens at even and odd places apart.
PQCACHE_AVX2 inline void Add256(__m256i pair, __m256i* even, __m256i* odd) {
  *even = _mm256_add_epi16(*even, _mm256_and_si256(pair, _mm256_set1_epi16(0xff)));
  *odd = _mm256_add_epi16(*odd, _mm256_srli_epi16(pair, 8));
}

// In the order of the tokens.
PQCACHE_AVX2 inline void Store256(__m256i even, __m256i odd, uint16_t* sums) {
  const __m256i low = _mm256_unpacklo_epi16(even, odd);
  const __m256i high = _mm256_unpackhi_epi16(even, odd);
  auto* out = reinterpret_cast<__m256i*>(sums);
  _mm256_storeu_si256(out, _mm256_permute2x128_si256(low, high, 0x20));
  _mm256_storeu_si256(out + 1, _mm256_permute2x128_si256(low, high, 0x31));
}

PQCACHE_AVX2 inline __m256i Table16(const uint8_t* entries) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(entries)));
}

PQCACHE_AVX2 void Scan4Avx2(const QuantisedTables& t, const uint8_t* codes, int64_t block,
                            int count, uint16_t* sums) {
  const int64_t lines = LinesOf(t);
  const __m256i nibble = _mm256_set1_epi8(15);
  for (int q = 0; q < t.queries; ++q) {
    const uint8_t* entries = t.entries.data() + q * int64_t{t.subspaces} * 16;
    for (int half = 0; half < 2 * count; ++half) {
      const uint8_t* bytes = codes + (block + half / 2) * lines * kTokens + half % 2 * 32;
      __m256i even = _mm256_setzero_si256(), odd = even;
      for (int64_t line = 0; line < lines; ++line) {
        const __m256i code =
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + line * kTokens));
        const __m256i low =
            _mm256_shuffle_epi8(Table16(entries + 32 * line), _mm256_and_si256(code, nibble));
        const __m256i high =
            _mm256_shuffle_epi8(Table16(entries + 32 * line + 16),
                                _mm256_and_si256(_mm256_srli_epi16(code, 4), nibble));
        Add256(_mm256_add_epi8(low, high), &even, &odd);
      }
      Store256(even, odd, sums + q * kScanTokens + half * 32);
    }
  }
}

// Tables of 256 entries are beyond what AVX2 can look up in registers.
PQCACHE_AVX2 void ScanAvx2(const QuantisedTables& t, const uint8_t* codes, int64_t block, int count,
                           uint16_t* sums) {
  if (t.bits == 4) {
    Scan4Avx2(t, codes, block, count, sums);
  } else {
    ScanScalar(t, codes, block, count, sums);
  }
}

PQCACHE_AVX2 uint64_t AtLeastAvx2(const uint16_t* sums, uint16_t threshold) {
  const __m256i limit = _mm256_set1_epi16(static_cast<int16_t>(threshold));
  uint64_t bits = 0;
  for (int i = 0; i < kTokens; i += 32) {
    __m256i above[2];
    for (int j = 0; j < 2; ++j) {
      const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums + i + 16 * j));
      above[j] = _mm256_cmpeq_epi16(_mm256_max_epu16(x, limit), x);
    }
    const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(above[0], above[1]), 0xd8);
    bits |= uint64_t{static_cast<uint32_t>(_mm256_movemask_epi8(bytes))} << i;
  }
  return bits;
}

PQCACHE_AVX512 inline void Add512(__m512i pair, __m512i* even, __m512i* odd) {
  *even = _mm512_add_epi16(*even, _mm512_and_si512(pair, _mm512_set1_epi16(0xff)));
  *odd = _mm512_add_epi16(*odd, _mm512_srli_epi16(pair, 8));
}

PQCACHE_AVX512 inline void Store512(__m512i even, __m512i odd, uint16_t* sums) {
  const __m512i low = _mm512_unpacklo_epi16(even, odd);
  const __m512i high = _mm512_unpackhi_epi16(even, odd);
  const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  _mm512_storeu_si512(sums, _mm512_permutex2var_epi64(low, first, high));
  _mm512_storeu_si512(sums + 32, _mm512_permutex2var_epi64(low, second, high));
}

template <int kCount>
PQCACHE_AVX512 inline void StoreBlocks512(const __m512i* even, const __m512i* odd, uint16_t* sums) {
#pragma GCC unroll 4
  for (int b = 0; b < kCount; ++b) Store512(even[b], odd[b], sums + b * kTokens);
}

PQCACHE_AVX512 inline __m512i Load512(const uint8_t* bytes) { return _mm512_loadu_si512(bytes); }

// Of 256 entries: the low seven bits of a code choose in both halves, the highest one between them.
PQCACHE_AVX512 inline __m512i LookUp256(const __m512i* table, __m512i code) {
  return _mm512_mask_blend_epi8(_mm512_movepi8_mask(code),
                                _mm512_permutex2var_epi8(table[0], code, table[1]),
                                _mm512_permutex2var_epi8(table[2], code, table[3]));
}

// The bodies of kCount blocks: their sums stay in registers while a table is.
template <int kCount>
PQCACHE_AVX512 void Scan8Avx512(const QuantisedTables& t, const uint8_t* codes, int64_t block,
                                uint16_t* sums) {
  const int64_t lines = t.subspaces, block_bytes = lines * kTokens;
  const uint8_t* bytes = codes + block * block_bytes;
  for (int q = 0; q < t.queries; ++q) {
    const uint8_t* entries = t.entries.data() + q * lines * 256;
    __m512i even[kCount] = {}, odd[kCount] = {};
    int64_t m = 0;
    for (; m + 1 < lines; m += 2) {
      __m512i table[8];
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) table[i] = Load512(entries + m * 256 + i * 64);
#pragma GCC unroll 4
      for (int b = 0; b < kCount; ++b) {
        const uint8_t* line = bytes + b * block_bytes + m * kTokens;
        Add512(_mm512_add_epi8(LookUp256(table, Load512(line)),
                               LookUp256(table + 4, Load512(line + kTokens))),
               &even[b], &odd[b]);
      }
    }
    if (m < lines) {
      __m512i table[4];
      for (int i = 0; i < 4; ++i) table[i] = Load512(entries + m * 256 + i * 64);
      for (int b = 0; b < kCount; ++b) {
        Add512(LookUp256(table, Load512(bytes + b * block_bytes + m * kTokens)), &even[b], &odd[b]);
      }
    }
    StoreBlocks512<kCount>(even, odd, sums + q * kScanTokens);
  }
}

template <int kCount>
PQCACHE_AVX512 void Scan4Avx512(const QuantisedTables& t, const uint8_t* codes, int64_t block,
                                uint16_t* sums) {
  const int64_t lines = t.subspaces / 2, block_bytes = lines * kTokens;
  const uint8_t* bytes = codes + block * block_bytes;
  const __m512i nibble = _mm512_set1_epi8(15);
  for (int q = 0; q < t.queries; ++q) {
    const uint8_t* entries = t.entries.data() + q * int64_t{t.subspaces} * 16;
    __m512i even[kCount] = {}, odd[kCount] = {};
    for (int64_t line = 0; line < lines; ++line) {
      const auto* table = reinterpret_cast<const __m128i*>(entries + 32 * line);
      // The form without a mask warns in g++ 12.
      const __m512i low = _mm512_maskz_broadcast_i32x4(0xffff, _mm_loadu_si128(table));
      const __m512i high = _mm512_maskz_broadcast_i32x4(0xffff, _mm_loadu_si128(table + 1));
#pragma GCC unroll 4
      for (int b = 0; b < kCount; ++b) {
        const __m512i code = Load512(bytes + b * block_bytes + line * kTokens);
        const __m512i first = _mm512_shuffle_epi8(low, _mm512_and_si512(code, nibble));
        const __m512i second =
            _mm512_shuffle_epi8(high, _mm512_and_si512(_mm512_srli_epi16(code, 4), nibble));
        Add512(_mm512_add_epi8(first, second), &even[b], &odd[b]);
      }
    }
    StoreBlocks512<kCount>(even, odd, sums + q * kScanTokens);
  }
}

template <int kCount>
PQCACHE_AVX512 void ScanCountAvx512(const QuantisedTables& t, const uint8_t* codes, int64_t block,
                                    uint16_t* sums) {
  if (t.bits == 8) {
    Scan8Avx512<kCount>(t, codes, block, sums);
  } else {
    Scan4Avx512<kCount>(t, codes, block, sums);
  }
}

PQCACHE_AVX512 void ScanAvx512(const QuantisedTables& t, const uint8_t* codes, int64_t block,
                               int count, uint16_t* sums) {
  if (count == kScanBlocks) return ScanCountAvx512<kScanBlocks>(t, codes, block, sums);
  for (int b = 0; b < count; ++b) {
    ScanCountAvx512<1>(t, codes, block + b, sums + b * kTokens);
  }
}

PQCACHE_AVX512 uint64_t AtLeastAvx512(const uint16_t* sums, uint16_t threshold) {
  const __m512i limit = _mm512_set1_epi16(static_cast<int16_t>(threshold));
  const uint64_t low = _mm512_cmpge_epu16_mask(_mm512_loadu_si512(sums), limit);
  const uint64_t high = _mm512_cmpge_epu16_mask(_mm512_loadu_si512(sums + 32), limit);
  return low | high << 32;
}
#endif

constexpr QuantisedScan kScans[] = {
    {Isa::kScalar, [](int) { return true; }, ScanScalar, AtLeastScalar},
#ifdef __x86_64__
    {Isa::kAvx2, [](int bits) { return bits == 8; }, ScanAvx2, AtLeastAvx2},
    {Isa::kAvx512, [](int) { return false; }, ScanAvx512, AtLeastAvx512},
#endif
};

const QuantisedScan& Active() {
  static const QuantisedScan& active = kScans[static_cast<size_t>(ActiveIsa())];
  return active;
}

}  // namespace

void QuantisedTables::Set(const PqShape& shape, int g, const float* tables) {
  queries = g;
  subspaces = shape.subspaces;
  bits = shape.bits;
  const int k = shape.centroids();
  const size_t table_size = static_cast<size_t>(subspaces) * k;
  entries.Resize(0);  // what is new is zero
  entries.Resize(kScanQueries * table_size);
  const float largest = LargestEntry(subspaces);
  std::vector<float> lowest(static_cast<size_t>(subspaces));
  for (int q = 0; q < g; ++q) {
    const float* table = tables + q * table_size;
    float range = kSmallestRange, sum = 0;
    for (int m = 0; m < subspaces; ++m) {
      const float low = MinOf(table + m * k, k);
      range = std::max(range, MaxOf(table + m * k, k) - low);
      lowest[static_cast<size_t>(m)] = low;
      sum += low;
    }
    base[q] = sum;
    step[q] = range / largest;
    for (int m = 0; m < subspaces; ++m) {
      const size_t first = static_cast<size_t>(m) * k;
      Quantise(table + first, k, lowest[static_cast<size_t>(m)], 1.0f / step[q], largest,
               entries.data() + q * table_size + first);
    }
  }
  lanes.clear();
}

void QuantisedTables::FillLanes() {
  const size_t table_size = entries.size() / kScanQueries;
  lanes.assign(table_size, 0);
  for (int q = 0; q < kScanQueries; ++q) {
    for (size_t i = 0; i < table_size; ++i) {
      lanes[i] |= uint64_t{entries[q * table_size + i]} << (16 * q);
    }
  }
}

std::span<const QuantisedScan> QuantisedScans() { return kScans; }

void MakeTables(const PqShape& shape, int g, const float* tables, QuantisedTables* made) {
  made->Set(shape, g, tables);
  if (Active().uses_lanes(shape.bits)) made->FillLanes();
}

void ScanBlocks(const QuantisedTables& tables, const uint8_t* codes, int64_t block, int count,
                uint16_t* sums) {
  Active().scan(tables, codes, block, count, sums);
}

uint64_t AtLeast(const uint16_t* sums, uint16_t threshold) {
  return Active().at_least(sums, threshold);
}

}  // namespace pqcache
