#include "attention/retained_attention.h"

#include <algorithm>
#include <limits>
#include <string>

#include "pqcache/base/check.h"
#include "pqcache/base/vector_math.h"

namespace pqcache::attention {
namespace {

constexpr int64_t kRowsPerRead = 4096;

// Of layers that attend to everything.
class EveryToken : public TokenRetention {
 public:
  explicit EveryToken(int64_t prompt) : prompt_(prompt) {}
  void Begin(int, const ReceivedAttention&, std::vector<int64_t>* kept) const override {
    for (int64_t t = 0; t < prompt_; ++t) kept->push_back(t);
  }
  void Drop(int, const KeptTokens&, int64_t, std::vector<size_t>* places) const override {
    places->clear();
  }
  int64_t step_tokens() const override { return std::numeric_limits<int64_t>::max(); }

 private:
  int64_t prompt_;
};

}  // namespace

Status RetainedAttention::CheckOptions(const CacheAttentionOptions& o) {
  const auto refuse = [](const char* what) {
    return Status::InvalidArgument(std::string(what) +
                                   " means nothing under a policy that drops tokens");
  };
  if (o.budget.mass > 0) return refuse("a budget of mass");
  if (o.tail != TailMode::kDrop) return refuse("tail=estimate");
  if (o.shadow_every > 0) return refuse("a shadow step");
  if (o.sliding_window > 0) {
    return Status::Unsupported("a model with a sliding window drops tokens by itself");
  }
  return Status::Ok();
}

Result<std::unique_ptr<RetainedAttention>> RetainedAttention::Create(CacheAttentionOptions options,
                                                                     const KvCache& prompt,
                                                                     const PromptRecord* record,
                                                                     ThreadPool* pool) {
  PQCACHE_CHECK(options.policy->drops(), "a policy that drops tokens");
  PQCACHE_RETURN_IF_ERROR(CheckOptions(options));
  if (prompt.tokens(0) == 0 && options.policy->needs_prompt()) {
    return Status::InvalidArgument(
        "what the policy keeps follows from a prompt, and there is none; expected one, or a policy "
        "with tokens=N");
  }
  const int layers = prompt.options().layers;
  std::unique_ptr<RetainedAttention> attention(
      new RetainedAttention(std::move(options), prompt, pool));
  for (int layer = 0; layer < layers; ++layer) {
    PQCACHE_RETURN_IF_ERROR(attention->FillLayer(prompt, record, layer));
  }
  return attention;
}

RetainedAttention::RetainedAttention(CacheAttentionOptions options, const KvCache& prompt,
                                     ThreadPool* pool)
    : options_(std::move(options)),
      pool_(pool),
      layers_(prompt.options().layers),
      kv_heads_(prompt.options().kv_heads),
      dim_(prompt.options().page.dim),
      dtype_(prompt.options().page.dtype),
      bounds_distances_(BoundsDistances(options_)),
      stats_(prompt.options().layers, prompt.options().kv_heads) {
  const int group = options_.heads / kv_heads_;
  const KvCacheOptions& kept = prompt.options();
  RetentionShape shape;
  shape.group = group;
  shape.prompt = prompt.tokens(0);
  shape.n_sink = kept.n_sink;
  shape.budget = kept.n_sink + kept.local_window + options_.budget.TokensFor(shape.prompt);
  for (int layer = 0; layer < layers_; ++layer) {
    for (int h = 0; h < kv_heads_; ++h) {
      std::unique_ptr<TokenRetention> retention = Retention(layer, shape);
      max_step_tokens_ = std::min(max_step_tokens_, retention->step_tokens());
      heads_.emplace_back(std::move(retention), group, dim_, dtype_, options_.rope.get());
    }
  }
}

std::unique_ptr<TokenRetention> RetainedAttention::Retention(int layer,
                                                             const RetentionShape& shape) const {
  if (layer < options_.dense_layers || options_.policy->dense(layer)) {
    return std::make_unique<EveryToken>(shape.prompt);
  }
  return options_.policy->NewRetention(shape);
}

Status RetainedAttention::FillLayer(const KvCache& prompt, const PromptRecord* record, int layer) {
  const int64_t tokens = prompt.tokens(layer);
  const PromptNeeds needs = options_.policy->prompt_needs();
  std::vector<float> received;
  if (needs.any()) {
    if (record == nullptr) {
      return Status::InvalidArgument(
          "the policy asks how the prompt attended, and nothing of it was recorded");
    }
    const PrefillParams params{&prompt, options_.heads, options_.sliding_window};
    PQCACHE_ASSIGN_OR_RETURN(received, record->Received(params, needs, layer, tokens, pool_));
  }
  const int group = options_.heads / kv_heads_;
  return pool_->RunChecked(kv_heads_, [&](int64_t h) {
    RetainedHead& head = heads_[static_cast<size_t>(layer * kv_heads_ + h)];
    const float* sums = received.empty() ? nullptr : received.data() + h * group * tokens;
    const std::vector<int64_t> positions = head.Begin({sums, tokens});
    std::vector<float> keys(static_cast<size_t>(kRowsPerRead * dim_)), values(keys.size());
    std::vector<float> kept_keys, kept_values;
    size_t next = 0;
    for (int64_t begin = 0; begin < tokens && next < positions.size(); begin += kRowsPerRead) {
      const int64_t end = std::min(tokens, begin + kRowsPerRead);
      if (positions[next] >= end) continue;
      PQCACHE_RETURN_IF_ERROR(
          prompt.ReadRows(layer, static_cast<int>(h), begin, end, keys.data(), values.data()));
      const size_t first = next;
      kept_keys.clear();
      kept_values.clear();
      for (; next < positions.size() && positions[next] < end; ++next) {
        const int64_t offset = (positions[next] - begin) * dim_;
        kept_keys.insert(kept_keys.end(), keys.begin() + offset, keys.begin() + offset + dim_);
        kept_values.insert(kept_values.end(), values.begin() + offset,
                           values.begin() + offset + dim_);
      }
      head.Fill(std::span(positions).subspan(first, next - first), kept_keys.data(),
                kept_values.data());
    }
    return Status::Ok();
  });
}

Status RetainedAttention::Attend(const AttentionInput& input, float* out) {
  const int64_t query_size = int64_t{options_.heads} * dim_;
  const int64_t key_size = int64_t{kv_heads_} * dim_;
  if (!AllFinite(input.queries, input.n * query_size) ||
      !AllFinite(input.keys, input.n * key_size)) {
    return Status::InvalidArgument("a query or a key is NaN or infinite, expected finite numbers");
  }
  const int64_t group_size = query_size / kv_heads_;
  pool_->Run(kv_heads_, [&](int64_t h) {
    RetainedHead& head = heads_[static_cast<size_t>(input.layer * kv_heads_ + h)];
    head.Step(input.n, input.positions[0], input.keys + h * dim_, input.values + h * dim_, key_size,
              input.queries + h * group_size, query_size, out + h * group_size);
    HeadStats& stats = stats_.at(input.layer, static_cast<int>(h));
    ++stats.steps;
    stats.context += static_cast<double>(input.positions[0] + input.n);
    stats.always += head.attended();
  });
  return Status::Ok();
}

uint64_t RetainedAttention::bytes() const {
  uint64_t bytes = 0;
  for (const RetainedHead& head : heads_) bytes += head.bytes();
  return bytes;
}

}  // namespace pqcache::attention
