#include "attention/row_products.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "pqcache/base/random.h"
#include "pqcache/cache/row_codec.h"
#include "tests/support/tolerances.h"

namespace pqcache::attention {
namespace {

using testing::Tolerance;

// Rows at places that are not in order, and what double precision makes of them.
class RowProductsTest : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!IsaSupported(GetParam())) GTEST_SKIP() << "this CPU has no " << IsaName(GetParam());
  }

  void Check(DType dtype, int g, int dim, int64_t n) {
    SCOPED_TRACE(std::string(DTypeName(dtype)) + " g " + std::to_string(g) + " dim " +
                 std::to_string(dim) + " rows " + std::to_string(n));
    Random random(static_cast<uint64_t>(n * 1000 + dim * 10 + g));
    const auto row_bytes = 2 * DTypeSize(dtype) * static_cast<size_t>(dim);
    std::vector<uint8_t> bytes(static_cast<size_t>(n) * row_bytes);
    std::vector<float> numbers(static_cast<size_t>(2 * dim));
    std::vector<std::vector<float>> stored;
    std::vector<const uint8_t*> rows;
    for (int64_t i = 0; i < n; ++i) {
      uint8_t* row = bytes.data() + static_cast<size_t>((i * 7) % n) * row_bytes;
      for (float& x : numbers) x = random.Normal();
      StoreRow(numbers.data(), 2 * dim, dtype, row);
      LoadRow(row, 2 * dim, dtype, numbers.data());
      rows.push_back(row);
      stored.push_back(numbers);
    }
    std::vector<float> queries(static_cast<size_t>(g * dim)), weights;
    for (float& x : queries) x = random.Normal();
    std::vector<float> logits(static_cast<size_t>(g * kRowBlock)), out(queries);
    const RowProducts& products = BodyFor(AllRowProducts(), GetParam());
    std::vector<double> sums(out.begin(), out.end()), sizes(out.size(), 1);
    for (int64_t begin = 0; begin < n; begin += kRowBlock) {
      const RowBlockTask task{{dtype, dim, static_cast<int64_t>(row_bytes / 2)},
                              rows,
                              begin,
                              std::min(kRowBlock, n - begin),
                              g};
      products.logits(task, queries.data(), 0.5f, logits.data());
      for (int h = 0; h < g; ++h) {
        for (int64_t i = 0; i < task.count; ++i) {
          const std::vector<float>& row = stored[static_cast<size_t>(begin + i)];
          double sum = 0, size = 0;
          for (int d = 0; d < dim; ++d) {
            const double term =
                0.5 * queries[static_cast<size_t>(h * dim + d)] * row[static_cast<size_t>(d)];
            sum += term;
            size += std::abs(term);
          }
          const float found = logits[static_cast<size_t>(h * kRowBlock + i)];
          ASSERT_NEAR(found, sum, Tolerance(DType::kF32, size)) << "head " << h << " row " << i;
        }
      }
      weights = logits;
      products.add_values(task, weights.data(), out.data());
      for (int h = 0; h < g; ++h) {
        for (int d = 0; d < dim; ++d) {
          const auto at = static_cast<size_t>(h * dim + d);
          for (int64_t i = 0; i < task.count; ++i) {
            const double term =
                double{weights[static_cast<size_t>(h * kRowBlock + i)]} *
                stored[static_cast<size_t>(begin + i)][static_cast<size_t>(dim + d)];
            sums[at] += term;
            sizes[at] += std::abs(term);
          }
        }
      }
    }
    for (size_t i = 0; i < out.size(); ++i) {
      ASSERT_NEAR(out[i], sums[i], Tolerance(DType::kF32, sizes[i])) << i;
    }
  }
};

TEST_P(RowProductsTest, AreThoseOfDoublePrecision) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int g : {1, 2, 4, 7, 8}) {
      for (const int dim : {1, 3, 16, 17, 64, 80, 128}) {
        for (const int64_t n : {1, 2, 15, 16, 64, 65, 150}) Check(dtype, g, dim, n);
      }
    }
  }
}

std::string NameOf(const ::testing::TestParamInfo<Isa>& isa) {
  return std::string(IsaName(isa.param));
}

INSTANTIATE_TEST_SUITE_P(Isas, RowProductsTest, ::testing::ValuesIn(kIsas), NameOf);

}  // namespace
}  // namespace pqcache::attention
