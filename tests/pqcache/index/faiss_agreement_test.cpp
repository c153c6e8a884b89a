// PqIndex against faiss::IndexPQ with the same centroids: an outside party for codes and scores.

#include <faiss/IndexPQ.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "pqcache/base/single_thread.h"
#include "pqcache/index/pq_index.h"
#include "tests/pqcache/index/codebook_samples.h"
#include "tests/support/tolerances.h"

namespace pqcache {
namespace {

using namespace pqcache::testing;

constexpr int64_t kKeys = 300;

class FaissAgreement : public ::testing::TestWithParam<PqShape> {
 protected:
  FaissAgreement()
      : codebook_(std::make_shared<const HeadCodebook>(RandomCodebook(GetParam(), false, 1))),
        keys_(RandomNormals(kKeys * GetParam().dim, 2)),
        theirs_(GetParam().dim, static_cast<size_t>(GetParam().subspaces),
                static_cast<size_t>(GetParam().bits), faiss::METRIC_INNER_PRODUCT) {
    theirs_.pq.centroids.assign(codebook_->centroids().begin(), codebook_->centroids().end());
    theirs_.is_trained = true;
  }

  // One byte a code, from FAISS' packed bytes.
  std::vector<uint8_t> Unpacked(const std::vector<uint8_t>& packed) const {
    std::vector<uint8_t> codes;
    for (int64_t i = 0; i < kKeys; ++i) {
      const uint8_t* bytes = packed.data() + static_cast<size_t>(i) * theirs_.pq.code_size;
      faiss::PQDecoderGeneric decoder(bytes, GetParam().bits);
      for (int m = 0; m < GetParam().subspaces; ++m) {
        codes.push_back(static_cast<uint8_t>(decoder.decode()));
      }
    }
    return codes;
  }

  double SquaredDistance(int64_t row, int m, int code) const {
    const PqShape& s = GetParam();
    const float* x = &keys_[row * s.dim + m * s.sub_dim()];
    const float* c = CentroidOf(*codebook_, m, code);
    double sum = 0;
    for (int d = 0; d < s.sub_dim(); ++d) sum += (double{x[d]} - c[d]) * (double{x[d]} - c[d]);
    return sum;
  }

  const SingleThreadScope single_thread_;
  std::shared_ptr<const HeadCodebook> codebook_;
  std::vector<float> keys_;
  faiss::IndexPQ theirs_;
};

TEST_P(FaissAgreement, CodesAreTheSameExceptForTies) {
  const PqShape& s = GetParam();
  theirs_.add(kKeys, keys_.data());
  const std::vector<uint8_t> expected = Unpacked(theirs_.codes);
  std::vector<uint8_t> codes(expected.size());
  codebook_->Encode(0, kKeys, keys_.data(), codes.data());
  for (int64_t i = 0; i < kKeys; ++i) {
    for (int m = 0; m < s.subspaces; ++m) {
      const int ours = codes[i * s.subspaces + m];
      const int other = expected[i * s.subspaces + m];
      if (ours == other) continue;
      const double distance = SquaredDistance(i, m, other);
      EXPECT_NEAR(SquaredDistance(i, m, ours), distance, Tolerance(DType::kF32, distance + 1))
          << "key " << i << " sub-space " << m << ": " << ours << " against " << other;
    }
  }
}

TEST_P(FaissAgreement, ScoresAndReconstructionsAreTheSame) {
  const PqShape& s = GetParam();
  theirs_.add(kKeys, keys_.data());
  PqIndex ours(codebook_);
  ours.AppendCodes(kKeys, Unpacked(theirs_.codes).data());

  const int g = 3;
  const std::vector<float> queries = RandomNormals(g * s.dim, 3);
  std::vector<float> scores(static_cast<size_t>(g * kKeys));
  ours.Score(g, queries.data(), 1.0f, 0, kKeys, scores.data());
  std::vector<float> keys(static_cast<size_t>(kKeys * s.dim));
  ours.Reconstruct(0, kKeys, keys.data());

  std::vector<float> their_keys(keys.size());
  theirs_.sa_decode(kKeys, theirs_.codes.data(), their_keys.data());
  EXPECT_EQ(keys, their_keys);
  std::vector<float> distances(scores.size());
  std::vector<decltype(theirs_.ntotal)> labels(scores.size());
  theirs_.search(g, queries.data(), kKeys, distances.data(), labels.data());
  for (int q = 0; q < g; ++q) {
    for (int64_t rank = 0; rank < kKeys; ++rank) {
      const int64_t row = labels[q * kKeys + rank];
      ASSERT_GE(row, 0);
      double magnitude = 0;
      for (int d = 0; d < s.dim; ++d) {
        magnitude += std::abs(double{queries[q * s.dim + d]} * keys[row * s.dim + d]);
      }
      EXPECT_NEAR(scores[q * kKeys + row], distances[q * kKeys + rank],
                  Tolerance(DType::kF32, magnitude));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, FaissAgreement,
                         ::testing::Values(PqShape{64, 8, 4}, PqShape{64, 16, 4},
                                           PqShape{64, 16, 8}, PqShape{128, 32, 4},
                                           PqShape{80, 8, 8}),
                         ShapeCaseName);

}  // namespace
}  // namespace pqcache
