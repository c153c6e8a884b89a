// Looked-up entries of two sub-spaces are added in 8 bits. Their sums go on in 16 bits: `all` takes
// them as they are, that of the token at the odd place above that of its even neighbour, and `odd`
// takes the odd ones alone. In the end the even one is what `odd` leaves of `all`.

#include "pqcache/index/quantised_scan_x86.h"

#ifdef __x86_64__

#include <immintrin.h>

#include <algorithm>

namespace pqcache {
namespace {

constexpr int kTokens = kScanBlockTokens;
constexpr int64_t kBytesAhead = 4096;  // between the codes that are used and those that are fetched

#define PQCACHE_AVX2 __attribute__((target("avx2")))
#define PQCACHE_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define PQCACHE_VBMI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")))

// In the order of the tokens.
PQCACHE_AVX2 inline void Store256(__m256i all, __m256i odd, uint16_t* sums) {
  const __m256i even = _mm256_sub_epi16(all, _mm256_slli_epi16(odd, 8));
  const __m256i low = _mm256_unpacklo_epi16(even, odd);
  const __m256i high = _mm256_unpackhi_epi16(even, odd);
  auto* out = reinterpret_cast<__m256i*>(sums);
  _mm256_storeu_si256(out, _mm256_permute2x128_si256(low, high, 0x20));
  _mm256_storeu_si256(out + 1, _mm256_permute2x128_si256(low, high, 0x31));
}

PQCACHE_AVX2 inline __m256i Table256(const uint8_t* entries) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(entries)));
}

PQCACHE_AVX512 inline void Store512(__m512i all, __m512i odd, uint16_t* sums) {
  const __m512i even = _mm512_sub_epi16(all, _mm512_slli_epi16(odd, 8));
  const __m512i low = _mm512_unpacklo_epi16(even, odd);
  const __m512i high = _mm512_unpackhi_epi16(even, odd);
  const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  _mm512_storeu_si512(sums, _mm512_permutex2var_epi64(low, first, high));
  _mm512_storeu_si512(sums + 32, _mm512_permutex2var_epi64(low, second, high));
}

PQCACHE_AVX512 inline __m512i Table512(const uint8_t* entries) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(entries)));
}

PQCACHE_AVX512 inline __m512i Load512(const uint8_t* bytes) { return _mm512_loadu_si512(bytes); }

PQCACHE_AVX512 inline void Add512(__m512i pair, __m512i* all, __m512i* odd) {
  *all = _mm512_add_epi16(*all, pair);
  *odd = _mm512_add_epi16(*odd, _mm512_srli_epi16(pair, 8));
}

// kCount blocks: a code is loaded once for all queries, a table once for all blocks.
template <int kCount, int kQueries>
PQCACHE_AVX512 inline void Scan4Blocks(const QuantisedTables& t, const uint8_t* bytes, int64_t step,
                                       uint16_t* sums) {
  const int64_t lines = t.subspaces / 2;
  const __m512i nibble = _mm512_set1_epi8(15);
  __m512i all[kQueries][kCount] = {}, odd[kQueries][kCount] = {};
  for (int64_t line = 0; line < lines; ++line) {
    __m512i low[kCount], high[kCount];
#pragma GCC unroll 2
    for (int b = 0; b < kCount; ++b) {
      const uint8_t* at = bytes + b * step + line * kTokens;
      __builtin_prefetch(at + kBytesAhead, 0, 3);
      const __m512i code = Load512(at);
      low[b] = _mm512_and_si512(code, nibble);
      high[b] = _mm512_and_si512(_mm512_srli_epi16(code, 4), nibble);
    }
#pragma GCC unroll 4
    for (int q = 0; q < kQueries; ++q) {
      const uint8_t* table = t.entries.data() + (int64_t{q} * t.subspaces + 2 * line) * 16;
      const __m512i first = Table512(table), second = Table512(table + 16);
#pragma GCC unroll 2
      for (int b = 0; b < kCount; ++b) {
        Add512(_mm512_add_epi8(_mm512_shuffle_epi8(first, low[b]),
                               _mm512_shuffle_epi8(second, high[b])),
               &all[q][b], &odd[q][b]);
      }
    }
  }
  for (int q = 0; q < std::min(kQueries, t.queries); ++q) {
    for (int b = 0; b < kCount; ++b) {
      Store512(all[q][b], odd[q][b], sums + q * kScanTokens + b * kTokens);
    }
  }
}

// Of 256 pairs of entries: the low six bits of a code choose in all quarters, the others between.
PQCACHE_AVX512 inline __m512i LookUpPairs(const __m512i* table, __m512i code) {
  const __mmask32 second = _mm512_test_epi16_mask(code, _mm512_set1_epi16(64));
  const __mmask32 upper = _mm512_test_epi16_mask(code, _mm512_set1_epi16(128));
  __m512i found[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    found[i] = _mm512_permutex2var_epi16(table[2 * i], code, table[2 * i + 1]);
  }
  return _mm512_mask_blend_epi16(upper, _mm512_mask_blend_epi16(second, found[0], found[1]),
                                 _mm512_mask_blend_epi16(second, found[2], found[3]));
}

// kCount blocks in halves of 32 tokens, two queries at a time.
template <int kCount>
PQCACHE_AVX512 inline void Scan8Pairs(const QuantisedTables& t, const uint8_t* bytes, int64_t step,
                                      uint16_t* sums) {
  const int64_t lines = t.subspaces;
  for (int q = 0; q < t.queries; q += 2, sums += 2 * kScanTokens) {
    const uint16_t* pairs = t.pairs.data() + q / 2 * lines * 256;
    __m512i all[2 * kCount] = {}, odd[2 * kCount] = {};
    for (int64_t m = 0; m < lines; ++m) {
      __m512i table[8];
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) table[i] = _mm512_loadu_si512(pairs + m * 256 + i * 32);
#pragma GCC unroll 8
      for (int h = 0; h < 2 * kCount; ++h) {
        const uint8_t* at = bytes + h / 2 * step + m * kTokens + h % 2 * 32;
        if (q == 0 && h % 2 == 0) __builtin_prefetch(at + kBytesAhead, 0, 3);
        const __m512i code =
            _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
        Add512(LookUpPairs(table, code), &all[h], &odd[h]);
      }
    }
    for (int h = 0; h < 2 * kCount; ++h) {
      _mm512_storeu_si512(sums + 32 * h, _mm512_sub_epi16(all[h], _mm512_slli_epi16(odd[h], 8)));
      if (q + 1 < t.queries) _mm512_storeu_si512(sums + kScanTokens + 32 * h, odd[h]);
    }
  }
}

// Of 256 entries: the low seven bits of a code choose in both halves, the highest one between them.
PQCACHE_VBMI inline __m512i LookUp256(const __m512i* table, __m512i code) {
  return _mm512_mask_blend_epi8(_mm512_movepi8_mask(code),
                                _mm512_permutex2var_epi8(table[0], code, table[1]),
                                _mm512_permutex2var_epi8(table[2], code, table[3]));
}

// kCount blocks: their sums stay in registers while a table is.
template <int kCount>
PQCACHE_VBMI inline void Scan8Blocks(const QuantisedTables& t, const uint8_t* bytes, int64_t step,
                                     uint16_t* sums) {
  const int64_t lines = t.subspaces;
  for (int q = 0; q < t.queries; ++q) {
    const uint8_t* entries = t.entries.data() + q * lines * 256;
    __m512i all[kCount] = {}, odd[kCount] = {};
    int64_t m = 0;
    for (; m + 1 < lines; m += 2) {
      __m512i table[8];
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) table[i] = Load512(entries + m * 256 + i * 64);
#pragma GCC unroll 4
      for (int b = 0; b < kCount; ++b) {
        const uint8_t* line = bytes + b * step + m * kTokens;
        if (q == 0) {
          __builtin_prefetch(line + kBytesAhead, 0, 3);
          __builtin_prefetch(line + kBytesAhead + kTokens, 0, 3);
        }
        Add512(_mm512_add_epi8(LookUp256(table, Load512(line)),
                               LookUp256(table + 4, Load512(line + kTokens))),
               &all[b], &odd[b]);
      }
    }
    if (m < lines) {
      __m512i table[4];
      for (int i = 0; i < 4; ++i) table[i] = Load512(entries + m * 256 + i * 64);
      for (int b = 0; b < kCount; ++b) {
        Add512(LookUp256(table, Load512(bytes + b * step + m * kTokens)), &all[b], &odd[b]);
      }
    }
#pragma GCC unroll 4
    for (int b = 0; b < kCount; ++b) {
      Store512(all[b], odd[b], sums + q * kScanTokens + b * kTokens);
    }
  }
}

int64_t BlockBytes(const QuantisedTables& t) { return int64_t{t.subspaces} * t.bits / 8 * kTokens; }

const uint8_t* FirstBlock(const ScanTask& task) {
  return task.codes + task.block * BlockBytes(*task.tables);
}

// As many blocks at a time as kScanMany takes, the rest one by one.
using ScanSome = void (*)(const QuantisedTables&, const uint8_t*, int64_t, uint16_t*);
template <int kMany, ScanSome kScanMany, ScanSome kScanOne>
void ScanInParts(const ScanTask& task, uint16_t* sums) {
  const int64_t step = task.stride * BlockBytes(*task.tables);
  for (int b = 0; b < task.count;) {
    const bool many = b + kMany <= task.count;
    (many ? kScanMany : kScanOne)(*task.tables, FirstBlock(task) + b * step, step,
                                  sums + b * kTokens);
    b += many ? kMany : 1;
  }
}

template <int kQueries>
constexpr auto Scan4Queries = ScanInParts<2, Scan4Blocks<2, kQueries>, Scan4Blocks<1, kQueries>>;

template <int kQueries>
PQCACHE_AVX2 inline void Scan4Halves(const ScanTask& task, uint16_t* sums) {
  const QuantisedTables& t = *task.tables;
  const int64_t lines = t.subspaces / 2;
  const __m256i nibble = _mm256_set1_epi8(15);
  for (int half = 0; half < 2 * task.count; ++half) {
    const uint8_t* bytes =
        FirstBlock(task) + half / 2 * task.stride * BlockBytes(t) + half % 2 * 32;
    __m256i all[kQueries] = {}, odd[kQueries] = {};
    for (int64_t line = 0; line < lines; ++line) {
      const uint8_t* at = bytes + line * kTokens;
      __builtin_prefetch(at + kBytesAhead, 0, 3);
      const __m256i code = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
      const __m256i low = _mm256_and_si256(code, nibble);
      const __m256i high = _mm256_and_si256(_mm256_srli_epi16(code, 4), nibble);
#pragma GCC unroll 4
      for (int q = 0; q < kQueries; ++q) {
        const uint8_t* table = t.entries.data() + (int64_t{q} * t.subspaces + 2 * line) * 16;
        const __m256i pair = _mm256_add_epi8(_mm256_shuffle_epi8(Table256(table), low),
                                             _mm256_shuffle_epi8(Table256(table + 16), high));
        all[q] = _mm256_add_epi16(all[q], pair);
        odd[q] = _mm256_add_epi16(odd[q], _mm256_srli_epi16(pair, 8));
      }
    }
    for (int q = 0; q < std::min(kQueries, t.queries); ++q) {
      Store256(all[q], odd[q], sums + q * kScanTokens + half * 32);
    }
  }
}

}  // namespace

PQCACHE_AVX2 void Scan4Avx2(const ScanTask& task, uint16_t* sums) {
  task.tables->queries == 1 ? Scan4Halves<1>(task, sums) : Scan4Halves<kScanQueries>(task, sums);
}

void Scan4Avx512(const ScanTask& task, uint16_t* sums) {
  task.tables->queries == 1 ? Scan4Queries<1>(task, sums) : Scan4Queries<kScanQueries>(task, sums);
}

void Scan8Avx512(const ScanTask& task, uint16_t* sums) {
  ScanInParts<kScanBlocks, Scan8Pairs<kScanBlocks>, Scan8Pairs<1>>(task, sums);
}

void Scan8Vbmi(const ScanTask& task, uint16_t* sums) {
  ScanInParts<kScanBlocks, Scan8Blocks<kScanBlocks>, Scan8Blocks<1>>(task, sums);
}

PQCACHE_AVX2 void AtLeastAvx2(const ScanThreshold& t, const uint16_t* sums, uint64_t* bits) {
  const __m256i least = _mm256_set1_epi16(static_cast<int16_t>(t.least));
  __m256i offsets[kScanQueries];
  for (int q = 0; q < t.queries; ++q) {
    offsets[q] = _mm256_set1_epi16(static_cast<int16_t>(t.offsets[q]));
  }
  for (int i = 0; i < kScanTokens; i += 32) {
    __m256i above[2];
    for (int j = 0; j < 2; ++j) {
      __m256i worth = _mm256_setzero_si256();
      for (int q = 0; q < t.queries; ++q) {
        const auto* at = reinterpret_cast<const __m256i*>(sums + q * kScanTokens + i + 16 * j);
        worth = _mm256_max_epu16(worth, _mm256_add_epi16(_mm256_loadu_si256(at), offsets[q]));
      }
      above[j] = _mm256_cmpeq_epi16(_mm256_max_epu16(worth, least), worth);
    }
    const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(above[0], above[1]), 0xd8);
    const uint64_t found = static_cast<uint32_t>(_mm256_movemask_epi8(bytes));
    bits[i / kTokens] = i % kTokens == 0 ? found : bits[i / kTokens] | found << 32;
  }
}

PQCACHE_AVX512 void AtLeastAvx512(const ScanThreshold& t, const uint16_t* sums, uint64_t* bits) {
  const __m512i least = _mm512_set1_epi16(static_cast<int16_t>(t.least));
  __m512i offsets[kScanQueries];
  for (int q = 0; q < t.queries; ++q) {
    offsets[q] = _mm512_set1_epi16(static_cast<int16_t>(t.offsets[q]));
  }
  for (int b = 0; b < kScanBlocks; ++b, sums += kTokens) {
    __m512i low = _mm512_setzero_si512(), high = low;
    for (int q = 0; q < t.queries; ++q) {
      const uint16_t* at = sums + q * kScanTokens;
      low = _mm512_max_epu16(low, _mm512_add_epi16(_mm512_loadu_si512(at), offsets[q]));
      high = _mm512_max_epu16(high, _mm512_add_epi16(_mm512_loadu_si512(at + 32), offsets[q]));
    }
    bits[b] = uint64_t{_mm512_cmpge_epu16_mask(low, least)} |
              uint64_t{_mm512_cmpge_epu16_mask(high, least)} << 32;
  }
}

}  // namespace pqcache

#endif
