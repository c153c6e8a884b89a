#include "attention/gemm.h"

// The Fortran entry point, which every BLAS has. It is column-major: a row-major c = a * b is a
// column-major c^T = b^T * a^T.
extern "C" void sgemm_(const char* transa, const char* transb, const int* m, const int* n,
                       const int* k, const float* alpha, const float* a, const int* lda,
                       const float* b, const int* ldb, const float* beta, float* c, const int* ldc);

namespace pqcache::attention {
namespace {

void ColumnMajor(char transa, int64_t m, int64_t n, int64_t k, float alpha, const float* a,
                 int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc) {
  const char no = 'N';
  const int im = static_cast<int>(m), in = static_cast<int>(n), ik = static_cast<int>(k);
  const int ia = static_cast<int>(lda), ib = static_cast<int>(ldb), ic = static_cast<int>(ldc);
  sgemm_(&transa, &no, &im, &in, &ik, &alpha, a, &ia, b, &ib, &beta, c, &ic);
}

}  // namespace

void GemmTransposedB(int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda,
                     const float* b, int64_t ldb, float* c, int64_t ldc) {
  ColumnMajor('T', n, m, k, alpha, b, ldb, a, lda, 0.0f, c, ldc);
}

void GemmAdd(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b,
             int64_t ldb, float* c, int64_t ldc) {
  ColumnMajor('N', n, m, k, 1.0f, b, ldb, a, lda, 1.0f, c, ldc);
}

}  // namespace pqcache::attention
