#include "pqcache/index/codebook.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string_view>
#include <vector>

#include "tests/pqcache/index/codebook_samples.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tolerances.h"

namespace pqcache {
namespace {

using namespace pqcache::testing;

const struct {
  PqShape shape;
  bool rotated;
} kCases[] = {
    {{16, 4, 4}, false}, {{16, 4, 4}, true},   {{64, 16, 4}, true},  {{64, 8, 8}, true},
    {{80, 16, 8}, true}, {{128, 32, 4}, true}, {{128, 1, 8}, false}, {{6, 6, 8}, true},
};

double SquaredDistance(const double* x, const float* centroid, int n) {
  double sum = 0;
  for (int d = 0; d < n; ++d) sum += (x[d] - centroid[d]) * (x[d] - centroid[d]);
  return sum;
}

double Length(const double* x, int n) {
  double sum = 0;
  for (int d = 0; d < n; ++d) sum += x[d] * x[d];
  return std::sqrt(sum);
}

double Inner(const float* a, const float* b, int n, double* magnitude) {
  double sum = 0;
  for (int d = 0; d < n; ++d) {
    sum += double{a[d]} * b[d];
    *magnitude += std::abs(double{a[d]} * b[d]);
  }
  return sum;
}

TEST(HeadCodebook, EncodesToTheNearestCentroid) {
  for (const auto& c : kCases) {
    const HeadCodebook codebook = RandomCodebook(c.shape, c.rotated, 1);
    const PqShape& s = c.shape;
    const int64_t n = 100;
    const std::vector<float> keys = RandomNormals(n * s.dim, 2);
    std::vector<uint8_t> codes(static_cast<size_t>(n * s.subspaces));
    codebook.Encode(0, n, keys.data(), codes.data());
    for (int64_t i = 0; i < n; ++i) {
      const std::vector<double> x =
          TransformInDouble(codebook.key_transform(), s.dim, &keys[i * s.dim]);
      for (int m = 0; m < s.subspaces; ++m) {
        const double* sub = &x[m * s.sub_dim()];
        double best = std::numeric_limits<double>::infinity();
        for (int k = 0; k < s.centroids(); ++k) {
          best = std::min(best, SquaredDistance(sub, CentroidOf(codebook, m, k), s.sub_dim()));
        }
        const int code = codes[i * s.subspaces + m];
        ASSERT_LT(code, s.centroids());
        const double found = SquaredDistance(sub, CentroidOf(codebook, m, code), s.sub_dim());
        const double length = Length(sub, s.sub_dim());
        EXPECT_LE(found, best + Tolerance(DType::kF32, length * length + found)) << s.Name();
      }
    }
  }
}

// Whole numbers are exact in float32, so the code is the very first of the nearest centroids.
TEST(HeadCodebook, TiesGoToTheLowerCentroid) {
  for (const PqShape& s : {PqShape{8, 4, 4}, PqShape{12, 6, 8}, PqShape{64, 16, 4}}) {
    HeadCodebook::Parts parts;
    parts.shape = s;
    parts.centroids = RandomIntegers(int64_t{s.centroids()} * s.dim, -2, 2, 3);
    const HeadCodebook codebook = *HeadCodebook::Create(parts);
    const int64_t n = 200;
    const std::vector<float> keys = RandomIntegers(n * s.dim, -3, 3, 4);
    std::vector<uint8_t> codes(static_cast<size_t>(n * s.subspaces));
    codebook.Encode(0, n, keys.data(), codes.data());
    int64_t ties = 0;
    for (int64_t i = 0; i < n; ++i) {
      const std::vector<double> x(&keys[i * s.dim], &keys[i * s.dim] + s.dim);
      for (int m = 0; m < s.subspaces; ++m) {
        std::vector<double> distances;
        for (int k = 0; k < s.centroids(); ++k) {
          distances.push_back(
              SquaredDistance(&x[m * s.sub_dim()], CentroidOf(codebook, m, k), s.sub_dim()));
        }
        const auto best = std::min_element(distances.begin(), distances.end());  // the first one
        ties += std::count(distances.begin(), distances.end(), *best) > 1 ? 1 : 0;
        EXPECT_EQ(codes[i * s.subspaces + m], best - distances.begin());
      }
    }
    EXPECT_GT(ties, 100);
  }
}

TEST(HeadCodebook, DecodingUndoesTheKeyTransform) {
  for (const auto& c : kCases) {
    const HeadCodebook codebook = RandomCodebook(c.shape, c.rotated, 5);
    const PqShape& s = c.shape;
    const int64_t n = 20;
    const std::vector<uint8_t> codes = RandomCodes(s, n, 6);
    std::vector<float> keys(static_cast<size_t>(n * s.dim));
    codebook.Decode(0, n, codes.data(), keys.data());
    for (int64_t i = 0; i < n; ++i) {
      const float* key = &keys[i * s.dim];
      const std::vector<double> x = TransformInDouble(codebook.key_transform(), s.dim, key);
      const std::vector<double> plain(key, key + s.dim);
      // A stretches by at most 2.
      const double tolerance = Tolerance(DType::kF32, 4 * Length(plain.data(), s.dim));
      for (int d = 0; d < s.dim; ++d) {
        const int m = d / s.sub_dim();
        const float* centroid = CentroidOf(codebook, m, codes[i * s.subspaces + m]);
        EXPECT_NEAR(x[d], centroid[d % s.sub_dim()], c.rotated ? tolerance : 0) << s.Name();
      }
    }
  }
}

TEST(HeadCodebook, CentroidsEncodeToThemselves) {
  for (const auto& c : kCases) {
    const HeadCodebook codebook = RandomCodebook(c.shape, c.rotated, 7);
    if (c.shape.sub_dim() == 1) continue;  // 256 numbers on a line lie too close for float32
    const int64_t n = 50;
    const std::vector<uint8_t> codes = RandomCodes(c.shape, n, 8);
    std::vector<float> keys(static_cast<size_t>(n * c.shape.dim));
    codebook.Decode(0, n, codes.data(), keys.data());
    std::vector<uint8_t> again(codes.size());
    codebook.Encode(0, n, keys.data(), again.data());
    EXPECT_EQ(codes, again) << c.shape.Name();
  }
}

TEST(HeadCodebook, TableSumsAreScoresOfDecodedKeys) {
  for (const auto& c : kCases) {
    const HeadCodebook codebook = RandomCodebook(c.shape, c.rotated, 9);
    const PqShape& s = c.shape;
    const int64_t n = 20;
    const int g = 3;
    const float scale = 0.3f;
    const std::vector<uint8_t> codes = RandomCodes(s, n, 10);
    const std::vector<float> queries = RandomNormals(g * s.dim, 11, 4);
    std::vector<float> keys(static_cast<size_t>(n * s.dim));
    codebook.Decode(0, n, codes.data(), keys.data());
    const int table_size = s.subspaces * s.centroids();
    std::vector<float> tables(static_cast<size_t>(g * table_size) + 1, -7.0f);
    codebook.BuildTables(g, queries.data(), scale, tables.data());
    EXPECT_EQ(tables.back(), -7.0f);
    for (int q = 0; q < g; ++q) {
      for (int64_t i = 0; i < n; ++i) {
        double sum = 0;
        for (int m = 0; m < s.subspaces; ++m) {
          sum += tables[q * table_size + m * s.centroids() + codes[i * s.subspaces + m]];
        }
        double magnitude = 0;
        const double exact = Inner(&queries[q * s.dim], &keys[i * s.dim], s.dim, &magnitude);
        EXPECT_NEAR(sum, scale * exact, Tolerance(DType::kF32, scale * magnitude)) << s.Name();
      }
    }
  }
}

// |<q, k> - <q, k^>| <= sum over m of |(B q)_m| |(A k)_m - centroid_m|, by Cauchy and Schwarz.
TEST(HeadCodebook, ScoreErrorStaysWithinItsBound) {
  for (const auto& c : kCases) {
    const HeadCodebook codebook = RandomCodebook(c.shape, c.rotated, 12);
    const PqShape& s = c.shape;
    const int64_t n = 50;
    const std::vector<float> keys = RandomNormals(n * s.dim, 13);
    const std::vector<float> query = RandomNormals(s.dim, 14);
    std::vector<uint8_t> codes(static_cast<size_t>(n * s.subspaces));
    codebook.Encode(0, n, keys.data(), codes.data());
    std::vector<float> decoded(keys.size());
    codebook.Decode(0, n, codes.data(), decoded.data());
    const std::vector<double> q =
        TransformInDouble(codebook.query_transform(), s.dim, query.data());
    for (int64_t i = 0; i < n; ++i) {
      const float* key = &keys[i * s.dim];
      const std::vector<double> x = TransformInDouble(codebook.key_transform(), s.dim, key);
      double magnitude = 0;
      const double error = Inner(query.data(), key, s.dim, &magnitude) -
                           Inner(query.data(), &decoded[i * s.dim], s.dim, &magnitude);
      double bound = Tolerance(DType::kF32, magnitude);
      for (int m = 0; m < s.subspaces; ++m) {
        const float* centroid = CentroidOf(codebook, m, codes[i * s.subspaces + m]);
        bound += Length(&q[m * s.sub_dim()], s.sub_dim()) *
                 std::sqrt(SquaredDistance(&x[m * s.sub_dim()], centroid, s.sub_dim()));
      }
      EXPECT_LE(std::abs(error), bound) << s.Name();
    }
  }
}

// Against keys that lie around their code as far as the residual says.
TEST(HeadCodebook, ScoreNatsAreWhatTheMeanExponentialGainsOverThatOfTheScore) {
  const int64_t n = 20000;
  for (const auto& c : kCases) {
    const int dim = c.shape.dim;
    const float residual = 0.8f * static_cast<float>(dim),
                scale = 1 / std::sqrt(static_cast<float>(dim));
    const HeadCodebook unknown = RandomCodebook(c.shape, c.rotated, 15);
    const HeadCodebook codebook = unknown.WithResidual(residual).value();
    const std::vector<float> query = RandomNormals(dim, 16);
    const std::vector<double> q = TransformInDouble(codebook.query_transform(), dim, query.data());
    const std::vector<float> away = RandomNormals(n * dim, 17, std::sqrt(0.8f));
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) {
      sum += std::exp(scale * std::inner_product(q.begin(), q.end(), away.begin() + i * dim, 0.0));
    }
    const float nats = codebook.ScoreNats(query.data(), scale);
    EXPECT_GT(nats, 0.1f);
    EXPECT_NEAR(nats, std::log(sum / static_cast<double>(n)), 0.1 * nats) << c.shape.Name();
    EXPECT_EQ(unknown.ScoreNats(query.data(), scale), 0);
  }
}

TEST(HeadCodebook, CreateRefusesWrongParts) {
  const PqShape shape = {16, 4, 4};
  const HeadCodebook::Parts good = RandomParts(shape, true, 15);
  EXPECT_OK(HeadCodebook::Create(good));
  const auto expect_error = [&](auto&& change, const char* piece) {
    HeadCodebook::Parts parts = good;
    change(&parts);
    ExpectError(HeadCodebook::Create(parts), StatusCode::kInvalidArgument, piece);
  };
  using Parts = HeadCodebook::Parts;
  expect_error([](Parts* p) { p->shape.bits = 5; }, "expected 4 or 8");
  expect_error([](Parts* p) { p->centroids.pop_back(); },
               "centroids has 255 numbers, expected 256");
  expect_error([](Parts* p) { p->centroids.clear(); }, "centroids has 0 numbers");
  expect_error([](Parts* p) { p->key_transform.push_back(0); },
               "key transform has 257 numbers, expected 256");
  expect_error([](Parts* p) { p->query_transform.pop_back(); }, "query transform has 255");
  expect_error([](Parts* p) { p->key_transform.clear(); }, "expected both");
  expect_error([](Parts* p) { p->query_transform.clear(); }, "expected both");
  for (const float bad : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
    expect_error([&](Parts* p) { p->centroids[255] = bad; }, "centroids has numbers that are not");
    expect_error([&](Parts* p) { p->key_transform[0] = bad; }, "key transform has numbers");
    expect_error([&](Parts* p) { p->query_transform[7] = bad; }, "query transform has numbers");
    expect_error([&](Parts* p) { p->residual = bad; }, "residual is");
  }
  expect_error([](Parts* p) { p->residual = -1; }, "residual is -1.000000");
}

// Whole blocks and single keys are encoded by different loops.
TEST(HeadCodebook, ResidualsAreTheDistancesToWhatCodesSay) {
  const PqShape shape = {16, 4, 4};
  const HeadCodebook codebook = RandomCodebook(shape, false, 3);
  const int64_t n = 75;
  const std::vector<float> keys = RandomNormals(n * shape.dim, 4);
  std::vector<uint8_t> codes(static_cast<size_t>(n) * shape.subspaces);
  std::vector<float> decoded(keys.size());
  double residuals = 1;
  codebook.Encode(0, n, keys.data(), codes.data(), &residuals);
  codebook.Decode(0, n, codes.data(), decoded.data());
  double expected = 1;
  for (size_t i = 0; i < keys.size(); ++i) {
    expected += (keys[i] - decoded[i]) * (keys[i] - decoded[i]);
  }
  EXPECT_NEAR(residuals, expected, Tolerance(DType::kF32, expected));
}

TEST(PqShape, DerivedNumbers) {
  const PqShape a = {128, 16, 8};
  EXPECT_EQ(a.centroids(), 256);
  EXPECT_EQ(a.sub_dim(), 8);
  EXPECT_EQ(a.bytes_per_key(), 16);
  EXPECT_EQ(a.Name(), "16x8");
  const PqShape b = {64, 32, 4};
  EXPECT_EQ(b.centroids(), 16);
  EXPECT_EQ(b.sub_dim(), 2);
  EXPECT_EQ(b.bytes_per_key(), 16);
}

TEST(PqShape, ParsesWhatItNames) {
  for (const PqShape& shape : {PqShape{64, 16, 8}, PqShape{128, 32, 4}, PqShape{1, 1, 8},
                               PqShape{4096, 4096, 4}, PqShape{80, 2, 4}}) {
    const Result<PqShape> parsed = PqShape::Parse(shape.Name(), shape.dim);
    ASSERT_OK(parsed);
    EXPECT_EQ(*parsed, shape);
  }
}

TEST(PqShape, ParseRefusesEverythingElse) {
  const struct {
    std::string_view text;
    int dim;
    const char* piece;
  } rows[] = {
      {"", 64, "expected MxBITS"},
      {"16", 64, "expected MxBITS"},
      {"x8", 64, "expected MxBITS"},
      {"16x", 64, "expected MxBITS"},
      {"16X8", 64, "expected MxBITS"},
      {"16x8 ", 64, "expected MxBITS"},
      {" 16x8", 64, "expected MxBITS"},
      {"16x8x2", 64, "expected MxBITS"},
      {"+16x8", 64, "expected MxBITS"},
      {"99999999999x8", 64, "expected MxBITS"},
      {"16x5", 64, "has 5 bits, expected 4 or 8"},
      {"16x0", 64, "expected 4 or 8"},
      {"16x-8", 64, "expected 4 or 8"},
      {"16x16", 64, "expected 4 or 8"},
      {"0x8", 64, "does not divide"},
      {"-16x8", 64, "does not divide"},
      {"7x8", 64, "does not divide the head size 64"},
      {"128x8", 64, "does not divide"},
      {"3x4", 12, "expected an even M"},
      {"1x4", 12, "expected an even M"},
      {"1x8", 0, "head size 0, expected 1 to 4096"},
      {"1x8", -64, "head size -64"},
      {"1x8", 4097, "head size 4097"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.text);
    ExpectError(PqShape::Parse(row.text, row.dim), StatusCode::kInvalidArgument, row.piece);
  }
}

}  // namespace
}  // namespace pqcache
