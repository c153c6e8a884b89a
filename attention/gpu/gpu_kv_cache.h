#pragma once

// Keys, values and codes of B sequences, all layers, for the kernels of a decode step: pages of
// kGpuPageTokens tokens that are all there from the beginning, so that a recorded graph finds every
// later token's place. Codes lie on the GPU; exact rows there or, for a range of tokens, in pinned
// host memory, from which the GPU reads those it attends to.
//
// Sequences may share the pages of a common prefix. One caller thread; kernels on one stream.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "attention/kernels/device_memory.h"
#include "attention/kernels/gpu_types.h"
#include "pqcache/index/codebook.h"

namespace pqcache::attention {

struct GpuKvCacheOptions {
  int layers = 0, kv_heads = 0, dim = 0;  // L, Hkv, D
  int batch = 1;                          // B
  int64_t max_tokens = 0;                 // of a sequence
  int64_t shared_tokens = 0;  // the first so many, in whole pages, are the same for all sequences
  GpuWindow window;
  // Rows of these tokens, in whole pages inside of the range, lie in pinned host memory.
  int64_t host_begin = 0, host_end = 0;
};

class GpuKvCache {
 public:
  // `codebooks` may be null: then no codes are kept. OutOfMemory if it does not fit,
  // InvalidArgument if position means of different heads have different frequencies.
  static Result<std::unique_ptr<GpuKvCache>> Create(const GpuKvCacheOptions& options,
                                                    const CodebookSet* codebooks);

  const GpuKvCacheOptions& options() const { return options_; }
  GpuLayer layer(int l) const;
  // Null without codebooks.
  const GpuCodebooks* codebooks(int l) const {
    return codebooks_.empty() ? nullptr : &codebooks_[static_cast<size_t>(l)];
  }

  // [B] on the device: tokens of the sequences, counted on by AdvanceTokens.
  int32_t* tokens() const { return tokens_.as<int32_t>(); }
  // Of every sequence, at most max_tokens. Forgets the sums of values: to be called whenever rows
  // of candidates were written anew or tokens become fewer.
  Status SetTokens(std::span<const int32_t> tokens, GpuStream stream);

  uint64_t device_bytes() const { return device_bytes_; }
  uint64_t host_bytes() const { return host_bytes_; }

 private:
  explicit GpuKvCache(const GpuKvCacheOptions& options);
  int64_t pages() const { return GpuPagesOf(options_.max_tokens); }
  Result<void*> Allocate(MemoryKind kind, size_t bytes);
  // A copy of the numbers on the device.
  template <typename T>
  Result<const T*> Place(const std::vector<T>& numbers);
  Status PlacePages(int bytes_per_key);
  Status LoadCodebooks(const CodebookSet& set);
  // GpuCodebooks::phases for all pages; null without position means.
  Result<const double*> PlacePhases(const CodebookSet& set);

  GpuKvCacheOptions options_;
  int bytes_per_key_ = 0;
  GpuBuffer tokens_;
  GpuBuffer value_sums_, summed_;     // [L, B, Hkv, D], [L, B, Hkv]
  GpuBuffer row_pages_, code_pages_;  // [L, B, P] addresses
  std::vector<GpuBuffer> memory_;
  std::vector<GpuCodebooks> codebooks_;  // [L], or empty
  uint64_t device_bytes_ = 0, host_bytes_ = 0;
};

}  // namespace pqcache::attention
