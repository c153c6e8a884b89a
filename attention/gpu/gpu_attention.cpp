#include "attention/gpu/gpu_attention.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "attention/kernels/append_tokens.h"
#include "attention/kernels/gpu_shapes.h"
#include "attention/kernels/value_sums.h"
#include "pqcache/policy/tail_mode.h"

namespace pqcache::attention {
namespace {

// Device memory, zeros.
Result<GpuBuffer> Zeros(size_t bytes) {
  PQCACHE_ASSIGN_OR_RETURN(GpuBuffer buffer, GpuBuffer::Allocate(MemoryKind::kDevice, bytes));
  PQCACHE_RETURN_IF_ERROR(FillBytes(buffer.data(), 0, bytes, nullptr));
  PQCACHE_RETURN_IF_ERROR(WaitFor(nullptr));
  return buffer;
}

Status CheckShapes(const GpuAttentionOptions& options, const GpuKvCache& cache) {
  const GpuKvCacheOptions& kept = cache.options();
  if (options.heads % kept.kv_heads != 0) {
    return Status::InvalidArgument(std::to_string(options.heads) +
                                   " query heads, expected a multiple of the KV heads, " +
                                   std::to_string(kept.kv_heads));
  }
  PQCACHE_RETURN_IF_ERROR(
      CheckGpuShapes(kept.dim, cache.layer(0).bytes_per_key, options.heads / kept.kv_heads));
  if (kept.window.n_sink < 0 || kept.window.local_window < 1) {
    return Status::InvalidArgument("a window of " + std::to_string(kept.window.n_sink) + " and " +
                                   std::to_string(kept.window.local_window) +
                                   " tokens, expected at least 0 and 1");
  }
  return Status::Ok();
}

}  // namespace

GpuAttention::GpuAttention(GpuAttentionOptions options, GpuKvCache* cache, Choice choice)
    : options_(std::move(options)), cache_(cache), choice_(choice) {}

Result<std::unique_ptr<GpuAttention>> GpuAttention::Create(GpuAttentionOptions options,
                                                           GpuKvCache* cache) {
  PQCACHE_CHECK(options.policy != nullptr, "a policy");
  PQCACHE_RETURN_IF_ERROR(CheckShapes(options, *cache));
  const SelectionPolicy& policy = *options.policy;
  Choice choice = Choice::kBest;
  if (policy.attends_all()) {
    choice = Choice::kAll;
  } else if (!policy.selects_best() || policy.codes_only() || policy.ranks_found() ||
             policy.score_source() != ScoreSource::kCodes) {
    return Status::Unsupported(
        "this policy has no GPU kernels; those that have: exact, pq (without parameters)");
  } else if (cache->codebooks(0) == nullptr) {
    return Status::InvalidArgument("the policy scores codes, but there are no codebooks");
  }
  if (choice == Choice::kAll && options.estimate_tail) {
    return Status::InvalidArgument(
        "a tail estimate needs a policy that selects tokens; this one attends to all");
  }
  if (options.budget.mass > 0) {
    return Status::Unsupported("a budget of mass has no GPU kernel, expected tokens or a ratio");
  }
  std::unique_ptr<GpuAttention> attention(new GpuAttention(std::move(options), cache, choice));
  PQCACHE_RETURN_IF_ERROR(attention->Allocate());
  return attention;
}

int GpuAttention::lists() const {
  const GpuKvCacheOptions& o = cache_->options();
  return o.batch * (options_.per_head ? options_.heads : o.kv_heads);
}

Status GpuAttention::Allocate() {
  const int64_t max_tokens = cache_->options().max_tokens;
  if (choice_ == Choice::kBest) {
    max_selected_ =
        static_cast<int>(std::clamp<int64_t>(options_.budget.TokensFor(max_tokens), 1, max_tokens));
    PQCACHE_ASSIGN_OR_RETURN(select_workspace_, Zeros(SelectWorkspaceBytes(SelectParams(0))));
  }
  // Also a policy without selection has lists, empty ones.
  const size_t positions =
      static_cast<size_t>(lists()) * static_cast<size_t>(std::max(1, max_selected_));
  PQCACHE_ASSIGN_OR_RETURN(positions_, Zeros(positions * sizeof(int32_t)));
  PQCACHE_ASSIGN_OR_RETURN(counts_, Zeros(static_cast<size_t>(lists()) * sizeof(int32_t)));
  const auto rows = static_cast<size_t>(cache_->options().batch * options_.heads);
  const auto layers = static_cast<size_t>(cache_->options().layers);
  PQCACHE_ASSIGN_OR_RETURN(unselected_lse_, Zeros(rows * sizeof(float)));
  PQCACHE_ASSIGN_OR_RETURN(missed_mass_, Zeros(layers * rows * sizeof(float)));
  // Layers that attend to everything and those that do not differ in what they need.
  const int last = cache_->options().layers - 1;
  PQCACHE_ASSIGN_OR_RETURN(decode_workspace_,
                           Zeros(std::max(SparseDecodeWorkspaceBytes(DecodeParams(0)),
                                          SparseDecodeWorkspaceBytes(DecodeParams(last)))));
  return Status::Ok();
}

Status GpuAttention::ClearMissedMass(GpuStream stream) {
  return FillBytes(missed_mass_.data(), 0, missed_mass_.size(), stream);
}

SelectTokensParams GpuAttention::SelectParams(int layer) const {
  SelectTokensParams p;
  p.layer = cache_->layer(layer);
  p.codebooks = *cache_->codebooks(layer);
  p.window = cache_->options().window;
  p.group = options_.heads / cache_->options().kv_heads;
  p.per_head = options_.per_head;
  p.scale = 1.0f / std::sqrt(static_cast<float>(cache_->options().dim));
  p.budget_tokens = options_.budget.tokens;
  p.budget_ratio = options_.budget.ratio;
  p.max_selected = max_selected_;
  p.workspace = select_workspace_.data();
  p.positions = positions_.as<int32_t>();
  p.counts = counts_.as<int32_t>();
  p.unselected_lse = unselected_lse_.as<float>();
  return p;
}

SparseDecodeParams GpuAttention::DecodeParams(int layer) const {
  SparseDecodeParams p;
  p.layer = cache_->layer(layer);
  p.window = cache_->options().window;
  p.group = options_.heads / cache_->options().kv_heads;
  p.per_head = options_.per_head && Selects(layer);  // else the heads of a group read the same rows
  p.scale = 1.0f / std::sqrt(static_cast<float>(cache_->options().dim));
  p.max_selected = max_selected_;
  p.workspace = decode_workspace_.data();
  if (Selects(layer)) {
    p.positions = positions_.as<int32_t>();
    p.counts = counts_.as<int32_t>();
    p.estimate_tail = options_.estimate_tail;
    p.tail_like_chosen = kTailLikeChosen;
  }
  return p;
}

Status GpuAttention::Step(int layer, const float* queries, const float* keys, const float* values,
                          float* out, GpuStream stream) {
  AppendTokensParams append;
  append.layer = cache_->layer(layer);
  append.codebooks = cache_->codebooks(layer);
  append.keys = keys;
  append.values = values;
  if (Selects(layer)) {
    SelectTokensParams select = SelectParams(layer);
    select.queries = queries;
    PQCACHE_RETURN_IF_ERROR(SelectTokens(select, stream, &append));
  } else {
    PQCACHE_RETURN_IF_ERROR(AppendTokens(append, stream));
  }
  return Decode(layer, queries, out, stream);
}

Status GpuAttention::Select(int layer, const float* queries, GpuStream stream) {
  if (!Selects(layer)) return Status::Ok();
  SelectTokensParams params = SelectParams(layer);
  params.queries = queries;
  return SelectTokens(params, stream);
}

Status GpuAttention::Attend(int layer, const float* queries, float* out, GpuStream stream) {
  PQCACHE_RETURN_IF_ERROR(Select(layer, queries, stream));
  return Decode(layer, queries, out, stream);
}

Status GpuAttention::Decode(int layer, const float* queries, float* out, GpuStream stream) {
  SparseDecodeParams params = DecodeParams(layer);
  params.queries = queries;
  params.out = out;
  if (Selects(layer)) {
    params.unselected_lse = unselected_lse_.as<float>();
    params.missed_mass =
        missed_mass_.as<float>() + int64_t{layer} * cache_->options().batch * options_.heads;
  }
  if (params.estimate_tail) {
    PQCACHE_RETURN_IF_ERROR(UpdateValueSums(params.layer, params.window, stream));
  }
  return SparseDecode(params, stream);
}

}  // namespace pqcache::attention
