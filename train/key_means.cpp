#include "train/key_means.h"

#include <algorithm>
#include <string>

namespace pqcache::train {

Result<PositionMean> MeasurePositionMean(int dim, std::span<const float> keys,
                                         std::span<const int64_t> positions,
                                         std::span<const float> frequencies) {
  if (positions.empty() || std::ssize(keys) != std::ssize(positions) * dim) {
    return Status::InvalidArgument("position mean: found " + std::to_string(positions.size()) +
                                   " positions of " + std::to_string(std::ssize(keys) / dim) +
                                   " sample keys, expected one for each");
  }
  if (frequencies.empty() || 2 * std::ssize(frequencies) > dim) {
    return Status::InvalidArgument("position mean: found " + std::to_string(frequencies.size()) +
                                   " frequencies, expected 1 to " + std::to_string(dim / 2));
  }
  std::vector<double> sum(static_cast<size_t>(dim), 0.0);
  std::vector<float> key(sum.size());
  for (size_t i = 0; i < positions.size(); ++i) {
    std::copy_n(keys.data() + i * key.size(), key.size(), key.data());
    TurnByPositions(frequencies, -static_cast<double>(positions[i]), key.data());
    for (size_t d = 0; d < sum.size(); ++d) sum[d] += key[d];
  }
  std::vector<float> mean;
  for (const double x : sum) {
    mean.push_back(static_cast<float>(x / static_cast<double>(positions.size())));
  }
  return PositionMean::Create(dim, std::move(mean), {frequencies.begin(), frequencies.end()});
}

void SubtractPositionMean(const PositionMean& mean, std::span<const int64_t> positions, int dim,
                          std::vector<float>* keys) {
  std::vector<float> of_block(static_cast<size_t>(dim));
  for (size_t i = 0; i < positions.size(); ++i) {
    mean.OfBlock(positions[i] / kPositionBlock, dim, of_block.data());
    float* key = keys->data() + i * of_block.size();
    for (size_t d = 0; d < of_block.size(); ++d) key[d] -= of_block[d];
  }
}

}  // namespace pqcache::train
