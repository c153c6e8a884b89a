#include "pqcache/index/nearest_centroid.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "pqcache/base/aligned_buffer.h"
#include "tests/support/random_data.h"

namespace pqcache {
namespace {

struct Problem {
  NearestCentroidTask task;
  AlignedBuffer<float> coordinates;
  std::vector<float> centroids;
  std::vector<float> half_norms;
};

Problem MakeProblem(int64_t points, int dim, int k, uint64_t seed) {
  Problem p;
  p.coordinates.Resize(static_cast<size_t>(points * dim));
  const std::vector<float> values = testing::RandomNormals(points * dim, seed);
  std::copy(values.begin(), values.end(), p.coordinates.data());
  p.centroids = testing::RandomNormals(int64_t{k} * dim, seed + 1);
  for (int j = 0; j < k; ++j) {
    float norm = 0;
    for (int d = 0; d < dim; ++d) norm += p.centroids[j * dim + d] * p.centroids[j * dim + d];
    p.half_norms.push_back(norm / 2);
  }
  p.task = {.points = points,
            .dim = dim,
            .centroids = k,
            .coordinates = p.coordinates.data(),
            .centroid_rows = p.centroids.data(),
            .half_norms = p.half_norms.data()};
  return p;
}

double SquaredDistanceTo(const Problem& p, int64_t point, int centroid) {
  double sum = 0;
  for (int d = 0; d < p.task.dim; ++d) {
    const double difference =
        double{p.coordinates[d * p.task.points + point]} - p.centroids[centroid * p.task.dim + d];
    sum += difference * difference;
  }
  return sum;
}

class NearestCentroidTest : public ::testing::TestWithParam<NearestCentroidKernel> {
 protected:
  void SetUp() override {
    if (!IsaSupported(GetParam().isa)) {
      GTEST_SKIP() << "this CPU has no " << IsaName(GetParam().isa);
    }
  }
};

TEST_P(NearestCentroidTest, FindsTheNearest) {
  for (int dim : {1, 2, 3, 4, 8, 13, 32}) {
    for (int k : {4, 16, 256}) {
      const Problem p = MakeProblem(96, dim, k, static_cast<uint64_t>(dim * 1000 + k));
      std::vector<uint8_t> nearest(96);
      GetParam().run(p.task, nearest.data());
      for (int64_t i = 0; i < 96; ++i) {
        double best = std::numeric_limits<double>::infinity();
        for (int j = 0; j < k; ++j) best = std::min(best, SquaredDistanceTo(p, i, j));
        ASSERT_LT(nearest[i], k);
        ASSERT_NEAR(SquaredDistanceTo(p, i, nearest[i]), best, 1e-5)
            << "dim " << dim << " K " << k << " point " << i;
      }
    }
  }
}

// The same centroid as the base instruction set finds, also one by one.
TEST_P(NearestCentroidTest, GivesTheSameBitsOnEveryInstructionSet) {
  for (int dim : {1, 8, 13}) {
    for (int k : {16, 256}) {
      const Problem p = MakeProblem(4096, dim, k, static_cast<uint64_t>(dim + k));
      std::vector<uint8_t> expected(4096), nearest(4096);
      NearestCentroidKernels()[0].run(p.task, expected.data());
      GetParam().run(p.task, nearest.data());
      EXPECT_EQ(nearest, expected);
      std::vector<float> columns(static_cast<size_t>(dim * k)), point(static_cast<size_t>(dim));
      for (int j = 0; j < k; ++j) {
        for (int d = 0; d < dim; ++d) columns[d * k + j] = p.centroids[j * dim + d];
      }
      for (int64_t i = 0; i < 4096; i += 5) {
        for (int d = 0; d < dim; ++d) point[d] = p.coordinates[d * 4096 + i];
        ASSERT_EQ(GetParam().run_one({dim, k, point.data(), columns.data(), p.half_norms.data()}),
                  expected[i])
            << i;
      }
    }
  }
}

TEST_P(NearestCentroidTest, TieGoesToTheLower) {
  Problem p = MakeProblem(32, 4, 16, 5);
  for (int j = 0; j < 16; ++j) {
    std::copy_n(p.centroids.begin() + (j % 4) * 4, 4, p.centroids.begin() + j * 4);
    p.half_norms[j] = p.half_norms[j % 4];
  }
  std::vector<uint8_t> nearest(32);
  GetParam().run(p.task, nearest.data());
  for (uint8_t j : nearest) EXPECT_LT(j, 4);
  std::vector<float> columns(4 * 16), point(4);
  for (int j = 0; j < 16; ++j) {
    for (int d = 0; d < 4; ++d) columns[d * 16 + j] = p.centroids[j * 4 + d];
  }
  for (int d = 0; d < 4; ++d) point[d] = p.coordinates[d * 32];
  EXPECT_EQ(GetParam().run_one({4, 16, point.data(), columns.data(), p.half_norms.data()}),
            nearest[0]);
}

TEST_P(NearestCentroidTest, NotANumberGivesZero) {
  Problem p = MakeProblem(32, 2, 16, 5);
  p.coordinates[7] = std::numeric_limits<float>::quiet_NaN();
  std::vector<uint8_t> nearest(32, 99);
  GetParam().run(p.task, nearest.data());
  EXPECT_EQ(nearest[7], 0);
}

INSTANTIATE_TEST_SUITE_P(Kernels, NearestCentroidTest,
                         ::testing::ValuesIn(NearestCentroidKernels().begin(),
                                             NearestCentroidKernels().end()),
                         [](const auto& row) { return std::string(IsaName(row.param.isa)); });

}  // namespace
}  // namespace pqcache
