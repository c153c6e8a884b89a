#include "train/linear_algebra.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "pqcache/base/check.h"
#include "pqcache/base/single_thread.h"

// Fortran calling convention; the trailing sizes are the hidden lengths of the text arguments.
extern "C" {
void dsyev_(const char* jobz, const char* uplo, const int* n, double* a, const int* lda, double* w,
            double* work, const int* lwork, int* info, size_t, size_t);
void dsyrk_(const char* uplo, const char* trans, const int* n, const int* k, const double* alpha,
            const double* a, const int* lda, const double* beta, double* c, const int* ldc, size_t,
            size_t);
void sgemm_(const char* transa, const char* transb, const int* m, const int* n, const int* k,
            const float* alpha, const float* a, const int* lda, const float* b, const int* ldb,
            const float* beta, float* c, const int* ldc, size_t, size_t);
}

namespace pqcache::train {
namespace {

constexpr int64_t kRowsPerCall = 4096;

}  // namespace

std::vector<double> MeanRow(std::span<const float> rows, int dim) {
  std::vector<double> mean(static_cast<size_t>(dim), 0.0);
  const int64_t n = std::ssize(rows) / dim;
  for (int64_t i = 0; i < n; ++i) {
    for (int d = 0; d < dim; ++d) mean[d] += rows[i * dim + d];
  }
  for (double& m : mean) m /= static_cast<double>(n);
  return mean;
}

double TotalVariance(std::span<const float> rows, int dim) {
  const std::vector<double> mean = MeanRow(rows, dim);
  const int64_t n = std::ssize(rows) / dim;
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    for (int d = 0; d < dim; ++d) {
      const double difference = rows[i * dim + d] - mean[d];
      sum += difference * difference;
    }
  }
  return sum / static_cast<double>(n);
}

std::vector<double> ScatterMatrix(std::span<const float> rows, std::span<const double> mean) {
  const SingleThreadScope single_thread;
  const int dim = static_cast<int>(mean.size());
  const int64_t n = std::ssize(rows) / dim;
  const double one = 1.0;
  std::vector<double> scatter(mean.size() * mean.size(), 0.0);
  std::vector<double> block(static_cast<size_t>(std::min(n, kRowsPerCall)) * mean.size());
  for (int64_t begin = 0; begin < n; begin += kRowsPerCall) {
    const int count = static_cast<int>(std::min(kRowsPerCall, n - begin));
    for (int64_t i = 0; i < count; ++i) {
      for (int d = 0; d < dim; ++d) {
        block[i * dim + d] = double{rows[(begin + i) * dim + d]} - mean[d];
      }
    }
    dsyrk_("L", "N", &dim, &count, &one, block.data(), &dim, &one, scatter.data(), &dim, 1, 1);
  }
  // Fortran's lower triangle is the upper one of a row-major matrix.
  for (int i = 0; i < dim; ++i) {
    for (int j = 0; j < i; ++j) scatter[i * dim + j] = scatter[j * dim + i];
  }
  return scatter;
}

Result<SymmetricEigen> DecomposeSymmetric(std::vector<double> matrix, int dim) {
  PQCACHE_CHECK(std::ssize(matrix) == int64_t{dim} * dim, "the matrix is not [D, D]");
  if (!std::all_of(matrix.begin(), matrix.end(), [](double x) { return std::isfinite(x); })) {
    return Status::InvalidArgument(
        "covariance has numbers that are not finite, expected rows whose squares do not overflow");
  }
  const SingleThreadScope single_thread;
  std::vector<double> values(static_cast<size_t>(dim));
  std::vector<double> work(static_cast<size_t>(dim) * 64);
  const int work_size = static_cast<int>(work.size());
  int info = 0;
  dsyev_("V", "L", &dim, matrix.data(), &dim, values.data(), work.data(), &work_size, &info, 1, 1);
  if (info != 0) {
    return Status::Internal("LAPACK dsyev gave info " + std::to_string(info) + " for a matrix of " +
                            std::to_string(dim) + " rows, expected 0");
  }
  SymmetricEigen eigen;
  for (int i = dim - 1; i >= 0; --i) {
    const auto vector = std::span<const double>(matrix).subspan(static_cast<size_t>(i) * dim, dim);
    const auto largest = std::max_element(
        vector.begin(), vector.end(), [](double a, double b) { return std::abs(a) < std::abs(b); });
    const double sign = *largest < 0 ? -1.0 : 1.0;
    eigen.values.push_back(values[static_cast<size_t>(i)]);
    for (double x : vector) eigen.vectors.push_back(sign * x);
  }
  return eigen;
}

std::vector<double> Multiply(std::span<const double> a, std::span<const double> b, int dim) {
  const int64_t rows = std::ssize(a) / dim;
  const int64_t columns = std::ssize(b) / dim;
  std::vector<double> product(static_cast<size_t>(rows * columns), 0.0);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t k = 0; k < dim; ++k) {
      for (int64_t j = 0; j < columns; ++j) {
        product[i * columns + j] += a[i * dim + k] * b[k * columns + j];
      }
    }
  }
  return product;
}

void MultiplyTransposed(int64_t n, int r, int dim, const float* rows, const float* matrix,
                        float* out) {
  const SingleThreadScope single_thread;
  const float one = 1.0f;
  const float zero = 0.0f;
  for (int64_t begin = 0; begin < n; begin += kRowsPerCall) {
    const int count = static_cast<int>(std::min(kRowsPerCall, n - begin));
    sgemm_("T", "N", &r, &count, &dim, &one, matrix, &dim, rows + begin * dim, &dim, &zero,
           out + begin * r, &r, 1, 1);
  }
}

}  // namespace pqcache::train
