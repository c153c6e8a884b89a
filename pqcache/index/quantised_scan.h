#pragma once

// Sums of quantised table entries over blocks of codes, of four queries in one pass. Entries are
// whole numbers of 7 bits, so the sums are exact and every instruction set gives the same ones. The
// body is chosen once per process (isa.h). Thread-safe.
//
// Source of the method: Andre, Kermarrec, Le Scouarnec, "Cache locality is not enough:
// high-performance nearest neighbor search with product quantization fast scan", 2015.

#include <cstdint>
#include <span>
#include <vector>

#include "pqcache/base/aligned_buffer.h"
#include "pqcache/base/isa.h"
#include "pqcache/index/codebook.h"

namespace pqcache {

inline constexpr int kScanQueries = 4;
inline constexpr int kScanBlockTokens = 64;  // of the blocks of pq_index.h
inline constexpr int kScanBlocks = 4;        // that are worked on at a time
inline constexpr int kScanTokens = kScanBlocks * kScanBlockTokens;

// The tables of up to kScanQueries queries; those that are not there have zeros.
struct QuantisedTables {
  int queries = 0;                 // that are there
  int subspaces = 0;               // M
  int bits = 0;                    // 4 or 8; K = 2^bits
  AlignedBuffer<uint8_t> entries;  // [kScanQueries, M, K], each 0 to 127, fewer for M > 516
  std::vector<uint64_t> lanes;     // [M, K], the entries of the queries in 16 bits each, or empty
  float base[kScanQueries] = {};   // the score of a sum is base + step * sum
  float step[kScanQueries] = {};

  // tables: [G, M, K] of finite numbers, G <= kScanQueries. Every query has a step of its own: the
  // widest range of its sub-spaces over the largest entry.
  void Set(const PqShape& shape, int g, const float* tables);
  void FillLanes();
};

// With what the scan of this process needs.
void MakeTables(const PqShape& shape, int g, const float* tables, QuantisedTables* made);

// Sums [kScanQueries, kScanTokens] of `count` <= kScanBlocks blocks from `block` on; those of
// blocks behind `count` and of queries that are not there stay as they are.
void ScanBlocks(const QuantisedTables& tables, const uint8_t* codes, int64_t block, int count,
                uint16_t* sums);

// Bit i is set if sums [kScanBlockTokens] i >= threshold.
uint64_t AtLeast(const uint16_t* sums, uint16_t threshold);

// The bodies behind them, for tests.
struct QuantisedScan {
  Isa isa;
  bool (*uses_lanes)(int bits);
  void (*scan)(const QuantisedTables&, const uint8_t*, int64_t, int, uint16_t*);
  uint64_t (*at_least)(const uint16_t*, uint16_t);
};
std::span<const QuantisedScan> QuantisedScans();

}  // namespace pqcache
