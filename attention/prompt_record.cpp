#include "attention/prompt_record.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <string>

#include "attention/received_attention.h"

namespace pqcache::attention {
namespace {

using Clock = std::chrono::steady_clock;

double Milliseconds(Clock::time_point since) {
  return std::chrono::duration<double, std::milli>(Clock::now() - since).count();
}

// rows [heads, from] become [heads, to]; what is new is zero.
void Restride(int64_t heads, int64_t from, int64_t to, std::vector<float>* rows) {
  std::vector<float> wider(static_cast<size_t>(heads * to), 0.0f);
  for (int64_t h = 0; h < heads; ++h) {
    std::copy_n(rows->begin() + h * from, from, wider.begin() + h * to);
  }
  rows->swap(wider);
}

// Keeps the last `count` floats.
void KeepEnd(size_t count, std::vector<float>* x) {
  if (x->size() > count) x->erase(x->begin(), x->end() - static_cast<std::ptrdiff_t>(count));
}

}  // namespace

void PromptRecord::Widen(int64_t tokens, Layer* layer) const {
  if (needs_.all) Restride(heads_, layer->tokens, tokens, &layer->all);
  if (needs_.local) Restride(heads_, layer->tokens, tokens, &layer->local);
  layer->tokens = tokens;
}

Status PromptRecord::Add(const PrefillParams& params, const AttentionInput& input, const float* lse,
                         ThreadPool* pool) {
  Layer& layer = layers_[static_cast<size_t>(input.layer)];
  if (layer.tokens != input.positions[0]) {
    return Status::InvalidArgument(
        "the policy asks how all of the prompt attended, and " +
        std::to_string(input.positions[0] - layer.tokens) +
        " tokens in front of it were not recorded; expected a prompt that is computed in one go");
  }
  const int64_t tokens = input.positions[input.n - 1] + 1;
  Widen(tokens, &layer);
  auto start = Clock::now();
  if (needs_.all) {
    PQCACHE_RETURN_IF_ERROR(AddReceived(params, input, lse, tokens, pool, layer.all.data()));
  }
  all_ms_ += Milliseconds(start);
  start = Clock::now();
  if (needs_.local) {
    // The same softmax over the window alone.
    PrefillParams local = params;
    const int64_t window = params.cache->options().local_window;
    local.sliding_window =
        params.sliding_window > 0 ? std::min(params.sliding_window, window) : window;
    const size_t rows = static_cast<size_t>(input.n * heads_);
    std::vector<float> out(rows * static_cast<size_t>(params.cache->options().page.dim));
    std::vector<float> local_lse(rows);
    PQCACHE_RETURN_IF_ERROR(PrefillAttention(local, input, pool, out.data(), local_lse.data()));
    PQCACHE_RETURN_IF_ERROR(
        AddReceived(local, input, local_lse.data(), tokens, pool, layer.local.data()));
  }
  local_ms_ += Milliseconds(start);
  KeepLast(input, params.cache->options().page.dim, lse, &layer);
  return Status::Ok();
}

void PromptRecord::KeepLast(const AttentionInput& input, int64_t dim, const float* lse,
                            Layer* layer) const {
  const int64_t count = std::min(needs_.last, input.n), first = input.n - count;
  const int64_t row = heads_ * dim;
  layer->last_queries.insert(layer->last_queries.end(), input.queries + first * row,
                             input.queries + input.n * row);
  layer->last_lse.insert(layer->last_lse.end(), lse + first * heads_, lse + input.n * heads_);
  KeepEnd(static_cast<size_t>(needs_.last * row), &layer->last_queries);
  KeepEnd(static_cast<size_t>(needs_.last * heads_), &layer->last_lse);
}

Result<std::vector<float>> PromptRecord::Received(const PrefillParams& params,
                                                  const PromptNeeds& needs, int layer,
                                                  int64_t tokens, ThreadPool* pool) const {
  const Layer& l = layers_[static_cast<size_t>(layer)];
  if (l.tokens != tokens) {
    return Status::InvalidArgument(
        "the policy asks how " + std::to_string(tokens) + " tokens of the prompt attended, and " +
        std::to_string(l.tokens) +
        " were recorded; expected a prompt that this process has computed in one go");
  }
  if ((needs.all && !needs_.all) || (needs.local && !needs_.local) || needs.last > needs_.last) {
    return Status::InvalidArgument("the policy asks what was not recorded of the prompt");
  }
  if (needs.all) return l.all;
  if (needs.local) return l.local;
  const int64_t kept = std::ssize(l.last_lse) / heads_;
  const int64_t count = std::min(needs.last, kept), skipped = kept - count;
  std::vector<int64_t> positions(static_cast<size_t>(count));
  std::iota(positions.begin(), positions.end(), tokens - count);
  AttentionInput input;
  input.layer = layer;
  input.n = count;
  input.positions = positions.data();
  input.queries = l.last_queries.data() + skipped * heads_ * params.cache->options().page.dim;
  std::vector<float> sums(static_cast<size_t>(heads_ * tokens), 0.0f);
  PQCACHE_RETURN_IF_ERROR(
      AddReceived(params, input, l.last_lse.data() + skipped * heads_, tokens, pool, sums.data()));
  return sums;
}

uint64_t PromptRecord::bytes_for(const PromptNeeds& needs) const {
  size_t floats = 0;
  for (const Layer& l : layers_) {
    if (needs.all) floats += l.all.size();
    if (needs.local) floats += l.local.size();
    if (needs.last > 0) floats += l.last_queries.size() + l.last_lse.size();
  }
  return floats * sizeof(float);
}

}  // namespace pqcache::attention
