#pragma once

// The inside of GpuModel, for gpu_model.cpp and gpu_session.cpp: weights as tensors and a layer's
// arithmetic. Activations are float32 [N, ...]; products in the compute type, as on the CPU.

#include <ATen/core/Tensor.h>

#include <functional>
#include <optional>
#include <vector>

#include "attention/decoder/weights.h"
#include "attention/torch/gpu_session.h"

namespace pqcache::attention {

class GpuLinear {
 public:
  static Result<GpuLinear> Create(std::vector<float> weight, std::vector<float> bias, int64_t in,
                                  int64_t out, DType compute);
  // y [N, out] float32 of x [N, in] float32.
  at::Tensor Apply(const at::Tensor& x) const;
  const at::Tensor& weight() const { return weight_; }

 private:
  at::Tensor weight_, bias_;  // the bias may be undefined
};

struct GpuNorm {
  at::Tensor weight, bias;  // undefined: absent
};

struct GpuLayerNorms {
  GpuNorm attention, mlp, query, key;
};

struct GpuModel::Impl {
  ModelSpec spec;
  Fingerprint fingerprint;
  DType compute = DType::kF32;
  ModelWeightsOf<GpuLinear> weights;
  std::vector<GpuLayerNorms> norms;  // those of weights.layers as tensors
  GpuNorm final_norm;
  at::Tensor frequencies;  // [rotary_dim / 2] double, angular steps

  // Turns queries [N, Hq, D], keys and values [N, Hkv, D] into [N, Hq, D].
  using Attend = std::function<at::Tensor(int layer, const at::Tensor& queries,
                                          const at::Tensor& keys, const at::Tensor& values)>;
  // Logits [vocab] float32 of the last of tokens [N] int64 at positions [N] int64.
  at::Tensor Forward(const at::Tensor& tokens, const at::Tensor& positions,
                     const Attend& attend) const;

 private:
  at::Tensor Norm(const GpuNorm& norm, const at::Tensor& x) const;
  at::Tensor Rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) const;
  at::Tensor Mlp(const LayerWeightsOf<GpuLinear>& w, const at::Tensor& x) const;
};

}  // namespace pqcache::attention
