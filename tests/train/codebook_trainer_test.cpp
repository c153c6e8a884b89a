#include "train/codebook_trainer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "pqcache/base/json.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"
#include "tests/train/synthetic.h"
#include "train/kmeans.h"

namespace pqcache::train {
namespace {

using testing::AnisotropicSamples;
using testing::ExpectError;

TrainOptions Options(int dim, const char* shape) {
  TrainOptions options;
  options.shape = PqShape::Parse(shape, dim).value();
  options.iterations = 8;
  options.seed = 5;
  return options;
}

bool SameBytes(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

void ExpectSameBytes(const CodebookSet& a, const CodebookSet& b) {
  ASSERT_EQ(a.heads.size(), b.heads.size());
  EXPECT_EQ(a.report, b.report);
  for (size_t i = 0; i < a.heads.size(); ++i) {
    EXPECT_TRUE(SameBytes(a.heads[i].centroids(), b.heads[i].centroids())) << i;
    EXPECT_TRUE(SameBytes(a.heads[i].key_transform(), b.heads[i].key_transform())) << i;
    EXPECT_TRUE(SameBytes(a.heads[i].query_transform(), b.heads[i].query_transform())) << i;
  }
}

TEST(CodebookTrainerTest, ThreadCountDoesNotMatter) {
  const KeySamples samples = AnisotropicSamples(3, 2, 32, 1200);
  for (const KMeansTrainer& trainer : KMeansTrainers()) {
    TrainOptions options = Options(32, "8x8");
    options.trainer = trainer.name;
    ThreadPool one(1);
    const auto expected = TrainCodebooks(samples, options, &one);
    ASSERT_OK(expected);
    for (int threads : {2, 3}) {
      ThreadPool pool(threads);
      const auto set = TrainCodebooks(samples, options, &pool);
      ASSERT_OK(set);
      ExpectSameBytes(*expected, *set);
    }
    options.seed = 6;
    const auto other = TrainCodebooks(samples, options, &one);
    ASSERT_OK(other);
    EXPECT_FALSE(SameBytes(other->heads[0].centroids(), expected->heads[0].centroids()));
  }
}

TEST(CodebookTrainerTest, DescribesItself) {
  const KeySamples samples = AnisotropicSamples(2, 2, 16, 400);
  ThreadPool pool(2);
  std::vector<double> shares;
  TrainOptions options = Options(16, "4x4");
  options.rotation = Rotation::kPca;
  const auto set = TrainCodebooks(samples, options, &pool, [&](double s) { shares.push_back(s); });
  ASSERT_OK(set);
  EXPECT_EQ(set->rotation, "pca");
  EXPECT_EQ(set->layers, 2);
  EXPECT_EQ(set->kv_heads, 2);
  EXPECT_EQ(set->shape(), options.shape);
  EXPECT_EQ(shares, (std::vector<double>{0.25, 0.5, 0.75, 1.0}));

  const Json report = Json::Parse(set->report).value();
  EXPECT_EQ(report.GetString("trainer").value(), "own");
  EXPECT_EQ(report.GetString("shape").value(), "4x4");
  EXPECT_EQ(report.GetInt("iterations").value(), 8);
  const Json::Array& heads = report.Find("heads")->AsArray();
  ASSERT_EQ(heads.size(), 4u);
  EXPECT_EQ(heads[0].GetInt("keys").value(), 400);
  const double error = heads[0].GetDouble("relative_error").value();
  EXPECT_GT(error, 0.05);
  EXPECT_LT(error, 0.6);
}

TEST(CodebookTrainerTest, SurvivesTheFile) {
  const KeySamples samples = AnisotropicSamples(1, 2, 16, 400);
  ThreadPool pool(1);
  const auto set = TrainCodebooks(samples, Options(16, "4x4"), &pool);
  ASSERT_OK(set);
  const testing::TempDir dir;
  ASSERT_OK(SaveCodebooks(*set, dir.File("book.pqcb")));
  const auto loaded = LoadCodebooks(dir.File("book.pqcb"));
  ASSERT_OK(loaded);
  ExpectSameBytes(*set, **loaded);
}

// Expected squared error of <q, k> over queries and keys that were not trained on.
double InnerProductError(const HeadCodebook& codebook, const std::vector<float>& keys,
                         const std::vector<float>& queries) {
  const int dim = codebook.shape().dim;
  const int64_t n = std::ssize(keys) / dim;
  std::vector<uint8_t> codes(static_cast<size_t>(n) * codebook.shape().subspaces);
  std::vector<float> decoded(keys.size());
  codebook.Encode(0, n, keys.data(), codes.data());
  codebook.Decode(0, n, codes.data(), decoded.data());
  double error = 0;
  for (int64_t i = 0; i < n; ++i) {
    double product = 0;
    for (int d = 0; d < dim; ++d) {
      product += queries[i * dim + d] * (keys[i * dim + d] - decoded[i * dim + d]);
    }
    error += product * product;
  }
  return error;
}

TEST(CodebookTrainerTest, QueryRotationBeatsNone) {
  constexpr int kDim = 32;
  const KeySamples samples = AnisotropicSamples(1, 1, kDim, 3000);
  const std::vector<float> keys = testing::AnisotropicRows(2000, kDim, 0.93f, 0, 71);
  const std::vector<float> queries = testing::AnisotropicRows(2000, kDim, 0.9f, 2, 72);
  ThreadPool pool(1);
  double errors[3];
  for (Rotation r : {Rotation::kNone, Rotation::kPca, Rotation::kQuery}) {
    TrainOptions options = Options(kDim, "8x8");
    options.rotation = r;
    const auto set = TrainCodebooks(samples, options, &pool);
    ASSERT_OK(set);
    errors[static_cast<int>(r)] = InnerProductError(set->heads[0], keys, queries);
  }
  EXPECT_LT(errors[2], 0.6 * errors[0]);
  EXPECT_LT(errors[2], errors[1]);
}

// Half of the queries look along one axis, half along another, where errors should be small.
TEST(CodebookTrainerTest, LateQueriesCountMore) {
  constexpr int kDim = 16;
  KeySamples samples = AnisotropicSamples(1, 1, kDim, 2000);
  HeadSamples& head = samples.heads[0];
  head.keys = testing::NormalRows(2000, kDim, 5);
  const auto share_of_late_axis = [&](int64_t late) {
    for (size_t i = 0; i < 2000; ++i) {
      head.query_positions[i] = i % 2 == 0 ? 0 : late;
      for (size_t d = 0; d < kDim; ++d) head.queries[i * kDim + d] = d == i % 2 ? 1.0f : 0.0f;
    }
    ThreadPool pool(1);
    const auto set = TrainCodebooks(samples, Options(kDim, "2x8"), &pool);
    EXPECT_OK(set);
    std::vector<float> axes[2];
    for (int axis : {0, 1}) {
      axes[axis].assign(head.keys.size(), 0.0f);
      for (size_t i = 0; i < 2000; ++i) axes[axis][i * kDim + static_cast<size_t>(axis)] = 1;
    }
    return InnerProductError(set->heads[0], head.keys, axes[1]) /
           InnerProductError(set->heads[0], head.keys, axes[0]);
  };
  EXPECT_NEAR(share_of_late_axis(0), 1.0, 0.25);
  EXPECT_LT(share_of_late_axis(99), 0.5);
}

TEST(CodebookTrainerTest, TooFewDistinctKeys) {
  KeySamples samples = AnisotropicSamples(2, 2, 16, 400);
  std::vector<float>& keys = samples.heads[3].keys;
  for (size_t i = 15 * 16; i < keys.size(); ++i) keys[i] = keys[i % (15 * 16)];
  ThreadPool pool(2);
  ExpectError(TrainCodebooks(samples, Options(16, "4x4"), &pool), StatusCode::kInvalidArgument,
              "layer 1 head 1: found 15 distinct sample keys, expected at least 16");
  samples.heads[0].keys.clear();
  ExpectError(TrainCodebooks(samples, Options(16, "4x4"), &pool), StatusCode::kInvalidArgument,
              "layer 0 head 0: found 0 distinct");
}

TEST(CodebookTrainerTest, OptionsAreChecked) {
  const KeySamples samples = AnisotropicSamples(1, 1, 16, 400);
  ThreadPool pool(1);
  ExpectError(TrainCodebooks(samples, Options(32, "4x4"), &pool), StatusCode::kInvalidArgument,
              "head size 16, expected 32");
  TrainOptions options = Options(16, "4x4");
  options.trainer = "other";
  ExpectError(TrainCodebooks(samples, options, &pool), StatusCode::kInvalidArgument,
              "expected one of: own, faiss");
  options = Options(16, "4x4");
  options.shape.subspaces = 3;
  ExpectError(TrainCodebooks(samples, options, &pool), StatusCode::kInvalidArgument, "3x4");
  KeySamples broken = samples;
  broken.kv_heads = 2;
  ExpectError(TrainCodebooks(broken, Options(16, "4x4"), &pool), StatusCode::kInvalidArgument,
              "1 heads, expected 1 layers x 2 KV heads");
  broken = samples;
  broken.heads[0].queries.pop_back();
  ExpectError(TrainCodebooks(broken, Options(16, "4x4"), &pool), StatusCode::kInvalidArgument,
              "whole rows of 16");
  broken = samples;
  broken.heads[0].keys[5] = NAN;
  for (Rotation r : {Rotation::kNone, Rotation::kPca, Rotation::kQuery}) {
    options = Options(16, "4x4");
    options.rotation = r;
    ExpectError(TrainCodebooks(broken, options, &pool), StatusCode::kInvalidArgument, "not finite");
  }
}

}  // namespace
}  // namespace pqcache::train
