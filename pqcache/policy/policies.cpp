#include <algorithm>
#include <cmath>
#include <string>

#include "pqcache/policy/policy_factories.h"
#include "pqcache/policy/selection_policy.h"

namespace pqcache {
namespace {

constexpr PolicyEntry kPolicies[] = {
    {"pq",
     "top-k by product-quantised keys; rerank=C takes the best of C (up to 16) times as many by "
     "their exact keys; sticky=S ranks those of the last step with them, and a new one displaces "
     "one of them only with 1/(1-S) times its attention; certify (rerank=4) proves the choice "
     "exact where reading up to read=16 times as many can; codes_only keeps no exact keys",
     CreatePqPolicy},
    {"flat", "top-k by exact inner products, keys held in memory", CreateFlatPolicy},
    {"exact", "every token: the reference", CreateExactPolicy},
    {"quest",
     "pages by bounds of their keys (page=16, min_pages=3, dense=2 layers, share=each, sum, max or "
     "layer)",
     CreateQuestPolicy},
    {"infllm",
     "blocks by the keys that their neighbours attended to (block=128, keys=4, distance=fixed or "
     "true)",
     CreateInfLlmPolicy},
    {"blocks",
     "KTransformers: blocks by rep=dynamic, mean, max, fixed or quest (block=128, anchors=1, "
     "share=layer or sum, token_step=1, layer_step=1, dense=0, preselect=0, mode=corrected or "
     "released)",
     CreateBlocksPolicy},
    {"magicpig",
     "a weighted sample by hashes of the keys (K=10, L=150, centre=true, dense_every=16, seed=0)",
     CreateMagicPigPolicy},
    {"streaming",
     "StreamingLLM: keeps first and newest tokens, drops the rest (n_sink, ratio or tokens, "
     "positions=cache or text)",
     CreateStreamingPolicy},
    {"recent", "keeps the newest tokens, drops the rest (ratio or tokens)", CreateRecentPolicy},
    {"h2o",
     "keeps the newest tokens and those most attended to, drops the rest (ratio or tokens, "
     "heavy=0.5)",
     CreateH2oPolicy},
    {"snapkv",
     "keeps what the end of the prompt attended to, drops the rest (ratio or tokens, window=32, "
     "kernel=5, pool=mean or max, share=each, mean or max)",
     CreateSnapKvPolicy},
};

}  // namespace

void PromptNeeds::Add(const PromptNeeds& other) {
  all = all || other.all;
  local = local || other.local;
  last = std::max(last, other.last);
}

int64_t SelectionBudget::TokensFor(int64_t context) const {
  if (mass > 0 && ratio == 0 && tokens == 0) return context;
  if (ratio > 0) return std::llround(ratio * static_cast<double>(context));
  return tokens;
}

std::span<const PolicyEntry> Policies() { return kPolicies; }

Result<std::unique_ptr<SelectionPolicy>> CreatePolicy(std::string_view text) {
  PQCACHE_ASSIGN_OR_RETURN(const SpecString spec, ParseSpec(text));
  std::string known;
  for (const PolicyEntry& entry : kPolicies) {
    if (entry.name == spec.name) return entry.create(spec);
    known += (known.empty() ? "" : ", ") + std::string(entry.name);
  }
  return Status::InvalidArgument("unknown policy '" + spec.name + "', expected one of: " + known);
}

}  // namespace pqcache
