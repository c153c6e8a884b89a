#pragma once

// Weights of a Hugging Face directory: model.safetensors, or the shards that
// model.safetensors.index.json names. Every rule of the safetensors format is checked at Open;
// tensors are read (not mapped) on demand, so a file that shrinks is an error and not a signal.
// pytorch_model.bin (pickle) is refused with a hint to convert. Thread-safe after Open.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "pqcache/base/checksum.h"
#include "pqcache/base/dtype.h"
#include "pqcache/base/status.h"

namespace pqcache::attention {

struct TensorInfo {
  std::string dtype_name;     // as in the file, e.g. "BF16"
  bool readable = true;       // false: a dtype of the format without a DType; Read refuses it
  DType dtype = DType::kF32;  // only if readable
  std::vector<int64_t> shape;
  uint64_t bytes = 0;
  int file = 0;         // number of the shard
  uint64_t offset = 0;  // of the first byte, from the start of the file
};

class Checkpoint {
 public:
  // A directory (see above) or one .safetensors file. kNotFound: no such file, or a directory
  // without weights; kCorruption: a rule is broken; kUnsupported: only pickled weights. Symbolic
  // links are followed; shard names with a separator are refused. Files stay open.
  static Result<Checkpoint> Open(const std::string& path);
  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  ~Checkpoint();

  // nullptr when absent.
  const TensorInfo* Find(std::string_view name) const;
  const std::map<std::string, TensorInfo, std::less<>>& tensors() const;
  // Free-form strings of the (first) file.
  const std::map<std::string, std::string>& metadata() const;

  // Copies the tensor's bytes; `size` must be its `bytes`. kIoError if the file has changed its
  // size since Open; kUnsupported, with the name of the dtype, if not `readable`.
  Status Read(std::string_view name, void* out, uint64_t size) const;
  // Converted to float32 from f32, bf16, f16 or f64; kUnsupported for others.
  Result<std::vector<float>> ReadFloats(std::string_view name) const;

  // Names this checkpoint: over names, dtypes, shapes and the first 64 KiB of every tensor.
  Result<Fingerprint> ComputeFingerprint() const;

 private:
  struct Impl;
  explicit Checkpoint(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pqcache::attention
