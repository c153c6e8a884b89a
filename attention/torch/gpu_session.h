#pragma once

// A model on the GPU and sequences that run through it: the counterpart of Decoder and Session.
// Matrix products and the exact prefill (fused scaled dot-product attention) are libtorch's, decode
// steps attend by GpuAttention. A decode step is one CUDA graph, recorded at the first and launched
// for every later token.
//
// kUnsupported in builds whose libtorch or whose own code has no CUDA, and for models with a
// sliding window. One caller thread.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "attention/attention_stats.h"
#include "attention/gpu/gpu_attention.h"
#include "attention/model/compute_dtype.h"
#include "attention/model/model_spec.h"
#include "pqcache/base/checksum.h"
#include "pqcache/base/dtype.h"
#include "pqcache/index/codebook.h"

namespace pqcache::attention {

class GpuModel {
 public:
  // From a Hugging Face directory. The current device holds the weights.
  static Result<std::unique_ptr<GpuModel>> Load(const std::string& model_dir, ComputeDType compute);
  ~GpuModel();

  const ModelSpec& spec() const;
  DType compute_dtype() const;             // kF32 or kBF16
  const Fingerprint& fingerprint() const;  // of the checkpoint

  struct Impl;
  const Impl& impl() const { return *impl_; }

 private:
  explicit GpuModel(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

struct GpuSessionOptions {
  int64_t max_tokens = 0;                        // prompt and answer
  std::shared_ptr<const CodebookSet> codebooks;  // may be null
  GpuWindow window;
  // Bytes of keys and values on the GPU; rows beyond them lie in pinned host memory: all but the
  // first and the last of max_tokens, so it is meant for prompts that are longer than their answer.
  // 0: all are on the GPU.
  uint64_t row_limit = 0;
  GpuAttentionOptions attention;  // heads are filled in from the model
};

class GpuSession {
 public:
  // Keys and values are stored in bfloat16. Refuses codebooks of another model, and a limit that
  // sinks and window do not fit into. The model must outlive the session.
  static Result<std::unique_ptr<GpuSession>> Create(const GpuModel* model,
                                                    GpuSessionOptions options);
  ~GpuSession();

  // Runs the whole prompt exactly; logits [vocab] predict the next token. Once, before any Step.
  Status Prefill(std::span<const int64_t> tokens, std::vector<float>* logits);
  // Runs one token under the policy.
  Status Step(int64_t token, std::vector<float>* logits);

  int64_t tokens() const;
  const GpuKvCache& cache() const;
  // Of all steps; waits for the last.
  Result<AttentionStats> Stats();

 private:
  struct Impl;
  explicit GpuSession(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pqcache::attention
