#pragma once

// Random rows with the properties that matter for training: clusters, and directions of very
// different size that are not the coordinate axes.

#include <cmath>
#include <cstdint>
#include <vector>

#include "pqcache/base/random.h"
#include "train/key_sampler.h"

namespace pqcache::testing {

inline std::vector<float> NormalRows(int64_t n, int dim, uint64_t seed) {
  Random random(seed);
  std::vector<float> rows(static_cast<size_t>(n * dim));
  for (float& x : rows) x = random.Normal();
  return rows;
}

// rows [N, D] around `clusters` random centres, shifted by `offset` in every coordinate.
inline std::vector<float> ClusteredRows(int64_t n, int dim, int clusters, uint64_t seed,
                                        float offset = 0) {
  const std::vector<float> centers = NormalRows(clusters, dim, MixSeed(seed, 1));
  std::vector<float> rows = NormalRows(n, dim, MixSeed(seed, 2));
  Random random(MixSeed(seed, 3));
  for (int64_t i = 0; i < n; ++i) {
    const auto c = static_cast<int64_t>(random.Below(static_cast<uint64_t>(clusters)));
    for (int d = 0; d < dim; ++d) {
      rows[i * dim + d] = 0.5f * rows[i * dim + d] + 2 * centers[c * dim + d] + offset;
    }
  }
  return rows;
}

// rows [N, D] whose deviations fall from 1 by the factor `decay` a direction, the directions being
// random (products of Householder reflections drawn from `basis_seed`).
inline std::vector<float> AnisotropicRows(int64_t n, int dim, float decay, uint64_t basis_seed,
                                          uint64_t seed) {
  std::vector<float> rows = NormalRows(n, dim, seed);
  const int kReflections = 8;
  const std::vector<float> mirrors = NormalRows(kReflections, dim, basis_seed);
  for (int64_t i = 0; i < n; ++i) {
    float* x = &rows[static_cast<size_t>(i * dim)];
    for (int d = 0; d < dim; ++d) x[d] *= std::pow(decay, static_cast<float>(d));
    for (int r = 0; r < kReflections; ++r) {
      const float* v = &mirrors[static_cast<size_t>(r * dim)];
      float along = 0;
      float length = 0;
      for (int d = 0; d < dim; ++d) {
        along += v[d] * x[d];
        length += v[d] * v[d];
      }
      for (int d = 0; d < dim; ++d) x[d] -= 2 * along / length * v[d];
    }
  }
  return rows;
}

// Samples with n keys and n queries of a head each; head h uses seeds from 100 h on.
inline train::KeySamples AnisotropicSamples(int layers, int kv_heads, int dim, int64_t n) {
  train::KeySamples samples;
  samples.layers = layers;
  samples.kv_heads = kv_heads;
  samples.group = 2;
  samples.dim = dim;
  for (int h = 0; h < layers * kv_heads; ++h) {
    const auto seed = static_cast<uint64_t>(100 * h);
    train::HeadSamples head;
    head.positions.resize(static_cast<size_t>(n));
    head.keys = AnisotropicRows(n, dim, 0.93f, seed, seed + 1);
    head.query_positions.resize(static_cast<size_t>(n));
    head.queries = AnisotropicRows(n, dim, 0.9f, seed + 2, seed + 3);
    samples.heads.push_back(std::move(head));
  }
  return samples;
}

}  // namespace pqcache::testing
