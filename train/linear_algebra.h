#pragma once

// The few dense products and decompositions that training needs, by BLAS and LAPACK. Matrices are
// row-major. Every function runs on the calling thread alone, so results do not depend on the
// number of threads, and may be called from many threads at once.

#include <cstdint>
#include <span>
#include <vector>

#include "pqcache/base/status.h"

namespace pqcache::train {

// Sum over the rows x of [N, D] of (x - mean)(x - mean)^T, [D, D], in double. `mean` [D].
std::vector<double> ScatterMatrix(std::span<const float> rows, std::span<const double> mean);

// Mean of the rows of [N, D], in double; N >= 1.
std::vector<double> MeanRow(std::span<const float> rows, int dim);

// Mean squared distance of the rows of [N, D] from their mean, in double; N >= 1.
double TotalVariance(std::span<const float> rows, int dim);

// Of a symmetric matrix, largest value first. The largest component of every vector (the first
// among equals) is positive.
struct SymmetricEigen {
  std::vector<double> values;   // [D]
  std::vector<double> vectors;  // [D, D], one per row
};
// Error if a number is not finite or LAPACK does not converge.
Result<SymmetricEigen> DecomposeSymmetric(std::vector<double> matrix, int dim);

// a [R, D] times b [D, C].
std::vector<double> Multiply(std::span<const double> a, std::span<const double> b, int dim);

// out [N, R] = rows [N, D] times the transpose of matrix [R, D]: every row mapped by the matrix, or
// its inner products with the matrix's rows.
void MultiplyTransposed(int64_t n, int r, int dim, const float* rows, const float* matrix,
                        float* out);

}  // namespace pqcache::train
