#pragma once

// Which BLAS the products of gemm.h run on. Thread-safe.

#include <string>

namespace pqcache::attention {

struct BlasInfo {
  std::string library;  // file that sgemm comes from, links resolved; empty if it is not shared
  std::string config;  // OpenBLAS' words on itself ("OpenBLAS 0.3.21 ... USE_OPENMP ..."), or empty
};

BlasInfo DescribeBlas();

}  // namespace pqcache::attention
