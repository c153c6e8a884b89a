#include "attention/torch/gpu_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/square.h>
#include <c10/core/InferenceMode.h>

#include "attention/decoder/weight_loader.h"
#include "attention/model/model_fingerprint.h"
#include "attention/model/rope.h"
#include "attention/model/weight_check.h"
#include "attention/torch/call_torch.h"

namespace pqcache::attention {
namespace {

constexpr int64_t kMlpRows = 8192;  // whose intermediate activations are there at a time

at::Tensor ToGpu(const std::vector<float>& x, at::IntArrayRef shape) {
  return at::from_blob(const_cast<float*>(x.data()), shape, at::kFloat)
      .to(at::Device(at::kCUDA), at::kFloat, /*non_blocking=*/false, /*copy=*/true);
}

GpuNorm NormToGpu(const NormWeights& norm) {
  GpuNorm result;
  const auto size = static_cast<int64_t>(norm.weight.size());
  if (size > 0) result.weight = ToGpu(norm.weight, {size});
  if (!norm.bias.empty()) result.bias = ToGpu(norm.bias, {size});
  return result;
}

at::Tensor Activated(Activation activation, const at::Tensor& x) {
  switch (activation) {
    case Activation::kSilu:
      return at::silu(x);
    case Activation::kGelu:
      return at::gelu(x);
    case Activation::kGeluTanh:
      return at::gelu(x, "tanh");
    case Activation::kRelu:
      return at::relu(x);
  }
  return x;
}

}  // namespace

Result<GpuLinear> GpuLinear::Create(std::vector<float> weight, std::vector<float> bias, int64_t in,
                                    int64_t out, DType compute) {
  GpuLinear linear;
  PQCACHE_RETURN_IF_ERROR(CallTorch([&] {
    linear.weight_ =
        ToGpu(weight, {out, in}).to(compute == DType::kBF16 ? at::kBFloat16 : at::kFloat);
    if (!bias.empty()) linear.bias_ = ToGpu(bias, {out});
  }));
  return linear;
}

at::Tensor GpuLinear::Apply(const at::Tensor& x) const {
  at::Tensor y = at::linear(x.to(weight_.scalar_type()), weight_).to(at::kFloat);
  return bias_.defined() ? y + bias_ : y;
}

at::Tensor GpuModel::Impl::Norm(const GpuNorm& norm, const at::Tensor& x) const {
  if (!norm.bias.defined()) {
    return x * at::rsqrt(at::mean(at::square(x), -1, /*keepdim=*/true) + spec.norm_eps) *
           norm.weight;
  }
  const at::Tensor centred = x - at::mean(x, -1, /*keepdim=*/true);
  const at::Tensor variance = at::mean(at::square(centred), -1, /*keepdim=*/true);
  return centred * at::rsqrt(variance + spec.norm_eps) * norm.weight + norm.bias;
}

at::Tensor GpuModel::Impl::Rotate(const at::Tensor& x, const at::Tensor& cos,
                                  const at::Tensor& sin) const {
  const int64_t half = spec.rope.rotary_dim / 2, dim = spec.head_dim;
  const at::Tensor a = x.narrow(-1, 0, half), b = x.narrow(-1, half, half);
  const at::Tensor rest = x.narrow(-1, 2 * half, dim - 2 * half);
  return at::cat({a * cos - b * sin, b * cos + a * sin, rest}, -1);
}

at::Tensor GpuModel::Impl::Mlp(const LayerWeightsOf<GpuLinear>& w, const at::Tensor& x) const {
  std::vector<at::Tensor> parts;
  for (int64_t row = 0; row < x.size(0); row += kMlpRows) {
    const at::Tensor part = x.narrow(0, row, std::min(kMlpRows, x.size(0) - row));
    at::Tensor inner = w.up->Apply(part);
    inner = w.gate.has_value() ? Activated(spec.activation, w.gate->Apply(part)) * inner
                               : Activated(spec.activation, inner);
    parts.push_back(w.down->Apply(inner));
  }
  return parts.size() == 1 ? parts[0] : at::cat(parts, 0);
}

at::Tensor GpuModel::Impl::Forward(const at::Tensor& tokens, const at::Tensor& positions,
                                   const Attend& attend) const {
  const int64_t n = tokens.size(0), dim = spec.head_dim;
  const int64_t q_size = spec.heads * dim, kv_size = spec.kv_heads * dim;
  const at::Tensor angles = at::outer(positions.to(at::kDouble), frequencies);
  const at::Tensor cos = at::cos(angles).to(at::kFloat).unsqueeze(1);  // [N, 1, rotary / 2]
  const at::Tensor sin = at::sin(angles).to(at::kFloat).unsqueeze(1);
  at::Tensor hidden = weights.embedding->weight().index_select(0, tokens).to(at::kFloat);
  for (int64_t l = 0; l < spec.layers; ++l) {
    const LayerWeightsOf<GpuLinear>& w = weights.layers[static_cast<size_t>(l)];
    const GpuLayerNorms& norm = norms[static_cast<size_t>(l)];
    const at::Tensor qkv = w.qkv->Apply(Norm(norm.attention, hidden));
    at::Tensor q = qkv.narrow(1, 0, q_size).view({n, spec.heads, dim});
    at::Tensor k = qkv.narrow(1, q_size, kv_size).view({n, spec.kv_heads, dim});
    const at::Tensor v = qkv.narrow(1, q_size + kv_size, kv_size).view({n, spec.kv_heads, dim});
    if (norm.query.weight.defined()) q = Norm(norm.query, q);
    if (norm.key.weight.defined()) k = Norm(norm.key, k);
    const at::Tensor attended =
        attend(static_cast<int>(l), Rotate(q, cos, sin), Rotate(k, cos, sin), v.contiguous());
    const at::Tensor update = w.output->Apply(attended.reshape({n, q_size}));
    // A parallel residual norms the layer's input again; a sequential one the sum.
    const at::Tensor sum = hidden + update;
    hidden = sum + Mlp(w, Norm(norm.mlp, spec.parallel_residual ? hidden : sum));
  }
  const at::Tensor last = Norm(final_norm, hidden.narrow(0, n - 1, 1));
  const GpuLinear& head = spec.tied_head ? *weights.embedding : *weights.head;
  return head.Apply(last).view({spec.vocab});
}

GpuModel::GpuModel(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GpuModel::~GpuModel() = default;
const ModelSpec& GpuModel::spec() const { return impl_->spec; }
const Fingerprint& GpuModel::fingerprint() const { return impl_->fingerprint; }

DType GpuModel::compute_dtype() const { return impl_->compute; }

Result<std::unique_ptr<GpuModel>> GpuModel::Load(const std::string& model_dir,
                                                 ComputeDType compute) {
  const c10::InferenceMode guard;
  auto impl = std::make_unique<Impl>();
  PQCACHE_ASSIGN_OR_RETURN(impl->spec, LoadModelSpec(model_dir));
  if (impl->spec.sliding_window > 0) {
    return Status::Unsupported(model_dir + " has a sliding window of " +
                               std::to_string(impl->spec.sliding_window) +
                               " tokens, expected none on a GPU");
  }
  PQCACHE_ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(model_dir));
  PQCACHE_RETURN_IF_ERROR(CheckWeights(impl->spec, checkpoint).Annotate(model_dir));
  PQCACHE_ASSIGN_OR_RETURN(impl->fingerprint, ModelFingerprint(impl->spec, checkpoint));
  impl->compute = ComputeDTypeFor(impl->spec, compute, /*native_bfloat16=*/true);
  PQCACHE_ASSIGN_OR_RETURN(impl->weights,
                           LoadWeightsAs<GpuLinear>(impl->spec, checkpoint, impl->compute));
  PQCACHE_RETURN_IF_ERROR(CallTorch([&] {
    for (const LayerWeightsOf<GpuLinear>& w : impl->weights.layers) {
      impl->norms.push_back({NormToGpu(w.attention_norm), NormToGpu(w.mlp_norm),
                             NormToGpu(w.query_norm), NormToGpu(w.key_norm)});
    }
    impl->final_norm = NormToGpu(impl->weights.final_norm);
    const std::vector<double> steps = Rope(impl->spec.rope).frequencies();
    impl->frequencies = at::from_blob(const_cast<double*>(steps.data()),
                                      {static_cast<int64_t>(steps.size())}, at::kDouble)
                            .to(at::Device(at::kCUDA), at::kDouble, false, true);
  }));
  return std::unique_ptr<GpuModel>(new GpuModel(std::move(impl)));
}

}  // namespace pqcache::attention
