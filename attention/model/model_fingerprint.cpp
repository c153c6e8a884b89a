#include "attention/model/model_fingerprint.h"

namespace pqcache::attention {

Result<Fingerprint> ModelFingerprint(const ModelSpec& spec, const Checkpoint& checkpoint) {
  PQCACHE_ASSIGN_OR_RETURN(const Fingerprint weights, checkpoint.ComputeFingerprint());
  const RopeSpec& rope = spec.rope;
  Json j;
  j.Set("weights", weights.Hex()).Set("family", spec.family);
  j.Set("layers", spec.layers).Set("hidden", spec.hidden).Set("intermediate", spec.intermediate);
  j.Set("heads", spec.heads).Set("kv_heads", spec.kv_heads).Set("head_dim", spec.head_dim);
  j.Set("norm", static_cast<int>(spec.norm)).Set("norm_eps", spec.norm_eps);
  j.Set("activation", static_cast<int>(spec.activation));
  j.Set("parallel_residual", spec.parallel_residual).Set("sliding_window", spec.sliding_window);
  j.Set("rope", static_cast<int>(rope.kind)).Set("theta", rope.theta);
  j.Set("rotary_dim", rope.rotary_dim).Set("factor", rope.factor);
  j.Set("low_freq_factor", rope.low_freq_factor).Set("high_freq_factor", rope.high_freq_factor);
  j.Set("original_max_positions", rope.original_max_positions);
  return FingerprintOf(j.Dump());
}

}  // namespace pqcache::attention
