#pragma once

// Sums of quantised table entries over blocks of codes, of four queries in one pass. The body is
// chosen once per process (isa.h); all of them give the same sums. Thread-safe.
//
// Source of the method: Andre, Kermarrec, Le Scouarnec, "Cache locality is not enough:
// high-performance nearest neighbor search with product quantization fast scan", 2015.

#include <cstdint>
#include <span>

#include "pqcache/base/isa.h"
#include "pqcache/index/quantised_tables.h"

namespace pqcache {

inline constexpr int kScanBlockTokens = 64;  // of the blocks of pq_index.h
inline constexpr int kScanBlocks = 4;        // that are worked on at a time
inline constexpr int kScanTokens = kScanBlocks * kScanBlockTokens;

struct ScanTask {
  const QuantisedTables* tables = nullptr;
  const uint8_t* codes = nullptr;  // of block 0
  int64_t block = 0;               // the first one
  int64_t stride = 1;              // blocks from one to the next
  int count = 0;                   // <= kScanBlocks
  // [blocks, kScanQueries] added to all sums of a block, of block 0 on; null: nothing.
  const uint16_t* position_steps = nullptr;
};

// Sums [kScanQueries, kScanTokens], of block after block; those behind `count` blocks and of
// queries that are not there stay as they are. What lies behind the blocks is fetched ahead.
void ScanBlocks(const ScanTask& task, uint16_t* sums);

// What a token is worth: the largest of its sums with an offset each, which fits into 16 bits.
struct ScanThreshold {
  int queries = 0;
  uint16_t offsets[kScanQueries] = {};
  uint16_t least = 0;
};

// Bit i of bits[b] is set if token i of block b is worth `least` or more. sums: of `queries`
// queries, kScanTokens apart.
void AtLeast(const ScanThreshold& threshold, const uint16_t* sums, uint64_t bits[kScanBlocks]);

// Tables with what the scan of this process needs; see QuantisedTables::Set.
void MakeTables(const PqShape& shape, int g, const float* tables, TableSteps steps,
                std::span<const float> bounds, QuantisedTables* made);

// The bodies behind them, for tests.
struct QuantisedScan {
  using Scan = void (*)(const ScanTask&, uint16_t*);
  Isa isa;
  TableForm form4, form8;  // that codes of 4 and 8 bits want
  Scan scan4, scan8;
  void (*at_least)(const ScanThreshold&, const uint16_t*, uint64_t*);

  TableForm form(int bits) const { return bits == 4 ? form4 : form8; }
  void scan(const ScanTask& task, uint16_t* sums) const {
    (task.tables->bits == 4 ? scan4 : scan8)(task, sums);
  }
};
std::span<const QuantisedScan> QuantisedScans();

}  // namespace pqcache
