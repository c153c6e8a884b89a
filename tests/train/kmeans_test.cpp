#include "train/kmeans.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <thread>

#include "pqcache/base/vector_math.h"
#include "tests/support/status_matchers.h"
#include "tests/train/synthetic.h"

namespace pqcache::train {
namespace {

using testing::ClusteredRows;
using testing::ExpectError;
using testing::NormalRows;

KMeansProblem ProblemOf(const PqShape& shape, const std::vector<float>& keys) {
  return {.shape = shape, .rows = std::ssize(keys) / shape.dim, .keys = keys.data()};
}

double PlainError(const KMeansProblem& p, const std::vector<float>& centroids) {
  const int sub = p.shape.sub_dim();
  const int k = p.shape.centroids();
  double error = 0;
  for (int64_t i = 0; i < p.rows; ++i) {
    for (int m = 0; m < p.shape.subspaces; ++m) {
      double best = std::numeric_limits<double>::infinity();
      for (int j = 0; j < k; ++j) {
        double distance = 0;
        for (int d = 0; d < sub; ++d) {
          const double difference =
              double{p.keys[i * p.shape.dim + m * sub + d]} - centroids[(m * k + j) * sub + d];
          distance += difference * difference;
        }
        best = std::min(best, distance);
      }
      error += best;
    }
  }
  return error / static_cast<double>(p.rows);
}

class KMeansTest : public ::testing::TestWithParam<KMeansTrainer> {
 protected:
  std::vector<float> Train(const KMeansProblem& problem) const {
    const auto centroids = TrainKMeans(GetParam().name, problem);
    EXPECT_OK(centroids);
    return centroids.ok() ? *centroids : std::vector<float>();
  }
};

TEST_P(KMeansTest, ErrorFallsWithIterations) {
  const PqShape shape{.dim = 12, .subspaces = 4, .bits = 4};
  const std::vector<float> keys = ClusteredRows(2000, 12, 50, 1);
  KMeansProblem problem = ProblemOf(shape, keys);
  problem.iterations = 1;
  const double first = QuantizationError(problem, Train(problem));
  problem.iterations = 25;
  const std::vector<float> centroids = Train(problem);
  ASSERT_EQ(centroids.size(), size_t{16} * 12);
  const double last = QuantizationError(problem, centroids);
  EXPECT_LT(last, 0.95 * first);
  EXPECT_NEAR(last, PlainError(problem, centroids), 1e-5 * last);
}

TEST_P(KMeansTest, AsManyRowsAsCentroidsAreReproduced) {
  const PqShape shape{.dim = 8, .subspaces = 2, .bits = 4};
  const std::vector<float> keys = NormalRows(16, 8, 3);
  const KMeansProblem problem = ProblemOf(shape, keys);
  EXPECT_NEAR(QuantizationError(problem, Train(problem)), 0, 1e-9);
}

TEST_P(KMeansTest, DuplicatesAndConstantsStayFinite) {
  const PqShape shape{.dim = 8, .subspaces = 2, .bits = 8};
  // Ten different rows, the second sub-space constant.
  std::vector<float> keys = NormalRows(10, 8, 3);
  for (int i = 0; i < 10; ++i) std::fill_n(keys.begin() + i * 8 + 4, 4, 2.5f);
  std::vector<float> repeated;
  for (int i = 0; i < 100; ++i) repeated.insert(repeated.end(), keys.begin(), keys.end());
  const KMeansProblem problem = ProblemOf(shape, repeated);
  const std::vector<float> centroids = Train(problem);
  ASSERT_EQ(centroids.size(), size_t{256} * 8);
  EXPECT_TRUE(AllFinite(centroids.data(), std::ssize(centroids)));
  EXPECT_NEAR(QuantizationError(problem, centroids), 0, 1e-6);
}

TEST_P(KMeansTest, SameSeedSameBytes) {
  const PqShape shape{.dim = 16, .subspaces = 4, .bits = 8};
  const std::vector<float> keys = ClusteredRows(1500, 16, 30, 9);
  KMeansProblem problem = ProblemOf(shape, keys);
  problem.seed = 11;
  const std::vector<float> expected = Train(problem);
  std::vector<float> other;
  std::thread([&] { other = Train(problem); }).join();
  EXPECT_EQ(other, expected);
  problem.seed = 12;
  EXPECT_NE(Train(problem), expected);
}

INSTANTIATE_TEST_SUITE_P(Trainers, KMeansTest,
                         ::testing::ValuesIn(KMeansTrainers().begin(), KMeansTrainers().end()),
                         [](const auto& row) { return std::string(row.param.name); });

// Mean over seeds: the two start from different rows.
TEST(OwnKMeansTest, ErrorIsWithinHalfAPercentOfFaiss) {
  for (const PqShape& shape : {PqShape{64, 16, 4}, PqShape{64, 16, 8}, PqShape{32, 4, 8}}) {
    const std::vector<float> keys = ClusteredRows(4000, shape.dim, 100, 21);
    KMeansProblem problem = ProblemOf(shape, keys);
    double own = 0;
    double faiss = 0;
    for (uint64_t seed = 0; seed < 3; ++seed) {
      problem.seed = seed;
      own += QuantizationError(problem, TrainOwnKMeans(problem).value());
      faiss += QuantizationError(problem, TrainFaissKMeans(problem).value());
    }
    EXPECT_LT(own, 1.005 * faiss) << shape.Name();
    EXPECT_GT(own, 0.98 * faiss) << shape.Name();
  }
}

// 15 rows of 16 are the same point, so most first centroids coincide and their clusters are empty.
TEST(OwnKMeansTest, EmptyClustersAreFilled) {
  const PqShape shape{.dim = 4, .subspaces = 1, .bits = 4};
  const std::vector<float> spread = NormalRows(16, 4, 5);
  std::vector<float> keys(16 * 16 * 4, 7.0f);
  for (int i = 0; i < 15; ++i) {
    std::copy_n(spread.begin() + i * 4, 4, keys.begin() + i * 16 * 4);
  }
  // 15 spread points and the heavy one: each gets a centroid.
  const KMeansProblem problem = ProblemOf(shape, keys);
  EXPECT_NEAR(QuantizationError(problem, TrainOwnKMeans(problem).value()), 0, 1e-6);
}

TEST(OwnKMeansTest, SharedOffsetCostsNoAccuracy) {
  const PqShape shape{.dim = 16, .subspaces = 4, .bits = 8};
  const std::vector<float> keys = ClusteredRows(3000, 16, 40, 2);
  const std::vector<float> shifted = ClusteredRows(3000, 16, 40, 2, 1000.0f);
  const KMeansProblem problem = ProblemOf(shape, keys);
  const KMeansProblem shifted_problem = ProblemOf(shape, shifted);
  const double error = QuantizationError(problem, TrainOwnKMeans(problem).value());
  const std::vector<float> centroids = TrainOwnKMeans(shifted_problem).value();
  EXPECT_NEAR(QuantizationError(shifted_problem, centroids), error, 0.01 * error);
  EXPECT_NEAR(PlainError(shifted_problem, centroids), error, 0.01 * error);
}

TEST(KMeansErrorTest, ProblemsAreChecked) {
  const PqShape shape{.dim = 8, .subspaces = 2, .bits = 4};
  std::vector<float> keys = NormalRows(20, 8, 3);
  KMeansProblem problem = ProblemOf(shape, keys);
  ExpectError(TrainKMeans("lloyd", problem), StatusCode::kInvalidArgument,
              "'lloyd', expected one of: own, faiss");
  problem.rows = 15;
  ExpectError(TrainKMeans("own", problem), StatusCode::kInvalidArgument, "found 15 rows");
  problem.rows = 20;
  problem.iterations = 0;
  ExpectError(TrainKMeans("own", problem), StatusCode::kInvalidArgument, "iterations is 0");
  problem.iterations = 5;
  problem.shape.bits = 5;
  ExpectError(TrainKMeans("faiss", problem), StatusCode::kInvalidArgument, "5 bits");
  problem.shape.bits = 4;
  keys[17] = std::numeric_limits<float>::infinity();
  for (const KMeansTrainer& t : KMeansTrainers()) {
    ExpectError(TrainKMeans(t.name, problem), StatusCode::kInvalidArgument, "not finite");
  }
}

// What FAISS throws arrives as a status: called past the checks, with more centroids than rows.
TEST(KMeansErrorTest, FaissExceptionsBecomeStatus) {
  const std::vector<float> keys = NormalRows(20, 8, 3);
  const KMeansProblem problem = ProblemOf({.dim = 8, .subspaces = 2, .bits = 8}, keys);
  ExpectError(TrainFaissKMeans(problem), StatusCode::kInternal, "FAISS could not train");
}

}  // namespace
}  // namespace pqcache::train
