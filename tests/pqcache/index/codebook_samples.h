#pragma once

// Codebooks and naive arithmetic for the tests of this folder.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "pqcache/index/codebook.h"
#include "tests/support/random_data.h"

namespace pqcache::testing {

// Q [D, D], orthogonal: a product of eight Householder reflections.
inline std::vector<double> RandomOrthogonal(int dim, uint64_t seed) {
  std::vector<double> q(static_cast<size_t>(dim) * dim, 0.0);
  for (int i = 0; i < dim; ++i) q[i * dim + i] = 1;
  for (uint64_t r = 0; r < 8; ++r) {
    const std::vector<float> mirror = RandomNormals(dim, MixSeed(seed, r));
    double length = 0;
    for (const float v : mirror) length += double{v} * v;
    for (int row = 0; row < dim; ++row) {
      double along = 0;
      for (int d = 0; d < dim; ++d) along += q[row * dim + d] * mirror[d];
      for (int d = 0; d < dim; ++d) q[row * dim + d] -= 2 * along / length * mirror[d];
    }
  }
  return q;
}

// Normal centroids; with `rotated`, A = Q S and B = Q S^-1 for a diagonal S from 1/2 to 2, so that
// A is neither symmetric nor orthogonal and B = A^-T.
inline HeadCodebook::Parts RandomParts(const PqShape& shape, bool rotated, uint64_t seed) {
  HeadCodebook::Parts parts;
  parts.shape = shape;
  parts.centroids = RandomNormals(int64_t{shape.centroids()} * shape.dim, seed);
  if (!rotated) return parts;
  const int dim = shape.dim;
  const std::vector<double> q = RandomOrthogonal(dim, seed);
  for (int row = 0; row < dim; ++row) {
    for (int d = 0; d < dim; ++d) {
      const double stretch = std::exp2(2.0 * d / dim - 1);
      parts.key_transform.push_back(static_cast<float>(q[row * dim + d] * stretch));
      parts.query_transform.push_back(static_cast<float>(q[row * dim + d] / stretch));
    }
  }
  return parts;
}

// Frequencies of a rotary embedding of 2 * pairs <= D channels, normal means times `length`.
inline PositionMean RandomPositionMean(int dim, int pairs, uint64_t seed, float length = 1) {
  std::vector<float> frequencies, mean = RandomNormals(dim, seed);
  for (int i = 0; i < pairs; ++i) {
    frequencies.push_back(static_cast<float>(std::pow(10000.0, -1.0 * i / pairs)));
  }
  for (float& x : mean) x *= length;
  return PositionMean::Create(dim, std::move(mean), std::move(frequencies)).value();
}

inline HeadCodebook RandomCodebook(const PqShape& shape, bool rotated, uint64_t seed) {
  Result<HeadCodebook> codebook = HeadCodebook::Create(RandomParts(shape, rotated, seed));
  PQCACHE_CHECK(codebook.ok(), codebook.status().message().c_str());
  return *std::move(codebook);
}

// codes [N, M], uniform.
inline std::vector<uint8_t> RandomCodes(const PqShape& shape, int64_t n, uint64_t seed) {
  Random random(MixSeed(seed, 4));
  std::vector<uint8_t> codes(static_cast<size_t>(n) * shape.subspaces);
  for (uint8_t& c : codes) {
    c = static_cast<uint8_t>(random.Below(static_cast<uint64_t>(shape.centroids())));
  }
  return codes;
}

// transform [D, D] x [D] in double; the identity when empty.
inline std::vector<double> TransformInDouble(std::span<const float> transform, int dim,
                                             const float* x) {
  std::vector<double> y(x, x + dim);
  if (transform.empty()) return y;
  for (int row = 0; row < dim; ++row) {
    y[row] = 0;
    for (int d = 0; d < dim; ++d) y[row] += double{transform[row * dim + d]} * x[d];
  }
  return y;
}

// "16x8_64", for parameterised tests.
inline std::string ShapeCaseName(const ::testing::TestParamInfo<PqShape>& info) {
  return info.param.Name() + "_" + std::to_string(info.param.dim);
}

// Centroid c of sub-space m, [D/M].
inline const float* CentroidOf(const HeadCodebook& codebook, int m, int c) {
  const PqShape& s = codebook.shape();
  return codebook.centroids().data() +
         (static_cast<size_t>(m) * s.centroids() + c) * static_cast<size_t>(s.sub_dim());
}

}  // namespace pqcache::testing
