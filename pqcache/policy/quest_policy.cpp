// Quest (Tang et al., "Query-Aware Sparsity for Efficient Long-Context LLM Inference", ICML 2024).
//
// Of every page of 16 tokens it keeps the smallest and the largest number of each channel of the
// keys (32 bytes a key at head size 128 in 16 bits; here float32). The sum over the channels of the
// larger product with the query is a bound that no key of the page exceeds; each query head attends
// to the pages with the largest bounds, at least three. The first two layers attend to everything.
// Nothing is forgotten. The original is for as many KV heads as query heads and lets every query
// head choose; share=sum and share=max let those of a KV head choose together. First tokens and
// window are attended to beside the pages; the original's budget is all that it attends to.

#include "pqcache/policy/block_policy.h"
#include "pqcache/policy/policy_factories.h"

namespace pqcache {

Result<std::unique_ptr<SelectionPolicy>> CreateQuestPolicy(const SpecString& spec) {
  constexpr std::string_view kKnown[] = {"page", "dense", "min_pages", "share"};
  PQCACHE_RETURN_IF_ERROR(spec.CheckKnown(kKnown));
  BlockPolicyOptions options;
  options.blocks.keys = BlockKeys::kMinMax;
  options.blocks.score_open_block = true;
  options.block_parameter = "page";
  options.minimum_parameter = "min_pages";
  PQCACHE_ASSIGN_OR_RETURN(options.blocks.block_tokens, spec.IntOr("page", 16));
  PQCACHE_ASSIGN_OR_RETURN(options.blocks.min_blocks, spec.IntOr("min_pages", 3));
  PQCACHE_ASSIGN_OR_RETURN(options.blocks.sharing, SharingOf(spec, BlockSharing::kEach));
  PQCACHE_ASSIGN_OR_RETURN(options.dense_layers, spec.NumberOr<int>("dense", 2));
  return CreateBlockPolicy(spec.name, options);
}

}  // namespace pqcache
