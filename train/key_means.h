#pragma once

// The part of keys that their position decides (pqcache/index/position_mean.h), from samples.

#include <cstdint>
#include <span>
#include <vector>

#include "pqcache/base/status.h"
#include "pqcache/index/position_mean.h"

namespace pqcache::train {

// The mean of keys [N, D] turned back from their positions [N] by frequencies [R/2], summed in
// double. Errors: no keys, sizes that do not fit.
Result<PositionMean> MeasurePositionMean(int dim, std::span<const float> keys,
                                         std::span<const int64_t> positions,
                                         std::span<const float> frequencies);

// Takes the mean of its position from every key.
void SubtractPositionMean(const PositionMean& mean, std::span<const int64_t> positions, int dim,
                          std::vector<float>* keys);

}  // namespace pqcache::train
