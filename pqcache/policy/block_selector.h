#pragma once

// Selection of whole blocks of tokens by representatives of their keys: what Quest, InfLLM and
// KTransformers' sparse attention on the CPU have in common. Which representatives, how query
// heads share a choice, and the faults of the originals are settings.

#include <cstdint>
#include <memory>

#include "pqcache/policy/layer_selector.h"

namespace pqcache {

// What stands for the keys of a block.
enum class BlockKeys {
  kMean,     // their mean
  kMax,      // the largest of every channel
  kFixed,    // the mean of `anchors` keys, evenly spread
  kTop,      // the `anchors` keys that received the most attention, one by one
  kTopMean,  // the mean of those
  kMinMax,   // smallest and largest of every channel: a score that no key of the block exceeds
};

// Which query heads choose together.
enum class BlockSharing {
  kEach,   // every query head for itself
  kSum,    // those of a KV head, by the sum of their scores
  kMax,    // those of a KV head, by the best of their scores
  kLayer,  // all of the layer, by the sum of their scores
};

struct BlockSettings {
  int64_t block_tokens = 128;
  BlockKeys keys = BlockKeys::kMean;
  int anchors = 1;
  BlockSharing sharing = BlockSharing::kLayer;
  // A block that is not full has representatives, too; otherwise it is attended to always.
  bool score_open_block = false;
  int64_t min_blocks = 1;  // chosen whatever the budget
  int64_t token_step = 1;  // a choice serves so many tokens
  int64_t preselect = 0;   // only the so many blocks of the prompt that received the most
                           // attention can be chosen, and what came after it; 0: all
  bool fixed_distance = false;
  bool released = false;  // with the faults of KTransformers' code
};

std::unique_ptr<LayerSelector> CreateBlockSelector(const BlockSettings& settings,
                                                   const SelectorShape& shape);

}  // namespace pqcache
