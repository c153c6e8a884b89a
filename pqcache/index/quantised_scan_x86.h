#pragma once

// The bodies of quantised_scan.h for x86; each needs a CPU with its instruction set.

#include "pqcache/index/quantised_scan.h"

#ifdef __x86_64__
namespace pqcache {

void Scan4Avx2(const ScanTask& task, uint16_t* sums);
void Scan4Avx512(const ScanTask& task, uint16_t* sums);
void Scan8Avx512(const ScanTask& task, uint16_t* sums);  // of pairs
void Scan8Vbmi(const ScanTask& task, uint16_t* sums);
void AtLeastAvx2(const ScanThreshold& threshold, const uint16_t* sums, uint64_t* bits);
void AtLeastAvx512(const ScanThreshold& threshold, const uint16_t* sums, uint64_t* bits);

}  // namespace pqcache
#endif
