#pragma once

// What Quest, InfLLM and KTransformers' block selection make of their parameters.

#include <memory>

#include "pqcache/policy/block_selector.h"
#include "pqcache/policy/selection_policy.h"

namespace pqcache {

struct BlockPolicyOptions {
  BlockSettings blocks;
  int dense_layers = 0;  // the first so many attend to everything
  int layer_step = 1;    // a choice serves so many layers
  PromptNeeds needs;
  // What the parameters of the two are called.
  const char *block_parameter = "block", *minimum_parameter = "min_blocks";
};

// InvalidArgument for settings out of range, named after `name`.
Result<std::unique_ptr<SelectionPolicy>> CreateBlockPolicy(const std::string& name,
                                                           const BlockPolicyOptions& options);

// Of a spec: "each", "sum", "max" or "layer".
Result<BlockSharing> SharingOf(const SpecString& spec, BlockSharing fallback);

}  // namespace pqcache
