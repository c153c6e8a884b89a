#include "attention/decoder/decoder.h"

#include <algorithm>

#include "attention/decoder/layer_math.h"
#include "attention/decoder/weights.h"
#include "attention/model/checkpoint.h"
#include "attention/model/model_fingerprint.h"
#include "attention/model/rope.h"
#include "attention/model/weight_check.h"
#include "pqcache/base/vector_math.h"

namespace pqcache::attention {
namespace {

// Activations of one Forward call, [N, ...].
struct Activations {
  std::vector<float> hidden, normed, qkv, queries, keys, values, attended, mlp, gate, update;
};

void Add(const std::vector<float>& x, std::vector<float>* y) {
  for (size_t i = 0; i < x.size(); ++i) (*y)[i] += x[i];
}

void ApplyNorm(const ModelSpec& spec, const NormWeights& w, int64_t n, const std::vector<float>& x,
               std::vector<float>* y) {
  y->resize(x.size());
  if (w.bias.empty()) {
    RmsNorm(n, spec.hidden, x.data(), w.weight.data(), spec.norm_eps, y->data());
  } else {
    LayerNorm(n, spec.hidden, x.data(), w.weight.data(), w.bias.data(), spec.norm_eps, y->data());
  }
}

// Columns [first, first + count) of rows [N, width] as rows [N, count].
void Slice(int64_t n, int64_t width, int64_t first, int64_t count, const std::vector<float>& x,
           std::vector<float>* y) {
  y->resize(static_cast<size_t>(n * count));
  for (int64_t i = 0; i < n; ++i)
    std::copy_n(&x[static_cast<size_t>(i * width + first)], count,
                &(*y)[static_cast<size_t>(i * count)]);
}

}  // namespace

struct Decoder::Impl {
  ModelSpec spec;
  Fingerprint fingerprint;
  DType compute = DType::kF32;
  ThreadPool* pool = nullptr;
  ModelWeights weights;
  std::unique_ptr<Rope> rope;

  Status CheckInput(std::span<const int64_t> tokens, std::span<const int64_t> positions,
                    int64_t positions_end) const;
  Status ProjectHeads(const LayerWeights& w, std::span<const int64_t> positions,
                      Activations* a) const;
  Status Mlp(const LayerWeights& w, int64_t n, Activations* a) const;
  Status Layer(int layer, std::span<const int64_t> positions, AttentionBackend* attention,
               Activations* a) const;
};

Status Decoder::Impl::CheckInput(std::span<const int64_t> tokens,
                                 std::span<const int64_t> positions, int64_t positions_end) const {
  PQCACHE_CHECK(tokens.size() == positions.size() && !tokens.empty(), "one position per token");
  for (int64_t token : tokens) {
    if (token < 0 || token >= spec.vocab) {
      return Status::InvalidArgument("token " + std::to_string(token) + ", expected 0 to " +
                                     std::to_string(spec.vocab - 1));
    }
  }
  for (int64_t position : positions) {
    if (position < 0 || position >= positions_end) {
      return Status::InvalidArgument("position " + std::to_string(position) +
                                     ", expected below the model's " +
                                     std::to_string(positions_end));
    }
  }
  return Status::Ok();
}

Status Decoder::Impl::ProjectHeads(const LayerWeights& w, std::span<const int64_t> positions,
                                   Activations* a) const {
  const int64_t n = static_cast<int64_t>(positions.size());
  const int64_t q_size = int64_t{spec.heads} * spec.head_dim;
  const int64_t kv_size = int64_t{spec.kv_heads} * spec.head_dim;
  const int64_t width = q_size + 2 * kv_size;
  a->qkv.resize(static_cast<size_t>(n * width));
  PQCACHE_RETURN_IF_ERROR(w.qkv->Apply(n, a->normed.data(), a->qkv.data(), pool));
  Slice(n, width, 0, q_size, a->qkv, &a->queries);
  Slice(n, width, q_size, kv_size, a->qkv, &a->keys);
  Slice(n, width, q_size + kv_size, kv_size, a->qkv, &a->values);
  const auto norm_heads = [&](const NormWeights& norm, int heads, std::vector<float>* x) {
    if (norm.weight.empty()) return;
    RmsNorm(n * heads, spec.head_dim, x->data(), norm.weight.data(), spec.norm_eps, x->data());
  };
  norm_heads(w.query_norm, spec.heads, &a->queries);
  norm_heads(w.key_norm, spec.kv_heads, &a->keys);
  rope->Apply(n, positions.data(), spec.heads, spec.head_dim, a->queries.data());
  rope->Apply(n, positions.data(), spec.kv_heads, spec.head_dim, a->keys.data());
  return Status::Ok();
}

// update = MLP of normed.
Status Decoder::Impl::Mlp(const LayerWeights& w, int64_t n, Activations* a) const {
  a->mlp.resize(static_cast<size_t>(n * spec.intermediate));
  PQCACHE_RETURN_IF_ERROR(w.up->Apply(n, a->normed.data(), a->mlp.data(), pool));
  const int64_t size = n * spec.intermediate;
  if (w.gate.has_value()) {
    a->gate.resize(a->mlp.size());
    PQCACHE_RETURN_IF_ERROR(w.gate->Apply(n, a->normed.data(), a->gate.data(), pool));
    Activate(spec.activation, size, a->gate.data());
    for (int64_t i = 0; i < size; ++i)
      a->mlp[static_cast<size_t>(i)] *= a->gate[static_cast<size_t>(i)];
  } else {
    Activate(spec.activation, size, a->mlp.data());
  }
  a->update.resize(a->hidden.size());
  return w.down->Apply(n, a->mlp.data(), a->update.data(), pool);
}

Status Decoder::Impl::Layer(int layer, std::span<const int64_t> positions,
                            AttentionBackend* attention, Activations* a) const {
  const LayerWeights& w = weights.layers[static_cast<size_t>(layer)];
  const int64_t n = static_cast<int64_t>(positions.size());
  ApplyNorm(spec, w.attention_norm, n, a->hidden, &a->normed);
  PQCACHE_RETURN_IF_ERROR(ProjectHeads(w, positions, a));
  a->attended.resize(a->queries.size());
  const AttentionInput input{
      layer, n, positions.data(), a->queries.data(), a->keys.data(), a->values.data()};
  PQCACHE_RETURN_IF_ERROR(attention->Attend(input, a->attended.data()));
  // A parallel residual norms the layer's input again; a sequential one the sum.
  if (spec.parallel_residual) ApplyNorm(spec, w.mlp_norm, n, a->hidden, &a->normed);
  a->update.resize(a->hidden.size());
  PQCACHE_RETURN_IF_ERROR(w.output->Apply(n, a->attended.data(), a->update.data(), pool));
  Add(a->update, &a->hidden);
  if (!spec.parallel_residual) ApplyNorm(spec, w.mlp_norm, n, a->hidden, &a->normed);
  PQCACHE_RETURN_IF_ERROR(Mlp(w, n, a));
  Add(a->update, &a->hidden);
  return Status::Ok();
}

Decoder::Decoder(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Decoder::~Decoder() = default;
const ModelSpec& Decoder::spec() const { return impl_->spec; }
const Fingerprint& Decoder::fingerprint() const { return impl_->fingerprint; }
DType Decoder::compute_dtype() const { return impl_->compute; }
ThreadPool* Decoder::pool() const { return impl_->pool; }

Result<std::unique_ptr<Decoder>> Decoder::Load(const std::string& model_dir, ComputeDType compute,
                                               ThreadPool* pool) {
  auto impl = std::make_unique<Impl>();
  PQCACHE_ASSIGN_OR_RETURN(impl->spec, LoadModelSpec(model_dir));
  PQCACHE_ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(model_dir));
  PQCACHE_RETURN_IF_ERROR(CheckWeights(impl->spec, checkpoint).Annotate(model_dir));
  PQCACHE_ASSIGN_OR_RETURN(impl->fingerprint, ModelFingerprint(impl->spec, checkpoint));
  impl->compute = ComputeDTypeFor(impl->spec, compute, HasNativeBFloat16());
  impl->pool = pool;
  impl->rope = std::make_unique<Rope>(impl->spec.rope);
  PQCACHE_ASSIGN_OR_RETURN(impl->weights, LoadWeights(impl->spec, checkpoint, impl->compute));
  return std::unique_ptr<Decoder>(new Decoder(std::move(impl)));
}

Status Decoder::Forward(std::span<const int64_t> tokens, std::span<const int64_t> positions,
                        AttentionBackend* attention, int64_t logit_rows,
                        std::vector<float>* logits) const {
  const ModelSpec& spec = impl_->spec;
  constexpr int64_t kAnyPosition = int64_t{1} << 40;
  const int64_t end = attention->bounds_distances() ? kAnyPosition : impl_->spec.max_positions;
  PQCACHE_RETURN_IF_ERROR(impl_->CheckInput(tokens, positions, end));
  const int64_t n = static_cast<int64_t>(tokens.size());
  Activations a;
  a.hidden.resize(static_cast<size_t>(n * spec.hidden));
  for (int64_t i = 0; i < n; ++i) {
    impl_->weights.embedding->CopyRow(tokens[static_cast<size_t>(i)],
                                      &a.hidden[static_cast<size_t>(i * spec.hidden)]);
  }
  for (int layer = 0; layer < spec.layers; ++layer) {
    const Status status = impl_->Layer(layer, positions, attention, &a);
    if (!status.ok()) return status.Annotate("layer " + std::to_string(layer));
  }
  if (logit_rows == 0) return Status::Ok();
  std::vector<float> last(a.hidden.end() - logit_rows * spec.hidden, a.hidden.end());
  std::vector<float> normed;
  ApplyNorm(spec, impl_->weights.final_norm, logit_rows, last, &normed);
  logits->resize(static_cast<size_t>(logit_rows * spec.vocab));
  const Linear& head = spec.tied_head ? *impl_->weights.embedding : *impl_->weights.head;
  PQCACHE_RETURN_IF_ERROR(head.Apply(logit_rows, normed.data(), logits->data(), impl_->pool));
  if (!AllFinite(logits->data(), logit_rows * spec.vocab)) {
    return Status::InvalidArgument("a logit is NaN or infinite, expected finite numbers");
  }
  return Status::Ok();
}

}  // namespace pqcache::attention
