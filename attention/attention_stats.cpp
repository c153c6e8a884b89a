#include "attention/attention_stats.h"

namespace pqcache::attention {

void HeadStats::Add(const HeadStats& o) {
  steps += o.steps;
  context += o.context;
  always += o.always;
  scored += o.scored;
  selected += o.selected;
  ranked += o.ranked;
  estimated += o.estimated;
  proofs += o.proofs;
  certified += o.certified;
  proven += o.proven;
  mass_steps += o.mass_steps;
  missed_mass += o.missed_mass;
  shadow_steps += o.shadow_steps;
  recall += o.recall;
  disproved += o.disproved;
  mass += o.mass;
  output_error += o.output_error;
}

HeadStats AttentionStats::Layer(int layer) const {
  HeadStats sum;
  for (int h = 0; h < kv_heads; ++h) sum.Add(heads[static_cast<size_t>(layer) * kv_heads + h]);
  return sum;
}

HeadStats AttentionStats::Total() const {
  HeadStats sum;
  for (const HeadStats& h : heads) sum.Add(h);
  return sum;
}

}  // namespace pqcache::attention
