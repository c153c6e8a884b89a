#pragma once

// Linear maps that make keys easier to quantise and leave every inner product as it is: A maps
// keys, B maps queries, <B q, A k> = <q, k>.
//
//   pca    A = B = R. The rows of R are the eigenvectors of the keys' covariance, dealt to the M
//          sub-spaces so that the log-variances add up to nearly the same in each (eigenvalue
//          allocation: Ge, He, Ke, Sun, "Optimized product quantization", 2013, section 3.2).
//   query  k-means minimises a distance, but what counts is the expected error of <q, k>, which is
//          the distance weighted by the queries' second moment C = E[q q^T]. With W = C^(1/2) keys
//          become W k and queries W^-1 q; then pca in that space: A = R W, B = R W^-1.
//
// In C, 1e-3 of its mean diagonal is added to the diagonal and eigenvalues are raised to 1e-4 of
// the largest, so that W^-1 exists and its numbers stay moderate.

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pqcache/base/status.h"
#include "pqcache/index/codebook.h"

namespace pqcache::train {

enum class Rotation { kNone, kPca, kQuery };

// "none", "pca" or "query".
std::string_view RotationName(Rotation rotation);
Result<Rotation> ParseRotation(std::string_view text);

struct KeyRotation {
  std::vector<float> key_transform;    // A [D, D], empty for kNone
  std::vector<float> query_transform;  // B [D, D], empty for kNone
};

// From sample keys [N, D] and queries [Nq, D] (read for kQuery only), computed in double. Signs and
// order of the eigenvectors are fixed, so equal samples give equal bytes on one machine. Samples
// without variance in some or all directions are fine. Errors: no keys, no queries for kQuery,
// numbers so large that their squares overflow. Any number of threads may call it.
Result<KeyRotation> BuildRotation(Rotation rotation, const PqShape& shape,
                                  std::span<const float> keys, std::span<const float> queries);

// The order in which directions with these variances, sorted from large to small, [D], are dealt to
// the sub-spaces: [M, D/M] indices into `variances`. Each direction in turn goes to the sub-space
// with room whose log-variances have the smallest sum.
std::vector<int> BalanceVariance(std::span<const double> variances, int subspaces);

}  // namespace pqcache::train
