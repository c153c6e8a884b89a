// InfLLM (Xiao et al., "Training-Free Long-Context Extrapolation for LLMs with an Efficient Context
// Memory", NeurIPS 2024).
//
// A block of 128 tokens is represented, for each query head, by the mean of the four keys that
// received the most attention while they were in the local window. All heads of a layer choose
// together, by the sum of their products. Everything outside the local window is attended to as if
// it stood at the window's far end: its keys are un-rotated, and the query is rotated by the
// window's length (distance=fixed). distance=true keeps the positions of the text, which a model
// that was trained for the whole context prefers. Nothing is forgotten.
//
// First tokens and window are those of the command line; the original has 128 and 4,096, and loads
// 16 blocks (32 or 96 in the paper's tables). At least one block is taken, whatever the budget, and
// what has left the window without filling a block is attended to always. Unlike in the original,
// the prompt itself attends to everything here, as under every policy, and keys that were generated
// count alike when representatives are taken.

#include "pqcache/policy/block_policy.h"
#include "pqcache/policy/policy_factories.h"

namespace pqcache {

Result<std::unique_ptr<SelectionPolicy>> CreateInfLlmPolicy(const SpecString& spec) {
  constexpr std::string_view kKnown[] = {"block", "keys", "distance"};
  PQCACHE_RETURN_IF_ERROR(spec.CheckKnown(kKnown));
  constexpr std::string_view kDistances[] = {"fixed", "true"};
  BlockPolicyOptions options;
  options.blocks.keys = BlockKeys::kTopMean;
  options.blocks.sharing = BlockSharing::kLayer;
  PQCACHE_ASSIGN_OR_RETURN(options.blocks.block_tokens, spec.IntOr("block", 128));
  PQCACHE_ASSIGN_OR_RETURN(options.blocks.anchors, spec.NumberOr<int>("keys", 4));
  PQCACHE_ASSIGN_OR_RETURN(const size_t distance, spec.ChoiceOr("distance", kDistances, 0));
  options.blocks.fixed_distance = distance == 0;
  options.needs.local = true;
  return CreateBlockPolicy(spec.name, options);
}

}  // namespace pqcache
