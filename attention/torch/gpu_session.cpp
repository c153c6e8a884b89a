#include "attention/torch/gpu_session.h"

#include <ATen/TensorOperators.h>
#include <ATen/cuda/CUDAGraph.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <c10/core/InferenceMode.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <stdexcept>

#include "attention/kernels/append_tokens.h"
#include "attention/torch/call_torch.h"
#include "attention/torch/gpu_model.h"

namespace pqcache::attention {
namespace {

// Throws what a kernel reports, so that CallTorch around a whole pass returns it.
void Check(const Status& status) {
  if (!status.ok()) throw std::runtime_error(status.message());
}

// Causal attention of a prompt: queries [N, Hq, D], keys and values [N, Hkv, D], float32, to
// [N, Hq, D] of the compute type. Keys and values are those of the cache, rounded to bfloat16.
at::Tensor PromptAttention(const at::Tensor& queries, const at::Tensor& keys,
                           const at::Tensor& values, DType compute) {
  const auto type = compute == DType::kBF16 ? at::kBFloat16 : at::kFloat;
  const auto heads_first = [&](const at::Tensor& x) {
    return x.to(type).transpose(0, 1).unsqueeze(0);
  };
  at::Tensor k = heads_first(keys.to(at::kBFloat16)), v = heads_first(values.to(at::kBFloat16));
  const bool grouped = compute == DType::kBF16;
  if (!grouped) {  // the fused kernel of float32 wants as many heads
    const int64_t group = queries.size(1) / keys.size(1);
    k = k.repeat_interleave(group, 1);
    v = v.repeat_interleave(group, 1);
  }
  const at::Tensor out = at::scaled_dot_product_attention(
      heads_first(queries), k, v, {}, 0.0, /*is_causal=*/true, std::nullopt, grouped);
  return out.squeeze(0).transpose(0, 1).to(at::kFloat);
}

// Puts the rows that do not fit into the limit into host memory: all but the first and the newest.
Status LimitRows(uint64_t limit, GpuKvCacheOptions* kept) {
  const uint64_t page_bytes = uint64_t{4} * static_cast<uint64_t>(kept->layers * kept->kv_heads) *
                              static_cast<uint64_t>(kept->dim * kGpuPageTokens);
  const auto fit = static_cast<int64_t>(limit / page_bytes);
  const int64_t pages = GpuPagesOf(kept->max_tokens), sinks = GpuPagesOf(kept->window.n_sink);
  if (limit == 0 || fit >= pages) return Status::Ok();
  const int64_t least = sinks + GpuPagesOf(kept->window.local_window) + 1;
  if (fit < least) {
    return Status::OutOfMemory("keys and values on the GPU are limited to " +
                               std::to_string(limit) + " bytes, expected at least " +
                               std::to_string(static_cast<uint64_t>(least) * page_bytes) +
                               " for sinks and window");
  }
  kept->host_begin = sinks * kGpuPageTokens;
  kept->host_end = (sinks + pages - fit) * kGpuPageTokens;
  return Status::Ok();
}

}  // namespace

struct GpuSession::Impl {
  const GpuModel* model = nullptr;
  GpuSessionOptions options;
  std::unique_ptr<GpuKvCache> cache;
  std::unique_ptr<GpuAttention> attention;
  c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool();
  std::unique_ptr<at::cuda::CUDAGraph> graph;
  at::Tensor token, logits;  // of the recorded step
  int64_t tokens = 0;
  Status failed;  // the device may have half a step: every later call repeats it
  AttentionStats stats;

  Status CheckToken(int64_t id) const {
    const int64_t vocab = model->spec().vocab;
    if (id >= 0 && id < vocab) return Status::Ok();
    return Status::InvalidArgument("token " + std::to_string(id) + ", expected 0 to " +
                                   std::to_string(vocab - 1));
  }

  // One decode step on the running stream.
  at::Tensor Decode() {
    Check(AdvanceTokens(cache->tokens(), 1, 1, stream.stream()));
    const at::Tensor count =
        at::from_blob(cache->tokens(), {1}, at::TensorOptions().dtype(at::kInt).device(at::kCUDA));
    const auto attend = [&](int layer, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v) {
      at::Tensor out = at::empty_like(q);
      Check(attention->Step(layer, q.data_ptr<float>(), k.data_ptr<float>(), v.data_ptr<float>(),
                            out.data_ptr<float>(), stream.stream()));
      return out;
    };
    return model->impl().Forward(token, count.to(at::kLong) - 1, attend);
  }

  // Warm-up runs, for what libtorch and cuBLAS make on first use, leave no
  // token and no count behind.
  void Record() {
    const std::vector<int32_t> before{static_cast<int32_t>(tokens)};
    for (int i = 0; i < 2; ++i) {
      Check(cache->SetTokens(before, stream.stream()));
      Decode();
    }
    Check(cache->SetTokens(before, stream.stream()));
    Check(attention->ClearMissedMass(stream.stream()));
    auto recorded = std::make_unique<at::cuda::CUDAGraph>();
    recorded->capture_begin();
    logits = Decode();
    recorded->capture_end();
    graph = std::move(recorded);
  }

  void CountStep() {
    const GpuKvCacheOptions& o = cache->options();
    const auto paged = std::max<int64_t>(0, tokens - o.window.local_window);
    const auto sinks = std::min<int64_t>(o.window.n_sink, paged);
    for (int l = 0; l < stats.layers; ++l) {
      for (int h = 0; h < stats.kv_heads; ++h) {
        HeadStats& head = stats.at(l, h);
        ++head.steps;
        head.always += static_cast<double>(tokens - paged + sinks);
        const auto candidates = static_cast<double>(paged - sinks);
        if (attention->attends_all() || l < options.attention.dense_layers) {
          head.selected += candidates;
        } else if (attention->Selects(l)) {
          const auto budget = static_cast<double>(options.attention.budget.TokensFor(tokens));
          const double selected = std::min(candidates, budget);
          head.scored += candidates;
          head.selected += selected;
          if (options.attention.estimate_tail) head.estimated += candidates - selected;
        }
      }
    }
  }

  // Of all steps so far.
  Status FetchMissedMass() {
    const int heads = model->spec().heads, group = model->spec().group();
    std::vector<float> missed(static_cast<size_t>(stats.layers * heads));
    PQCACHE_RETURN_IF_ERROR(CopyBytes(missed.data(), attention->missed_mass(),
                                      missed.size() * sizeof(float), stream.stream()));
    PQCACHE_RETURN_IF_ERROR(WaitFor(stream.stream()));
    for (int l = 0; l < stats.layers; ++l) {
      for (int q = 0; attention->Selects(l) && q < heads; ++q) {
        HeadStats& head = stats.at(l, q / group);
        if (q % group == 0) head.missed_mass = 0;
        head.missed_mass += missed[static_cast<size_t>(l * heads + q)];
        head.mass_steps = head.steps * group;
      }
    }
    return Status::Ok();
  }
};

GpuSession::GpuSession(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GpuSession::~GpuSession() = default;
int64_t GpuSession::tokens() const { return impl_->tokens; }
const GpuKvCache& GpuSession::cache() const { return *impl_->cache; }
Result<AttentionStats> GpuSession::Stats() {
  PQCACHE_RETURN_IF_ERROR(impl_->FetchMissedMass());
  return impl_->stats;
}

Result<std::unique_ptr<GpuSession>> GpuSession::Create(const GpuModel* model,
                                                       GpuSessionOptions options) {
  const ModelSpec& spec = model->spec();
  const CodebookSet* codebooks = options.codebooks.get();
  PQCACHE_RETURN_IF_ERROR(CheckModelOf(codebooks, model->fingerprint()));
  auto impl = std::make_unique<Impl>();
  impl->model = model;
  options.attention.heads = spec.heads;
  GpuKvCacheOptions kept;
  kept.layers = static_cast<int>(spec.layers);
  kept.kv_heads = spec.kv_heads;
  kept.dim = spec.head_dim;
  kept.max_tokens = options.max_tokens;
  kept.window = options.window;
  PQCACHE_RETURN_IF_ERROR(LimitRows(options.row_limit, &kept));
  PQCACHE_ASSIGN_OR_RETURN(impl->cache, GpuKvCache::Create(kept, codebooks));
  PQCACHE_ASSIGN_OR_RETURN(impl->attention,
                           GpuAttention::Create(options.attention, impl->cache.get()));
  impl->options = std::move(options);
  impl->stats = AttentionStats(kept.layers, kept.kv_heads);
  PQCACHE_RETURN_IF_ERROR(CallTorch([&] {
    impl->token = at::empty({1}, at::TensorOptions().dtype(at::kLong).device(at::kCUDA));
  }));
  return std::unique_ptr<GpuSession>(new GpuSession(std::move(impl)));
}

Status GpuSession::Prefill(std::span<const int64_t> tokens, std::vector<float>* logits) {
  Impl& s = *impl_;
  PQCACHE_RETURN_IF_ERROR(s.failed);
  const auto n = static_cast<int64_t>(tokens.size());
  PQCACHE_CHECK(s.tokens == 0 && n > 0, "one prompt, before any step");
  if (n > s.options.max_tokens) {
    return Status::InvalidArgument("the prompt has " + std::to_string(n) +
                                   " tokens, expected at most the session's " +
                                   std::to_string(s.options.max_tokens));
  }
  for (const int64_t id : tokens) PQCACHE_RETURN_IF_ERROR(s.CheckToken(id));
  PQCACHE_RETURN_IF_ERROR(
      s.cache->SetTokens(std::vector<int32_t>{static_cast<int32_t>(n)}, s.stream.stream()));
  s.failed = CallTorch([&] {
    const c10::InferenceMode inference;
    const c10::cuda::CUDAStreamGuard guard(s.stream);
    std::vector<int64_t> positions(tokens.size());
    std::iota(positions.begin(), positions.end(), 0);
    const auto to_gpu = [&](const int64_t* x) {
      return at::from_blob(const_cast<int64_t*>(x), {n}, at::kLong)
          .to(at::Device(at::kCUDA), at::kLong, false, true);
    };
    const auto attend = [&](int layer, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v) {
      AppendTokensParams append;
      append.layer = s.cache->layer(layer);
      append.codebooks = s.cache->codebooks(layer);
      append.n = static_cast<int>(n);
      append.keys = k.data_ptr<float>();
      append.values = v.data_ptr<float>();
      Check(AppendTokens(append, s.stream.stream()));
      return PromptAttention(q, k, v, s.model->impl().compute);
    };
    const at::Tensor found =
        s.model->impl().Forward(to_gpu(tokens.data()), to_gpu(positions.data()), attend).cpu();
    logits->assign(found.data_ptr<float>(), found.data_ptr<float>() + found.numel());
  });
  PQCACHE_RETURN_IF_ERROR(s.failed);
  s.tokens = n;
  return Status::Ok();
}

Status GpuSession::Step(int64_t token, std::vector<float>* logits) {
  Impl& s = *impl_;
  PQCACHE_RETURN_IF_ERROR(s.failed);
  PQCACHE_RETURN_IF_ERROR(s.CheckToken(token));
  if (s.tokens >= s.options.max_tokens) {
    return Status::InvalidArgument("the session has " + std::to_string(s.tokens) +
                                   " tokens already, which is its most");
  }
  s.failed = CallTorch([&] {
    const c10::InferenceMode inference;
    const c10::cuda::CUDAStreamGuard guard(s.stream);
    s.token.fill_(token);
    if (s.graph == nullptr) s.Record();
    s.graph->replay();
    const at::Tensor found = s.logits.cpu();
    logits->assign(found.data_ptr<float>(), found.data_ptr<float>() + found.numel());
  });
  PQCACHE_RETURN_IF_ERROR(s.failed);
  ++s.tokens;
  s.CountStep();
  return Status::Ok();
}

}  // namespace pqcache::attention
