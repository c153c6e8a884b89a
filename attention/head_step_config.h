#pragma once

// How the decode steps of a layer select and attend.

#include <cstdint>

#include "pqcache/policy/selection_policy.h"
#include "pqcache/policy/tail_mode.h"

namespace pqcache::attention {

class Rope;

struct HeadStepConfig {
  const SelectionPolicy* policy = nullptr;
  SelectionBudget budget;
  bool per_head = false;  // every query selects for itself, instead of all of them together
  TailMode tail = TailMode::kDrop;
  // Of a head that its codebook does not fit, four times as many tokens are ranked by their exact
  // keys, under a budget of tokens by codes, unless the policy certifies.
  bool widen_misfit = false;
  int64_t sliding_window = 0;  // of the model; 0: none
  // Has chosen for this step, instead of the policy; null: the policy selects.
  const LayerSelector* selector = nullptr;
  const Rope* rope = nullptr;  // for a selector that changes distances
};

}  // namespace pqcache::attention
