#include "pqcache/index/quantised_scan.h"

#include <algorithm>

#include "pqcache/base/vector_clones.h"
#include "pqcache/index/quantised_scan_x86.h"

namespace pqcache {
namespace {

constexpr int kTokens = kScanBlockTokens;

// Four 16-bit sums in one word; line after line, so that one table is in use at a time.
void ScanScalar(const ScanTask& task, uint16_t* sums) {
  const QuantisedTables& t = *task.tables;
  const int64_t lines = t.subspaces * t.bits / 8;
  const int k = 1 << t.bits;
  for (int b = 0; b < task.count; ++b) {
    const uint8_t* bytes = task.codes + (task.block + b * task.stride) * lines * kTokens;
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

void AtLeastScalar(const ScanThreshold& t, const uint16_t* sums, uint64_t* bits) {
  for (int b = 0; b < kScanBlocks; ++b, sums += kTokens) {
    bits[b] = 0;
    for (int i = 0; i < kTokens; ++i) {
      int worth = 0;
      for (int q = 0; q < t.queries; ++q) {
        worth = std::max(worth, sums[q * kScanTokens + i] + t.offsets[q]);
      }
      bits[b] |= uint64_t{worth >= t.least} << i;
    }
  }
}

// sums [kTokens]
PQCACHE_VECTOR_CLONES void Raise(uint16_t by, uint16_t* sums) {
  for (int i = 0; i < kTokens; ++i) sums[i] = static_cast<uint16_t>(sums[i] + by);
}

using enum TableForm;

// Tables of 256 entries are beyond what AVX2 can look up in registers.
constexpr QuantisedScan kScans[] = {
    {Isa::kScalar, kLanes, kLanes, ScanScalar, ScanScalar, AtLeastScalar},
#ifdef __x86_64__
    {Isa::kAvx2, kEntries, kLanes, Scan4Avx2, ScanScalar, AtLeastAvx2},
    {Isa::kAvx512, kEntries, kPairs, Scan4Avx512, Scan8Avx512, AtLeastAvx512},
    {Isa::kAvx512Vbmi, kEntries, kEntries, Scan4Avx512, Scan8Vbmi, AtLeastAvx512},
#endif
};

const QuantisedScan& Active() {
  static const QuantisedScan& active = BodyFor<QuantisedScan>(kScans);
  return active;
}

}  // namespace

std::span<const QuantisedScan> QuantisedScans() { return kScans; }

void MakeTables(const PqShape& shape, int g, const float* tables, TableSteps steps,
                std::span<const float> bounds, QuantisedTables* made) {
  made->Set(shape, g, tables, steps, bounds);
  made->Fill(Active().form(shape.bits));
}

void ScanBlocks(const ScanTask& task, uint16_t* sums) {
  Active().scan(task, sums);
  if (task.position_steps == nullptr) return;
  for (int b = 0; b < task.count; ++b) {
    const uint16_t* position_steps =
        task.position_steps + (task.block + b * task.stride) * kScanQueries;
    for (int q = 0; q < task.tables->queries; ++q) {
      Raise(position_steps[q], sums + q * kScanTokens + b * kTokens);
    }
  }
}

void AtLeast(const ScanThreshold& threshold, const uint16_t* sums, uint64_t bits[kScanBlocks]) {
  Active().at_least(threshold, sums, bits);
}

}  // namespace pqcache
