#include "pqcache/policy/block_policy.h"

#include <string>

namespace pqcache {
namespace {

class BlockPolicy : public SelectionPolicy {
 public:
  explicit BlockPolicy(const BlockPolicyOptions& options) : options_(options) {}

  bool dense(int layer) const override { return layer < options_.dense_layers; }
  PromptNeeds prompt_needs() const override { return options_.needs; }
  std::unique_ptr<LayerSelector> NewSelector(const SelectorShape& shape) const override {
    return CreateBlockSelector(options_.blocks, shape);
  }
  int layer_step() const override { return options_.layer_step; }

 private:
  BlockPolicyOptions options_;
};

}  // namespace

Result<std::unique_ptr<SelectionPolicy>> CreateBlockPolicy(const std::string& name,
                                                           const BlockPolicyOptions& options) {
  const BlockSettings& s = options.blocks;
  const struct {
    const char* parameter;
    int64_t value, low, high;
  } ranges[] = {{options.block_parameter, s.block_tokens, 1, 1 << 20},
                {"anchors", s.anchors, 1, s.block_tokens},
                {options.minimum_parameter, s.min_blocks, 0, 1 << 20},
                {"token_step", s.token_step, 1, 1 << 20},
                {"layer_step", options.layer_step, 1, 1024},
                {"dense", options.dense_layers, 0, 1024},
                {"preselect", s.preselect, 0, 1 << 20}};
  for (const auto& range : ranges) {
    if (range.value >= range.low && range.value <= range.high) continue;
    return Status::InvalidArgument(name + ":" + range.parameter + " is " +
                                   std::to_string(range.value) + ", expected " +
                                   std::to_string(range.low) + " to " + std::to_string(range.high));
  }
  return std::unique_ptr<SelectionPolicy>(std::make_unique<BlockPolicy>(options));
}

Result<BlockSharing> SharingOf(const SpecString& spec, BlockSharing fallback) {
  constexpr std::string_view kNames[] = {"each", "sum", "max", "layer"};
  constexpr BlockSharing kValues[] = {BlockSharing::kEach, BlockSharing::kSum, BlockSharing::kMax,
                                      BlockSharing::kLayer};
  size_t standard = 0;
  while (kValues[standard] != fallback) ++standard;
  PQCACHE_ASSIGN_OR_RETURN(const size_t choice, spec.ChoiceOr("share", kNames, standard));
  return kValues[choice];
}

}  // namespace pqcache
