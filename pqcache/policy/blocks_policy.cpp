// Block selection of KTransformers' sparse attention on the CPU (kvcache-ai/ktransformers,
// "long context" documentation, 2024).
//
// A block of 128 tokens is represented by the mean of its keys, the largest number of every
// channel, the mean of `anchors` evenly spread keys (fixed), the `anchors` keys that received the
// most attention from the last 128 tokens of the prompt (dynamic), or the smallest and the largest
// number of every channel (quest). All query heads of a layer choose together, or (share=sum) those
// of a KV head. A choice can serve several tokens and layers (token_step, layer_step). With
// preselect=N only the N blocks that received the most attention from the prompt's end can be
// chosen at all, which assumes that the question stands there. Nothing is forgotten.
//
// First tokens and window are those of the command line (a block and 4,096 tokens in the original,
// which takes 96 blocks). At least one block is taken, whatever the budget, and what has left the
// window behind the blocks of the last choice is attended to always.
//
// mode=released has the faults of the published code: the largest numbers start at zero
// (max) or at the smallest positive float (quest), quest fills as many query heads as there are KV
// heads, and several anchors are summed up in one while the others stay zero and join the maximum.
// Not here: blocks that the last layer imposes on all others, and rows without a causal mask among
// the prompt's last 128 tokens.

#include "pqcache/policy/block_policy.h"
#include "pqcache/policy/policy_factories.h"

namespace pqcache {

Result<std::unique_ptr<SelectionPolicy>> CreateBlocksPolicy(const SpecString& spec) {
  constexpr std::string_view kKnown[] = {"rep",        "block", "anchors",   "share", "token_step",
                                         "layer_step", "dense", "preselect", "mode"};
  PQCACHE_RETURN_IF_ERROR(spec.CheckKnown(kKnown));
  constexpr std::string_view kRepresentatives[] = {"dynamic", "mean", "max", "fixed", "quest"};
  constexpr BlockKeys kKeys[] = {BlockKeys::kTop, BlockKeys::kMean, BlockKeys::kMax,
                                 BlockKeys::kFixed, BlockKeys::kMinMax};
  constexpr std::string_view kModes[] = {"corrected", "released"};
  constexpr int64_t kLastTokens = 128;
  BlockPolicyOptions options;
  BlockSettings& blocks = options.blocks;
  PQCACHE_ASSIGN_OR_RETURN(const size_t keys, spec.ChoiceOr("rep", kRepresentatives, 0));
  blocks.keys = kKeys[keys];
  PQCACHE_ASSIGN_OR_RETURN(const size_t mode, spec.ChoiceOr("mode", kModes, 0));
  blocks.released = mode == 1;
  PQCACHE_ASSIGN_OR_RETURN(blocks.block_tokens, spec.IntOr("block", 128));
  PQCACHE_ASSIGN_OR_RETURN(blocks.anchors, spec.NumberOr<int>("anchors", 1));
  if (spec.args.contains("anchors") && blocks.keys != BlockKeys::kTop &&
      blocks.keys != BlockKeys::kFixed) {
    return Status::InvalidArgument(
        "blocks: anchors means nothing to this rep, expected fixed or "
        "dynamic");
  }
  PQCACHE_ASSIGN_OR_RETURN(blocks.sharing, SharingOf(spec, BlockSharing::kLayer));
  PQCACHE_ASSIGN_OR_RETURN(blocks.token_step, spec.IntOr("token_step", 1));
  PQCACHE_ASSIGN_OR_RETURN(options.layer_step, spec.NumberOr<int>("layer_step", 1));
  PQCACHE_ASSIGN_OR_RETURN(options.dense_layers, spec.NumberOr<int>("dense", 0));
  PQCACHE_ASSIGN_OR_RETURN(blocks.preselect, spec.IntOr("preselect", 0));
  if (blocks.keys == BlockKeys::kTop || blocks.preselect > 0) options.needs.last = kLastTokens;
  return CreateBlockPolicy(spec.name, options);
}

}  // namespace pqcache
