#pragma once

// Which BLAS the products of gemm.h run on. Thread-safe.

#include <string>

#include "pqcache/base/isa.h"

namespace pqcache::attention {

struct BlasInfo {
  std::string library;  // file that sgemm comes from, links resolved; empty if it is not shared
  std::string config;  // OpenBLAS' words on itself ("OpenBLAS 0.3.21 ... USE_OPENMP ..."), or empty
};

BlasInfo DescribeBlas();

// An OpenBLAS older than the CPU takes it for one without AVX and computes five times as slowly as
// it could. The core type that its environment variable OPENBLAS_CORETYPE should name then; empty
// if it knows the CPU, which has at most `isa`, or is another BLAS.
std::string BetterBlasCore(const BlasInfo& blas, Isa isa);

}  // namespace pqcache::attention
