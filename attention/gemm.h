#pragma once

// Single-precision matrix products by the BLAS. Row-major. The calling thread does all the work
// when its OpenMP thread count is one, as it is inside ThreadPool. Thread-safe.

#include <cstdint>

namespace pqcache::attention {

// c [m, n] = alpha * a [m, k] * b [n, k]^T. lda, ldb, ldc: floats between rows.
void GemmTransposedB(int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
                     const float* b, int64_t ldb, float* c, int64_t ldc);

// c [m, n] += a [m, k] * b [k, n].
void GemmAdd(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b,
             int64_t ldb, float* c, int64_t ldc);

}  // namespace pqcache::attention
