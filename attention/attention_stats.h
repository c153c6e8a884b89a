#pragma once

// What decode steps did, summed per layer and KV head. Every (layer, head) slot has one writer.

#include <cstddef>
#include <cstdint>
#include <vector>

namespace pqcache::attention {

struct HeadStats {
  int64_t steps = 0;
  double context = 0;     // tokens so far
  double always = 0;      // of them sinks and window
  double scored = 0;      // tokens that were scored by the index
  double selected = 0;    // tokens attended besides; under per-head selection the mean of the heads
  double ranked = 0;      // tokens read to choose those by their exact keys, if any were
  double estimated = 0;   // tokens that joined by the tail estimate
  int64_t proofs = 0;     // selections, one for each query head, that were to be proven exact, and
  int64_t certified = 0;  // of them those that were;
  double proven = 0;      // share of their tokens that are certainly among the exactly best
  int64_t mass_steps = 0;
  double missed_mass = 0;    // estimated share of the attention mass that was not attended exactly
  int64_t shadow_steps = 0;  // steps recomputed exactly, and then:
  double recall = 0;         // share of the exactly best tokens that were selected
  int64_t disproved = 0;     // certified selections that lack one of them
  double mass = 0;           // true share of the attention mass that was attended
  double output_error = 0;   // |out - exact| / |exact|

  void Add(const HeadStats& other);
};

struct AttentionStats {
  int layers = 0, kv_heads = 0;
  std::vector<HeadStats> heads;  // [layers, kv_heads]

  AttentionStats() = default;
  AttentionStats(int l, int h) : layers(l), kv_heads(h), heads(static_cast<size_t>(l) * h) {}
  HeadStats& at(int layer, int head) { return heads[static_cast<size_t>(layer) * kv_heads + head]; }
  HeadStats Layer(int layer) const;
  HeadStats Total() const;
};

}  // namespace pqcache::attention
