#pragma once

// The forward pass of a decoder-only transformer as a ModelSpec describes it: embedding, layers,
// logits. Attention is the backend's; this code never sees a cache, and never a family's name.
// Activations are float32; matrix products in the compute dtype.
//
// Forward occupies the pool; one call at a time.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "attention/attention_backend.h"
#include "attention/model/compute_dtype.h"
#include "attention/model/model_spec.h"
#include "pqcache/base/checksum.h"
#include "pqcache/base/dtype.h"
#include "pqcache/base/thread_pool.h"

namespace pqcache::attention {

class Decoder {
 public:
  // From a Hugging Face directory. Reports every mismatch between config and weights at once.
  // The pool is borrowed.
  static Result<std::unique_ptr<Decoder>> Load(const std::string& model_dir, ComputeDType compute,
                                               ThreadPool* pool);
  ~Decoder();

  const ModelSpec& spec() const;
  const Fingerprint& fingerprint() const;  // of the checkpoint
  DType compute_dtype() const;             // kF32 or kBF16
  ThreadPool* pool() const;

  // Runs tokens [N] at positions [N] through all layers and writes the logits of the last
  // `logit_rows` of them to logits [logit_rows, vocab]. Tokens outside the vocabulary and
  // positions outside the model's range are refused.
  Status Forward(std::span<const int64_t> tokens, std::span<const int64_t> positions,
                 AttentionBackend* attention, int64_t logit_rows, std::vector<float>* logits) const;

 private:
  struct Impl;
  explicit Decoder(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pqcache::attention
