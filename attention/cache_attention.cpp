#include "attention/cache_attention.h"

#include <algorithm>
#include <cmath>

#include "attention/prefill_attention.h"
#include "attention/shadow_step.h"
#include "pqcache/base/half.h"
#include "pqcache/base/vector_math.h"

namespace pqcache::attention {
namespace {

// Pages held at once while a layer attends: bounds memory outside the store's budget.
constexpr size_t kPagesPerRound = 128;

constexpr int64_t kMaxStepTokens = 64;
constexpr int64_t kRowsPerRead = 16384;               // of a head, as float32
constexpr int64_t kMaxStepScores = int64_t{4} << 20;  // per KV head

SelectorShape ShapeOf(const CacheAttentionOptions& o, const KvCache& cache) {
  const KvCacheOptions& kept = cache.options();
  return {kept.kv_heads, o.heads / kept.kv_heads, kept.page.dim};
}

Status CheckOptions(const CacheAttentionOptions& o, const KvCache& cache) {
  const HeadCache& head = cache.head(0, 0);
  const ScoreSource source = o.policy->score_source();
  if (source == ScoreSource::kCodes && head.codes() == nullptr) {
    return Status::InvalidArgument("the policy scores codes, and no codebooks were given");
  }
  if (source == ScoreSource::kKeys && head.keys() == nullptr) {
    return Status::InvalidArgument("the policy scores exact keys, and the cache keeps none");
  }
  const bool keyless = cache.options().page.layout == PageLayout::kValueOnly;
  if (keyless && !o.policy->codes_only()) {
    return Status::InvalidArgument("the pages hold no keys; only pq:codes_only can attend to them");
  }
  if (o.tail == TailMode::kEstimate && source == ScoreSource::kNone) {
    return Status::InvalidArgument("tail=estimate needs a policy with scores (pq, flat)");
  }
  if (o.tail == TailMode::kEstimate && !cache.options().value_sums) {
    return Status::InvalidArgument("tail=estimate needs sums of values, and the cache keeps none");
  }
  if (o.policy->drops()) {
    return Status::InvalidArgument("a policy that drops tokens does not attend to a cache");
  }
  const SelectionBudget& b = o.budget;
  if (b.tokens < 0 || !(b.ratio >= 0 && b.ratio <= 1) || !(b.mass >= 0 && b.mass <= 1) ||
      (b.tokens > 0 && b.ratio > 0)) {
    return Status::InvalidArgument(
        "budget: tokens " + std::to_string(b.tokens) + ", ratio " + std::to_string(b.ratio) +
        ", mass " + std::to_string(b.mass) +
        ", expected tokens >= 0 or a ratio in [0, 1], not both, and a mass in [0, 1]");
  }
  if (b.mass > 0 && o.policy->uses_budget() && !o.policy->takes_mass()) {
    return Status::InvalidArgument("budget: mass " + std::to_string(b.mass) +
                                   ", which the policy does not take, expected tokens or a ratio");
  }
  if (b.mass > 0 && o.widen_misfit) {
    return Status::InvalidArgument("budget: mass " + std::to_string(b.mass) +
                                   " and widening where codebooks do not fit, which ranks a number "
                                   "of tokens, expected tokens or a ratio");
  }
  const auto selector = o.policy->NewSelector(ShapeOf(o, cache));
  if (selector != nullptr && selector->fixed_distance() && o.rope == nullptr) {
    return Status::InvalidArgument(
        "the policy changes distances, and no rotary embedding is given");
  }
  return Status::Ok();
}

}  // namespace

Result<std::unique_ptr<CacheAttention>> CacheAttention::Create(
    CacheAttentionOptions options, KvCache* cache, ThreadPool* pool,
    std::shared_ptr<PromptRecord> record) {
  PQCACHE_RETURN_IF_ERROR(CheckOptions(options, *cache));
  options.needs.Add(options.policy->prompt_needs());
  if (record == nullptr && options.needs.any()) {
    record = std::make_shared<PromptRecord>(options.needs, cache->options().layers, options.heads);
  }
  std::unique_ptr<CacheAttention> attention(
      new CacheAttention(std::move(options), cache, pool, std::move(record)));
  PQCACHE_ASSIGN_OR_RETURN(attention->exact_, CreatePolicy("exact"));
  return attention;
}

CacheAttention::CacheAttention(CacheAttentionOptions options, KvCache* cache, ThreadPool* pool,
                               std::shared_ptr<PromptRecord> record)
    : options_(std::move(options)),
      cache_(cache),
      pool_(pool),
      record_(std::move(record)),
      has_selectors_(options_.policy->NewSelector(ShapeOf(options_, *cache)) != nullptr),
      selectors_(static_cast<size_t>(cache->options().layers)),
      begun_(static_cast<size_t>(cache->options().layers), false),
      steps_(static_cast<size_t>(cache->options().kv_heads)),
      wanted_(static_cast<size_t>(cache->options().layers)),
      memory_(static_cast<size_t>(cache->options().layers * cache->options().kv_heads),
              HeadMemory(options_.heads / cache->options().kv_heads)),
      stats_(cache->options().layers, cache->options().kv_heads) {}

Status CacheAttention::Attend(const AttentionInput& input, float* out) {
  PQCACHE_RETURN_IF_ERROR(cache_->WaitLayer(input.layer));
  const int64_t query_size = int64_t{options_.heads} * cache_->options().page.dim;
  if (!AllFinite(input.queries, input.n * query_size)) {
    return Status::InvalidArgument("a query is NaN or infinite, expected finite numbers");
  }
  return prefill_ ? Prefill(input, out) : Decode(input, out);
}

Status CacheAttention::Prefill(const AttentionInput& input, float* out) {
  PQCACHE_CHECK(input.positions[0] == cache_->tokens(input.layer), "rows continue the cache");
  const AttentionInput stored = AsStored(input);
  std::vector<float> lse;
  if (record_ != nullptr) lse.resize(static_cast<size_t>(input.n * options_.heads));
  PQCACHE_RETURN_IF_ERROR(
      PrefillAttention(Params(), stored, pool_, out, record_ == nullptr ? nullptr : lse.data()));
  PQCACHE_RETURN_IF_ERROR(cache_->Append(stored.layer, stored.n, stored.keys, stored.values));
  if (record_ == nullptr) return Status::Ok();
  if (record_.use_count() > 1) record_ = std::make_shared<PromptRecord>(*record_);  // a fork's own
  return record_->Add(Params(), stored, lse.data(), pool_);
}

AttentionInput CacheAttention::AsStored(const AttentionInput& input) {
  if (cache_->options().page.dtype == DType::kF32) return input;
  const int64_t size = input.n * cache_->options().kv_heads * cache_->options().page.dim;
  const auto round = [size](const float* x, std::vector<float>* rounded) {
    rounded->resize(static_cast<size_t>(size));
    for (int64_t i = 0; i < size; ++i) {
      (*rounded)[static_cast<size_t>(i)] = BFloat16ToFloat(FloatToBFloat16(x[i]));
    }
    return rounded->data();
  };
  AttentionInput stored = input;
  stored.keys = round(input.keys, &rounded_keys_);
  stored.values = round(input.values, &rounded_values_);
  return stored;
}

bool CacheAttention::Dense(int layer) const {
  return layer < options_.dense_layers || options_.policy->dense(layer);
}

// Layers that share a choice are counted from the first one that makes any.
int CacheAttention::ChooserFor(int layer) const {
  int first = 0;
  while (Dense(first)) ++first;
  const int chooser = layer - (layer - first) % options_.policy->layer_step();
  return Dense(chooser) ? layer : chooser;
}

Result<HeadStepConfig> CacheAttention::ConfigFor(const AttentionInput& input) {
  HeadStepConfig config;
  config.policy = options_.policy.get();
  config.budget = options_.budget;
  config.per_head = options_.per_head || options_.policy->certify_most() > 0;
  config.tail = options_.tail;
  config.widen_misfit = options_.widen_misfit;
  config.sliding_window = options_.sliding_window;
  config.rope = options_.rope.get();
  const bool keyless = cache_->options().page.layout == PageLayout::kValueOnly;
  if (Dense(input.layer)) {
    // Without keys in the pages, "all tokens by their codes" is as exact as it gets.
    if (keyless) {
      config.budget = {.ratio = 1.0};
    } else {
      config.policy = exact_.get();
    }
    config.tail = TailMode::kDrop;
    return config;
  }
  if (!has_selectors_) return config;
  const int chooser = ChooserFor(input.layer);
  std::unique_ptr<LayerSelector>& selector = selectors_[static_cast<size_t>(chooser)];
  if (selector == nullptr) selector = options_.policy->NewSelector(ShapeOf(options_, *cache_));
  if (chooser == input.layer) PQCACHE_RETURN_IF_ERROR(Choose(input, selector.get()));
  config.selector = selector.get();
  config.per_head = selector->per_query();
  return config;
}

Status CacheAttention::Choose(const AttentionInput& input, LayerSelector* selector) {
  PQCACHE_CHECK(input.n == 1, "a selector chooses for one token");
  PQCACHE_RETURN_IF_ERROR(Remember(input.layer, cache_->tokens(input.layer) - input.n, selector));
  const KvCacheOptions& kept = cache_->options();
  const HeadCache& first = cache_->head(input.layer, 0);
  SelectorStep step;
  step.scale = 1.0f / std::sqrt(static_cast<float>(kept.page.dim));
  const Candidates candidates = CandidatesOf(first, options_.sliding_window);
  step.begin = candidates.begin;
  step.end = candidates.end;
  step.tokens = options_.budget.TokensFor(first.tokens());
  const int group = options_.heads / kept.kv_heads;
  pool_->Run(kept.kv_heads, [&](int64_t h) {
    const float* queries = input.queries + h * group * kept.page.dim;
    std::vector<float> moved;
    if (selector->fixed_distance()) {
      moved = AtWindowEnd(*options_.rope, first, group, queries);
      queries = moved.data();
    }
    selector->Score(static_cast<int>(h), queries, step);
  });
  selector->Choose(step);
  return Status::Ok();
}

Status CacheAttention::Remember(int layer, int64_t prompt, LayerSelector* selector) {
  const int kv_heads = cache_->options().kv_heads;
  const int dim = cache_->options().page.dim;
  const int group = options_.heads / kv_heads;
  const PromptNeeds needs = options_.policy->prompt_needs();
  std::vector<float> received;
  if (!begun_[static_cast<size_t>(layer)] && needs.any()) {
    PQCACHE_ASSIGN_OR_RETURN(received, record_->Received(Params(), needs, layer, prompt, pool_));
  }
  begun_[static_cast<size_t>(layer)] = true;
  return pool_->RunChecked(kv_heads, [&](int64_t h) {
    const int head = static_cast<int>(h);
    if (!received.empty()) {
      selector->SetReceived(head, {received.data() + h * group * prompt, prompt});
    }
    return ReadPagedKeys(layer, head, selector->tokens(head),
                         [&](int64_t begin, int64_t n, float* keys) {
                           for (int64_t t = 0; t < n && selector->fixed_distance(); ++t) {
                             const int64_t back = -(begin + t);
                             options_.rope->Apply(1, &back, 1, dim, keys + t * dim);
                           }
                           selector->Append(head, n, keys);
                         });
  });
}

Status CacheAttention::MeasureResiduals(int layer) {
  const int kv_heads = cache_->options().kv_heads;
  return pool_->RunChecked(kv_heads, [&](int64_t h) {
    const HeadCache& head = cache_->head(layer, static_cast<int>(h));
    if (!head.finite()) return Status::Ok();  // it attends exactly
    ResidualNorms& norms = memory_[static_cast<size_t>(layer * kv_heads + h)].norms;
    return ReadPagedKeys(layer, static_cast<int>(h), norms.size(),
                         [&](int64_t /*begin*/, int64_t n, const float* keys) {
                           norms.Append(*head.codes(), n, keys);
                         });
  });
}

// A head with a NaN attends exactly; its keys must not spoil what all heads choose together, so
// they are given as zeros.
Status CacheAttention::ReadPagedKeys(
    int layer, int head, int64_t begin,
    const std::function<void(int64_t begin, int64_t n, float* keys)>& append) const {
  const bool finite = cache_->head(layer, head).finite();
  const int64_t paged = cache_->head(layer, head).paged_tokens();
  const int dim = cache_->options().page.dim;
  std::vector<float> keys, values;
  while (begin < paged) {
    const int64_t end = std::min(paged, begin + kRowsPerRead);
    keys.assign(static_cast<size_t>((end - begin) * dim), 0.0f);
    values.resize(keys.size());
    if (finite) {
      PQCACHE_RETURN_IF_ERROR(
          cache_->ReadRows(layer, head, begin, end, keys.data(), values.data()));
    }
    append(begin, end - begin, keys.data());
    begin = end;
  }
  return Status::Ok();
}

uint64_t CacheAttention::policy_bytes() const {
  uint64_t bytes = record_ == nullptr ? 0 : record_->bytes_for(options_.policy->prompt_needs());
  for (const auto& selector : selectors_) bytes += selector == nullptr ? 0 : selector->bytes();
  for (const HeadMemory& memory : memory_) bytes += memory.bytes();
  return bytes;
}

int64_t CacheAttention::MaxStepTokens(int64_t context) const {
  const KvCacheOptions& kept = cache_->options();
  if (options_.sliding_window > 0 || has_selectors_) return 1;
  // A step that ranks holds rows of every list, which are as many as it has queries if each selects
  // for itself.
  const SelectionPolicy& policy = *options_.policy;
  const bool ranks = policy.ranks_found() || options_.widen_misfit;
  if (ranks && (options_.per_head || policy.certify_most() > 0)) return 1;
  const int64_t group = options_.heads / kept.kv_heads;
  const int64_t fit = kMaxStepScores / std::max<int64_t>(1, group * context);
  return std::max<int64_t>(1, std::min({kMaxStepTokens, int64_t{kept.local_window} / 4, fit}));
}

Status CacheAttention::Decode(const AttentionInput& input, float* out) {
  PQCACHE_CHECK(input.positions[0] == cache_->tokens(input.layer), "rows continue the cache");
  PQCACHE_RETURN_IF_ERROR(cache_->Append(input.layer, input.n, input.keys, input.values));
  PQCACHE_ASSIGN_OR_RETURN(const HeadStepConfig config, ConfigFor(input));
  const bool certifies = config.policy->certify_most() > 0;
  if (certifies) PQCACHE_RETURN_IF_ERROR(MeasureResiduals(input.layer));
  const int kv_heads = cache_->options().kv_heads;
  const int group = options_.heads / kv_heads;
  const int64_t group_size = int64_t{group} * cache_->options().page.dim;
  const int64_t head_size = input.n * group_size;
  queries_.resize(static_cast<size_t>(kv_heads * head_size));
  outputs_.resize(queries_.size());
  pool_->Run(kv_heads, [&](int64_t h) {
    float* queries = queries_.data() + h * head_size;
    for (int64_t i = 0; i < input.n; ++i) {
      std::copy_n(input.queries + (i * kv_heads + h) * group_size, group_size,
                  queries + i * group_size);
    }
    steps_[h].Begin(config, cache_->head(input.layer, static_cast<int>(h)),
                    static_cast<int>(input.n), group, queries,
                    &memory_[static_cast<size_t>(input.layer * kv_heads + h)]);
  });
  PrefetchNextLayer(input.layer);
  PQCACHE_RETURN_IF_ERROR(ReadAndAdd(input.layer));
  if (certifies) {
    pool_->Run(kv_heads, [&](int64_t h) { steps_[h].Widen(); });
    PQCACHE_RETURN_IF_ERROR(ReadAndAdd(input.layer));
  }
  pool_->Run(kv_heads, [&](int64_t h) {
    float* outputs = outputs_.data() + h * head_size;
    steps_[h].Finish(outputs, &stats_.at(input.layer, static_cast<int>(h)));
    for (int64_t i = 0; i < input.n; ++i) {
      std::copy_n(outputs + i * group_size, group_size, out + (i * kv_heads + h) * group_size);
    }
  });
  if (input.n > 1) return Status::Ok();
  if (input.layer == 0) ++decoded_;
  if (options_.shadow_every > 0 && decoded_ % options_.shadow_every == 0) {
    return Shadow(input, config, out);
  }
  return Status::Ok();
}

// The next layer will probably want the pages that it wanted for the token before.
void CacheAttention::PrefetchNextLayer(int layer) {
  const size_t next = static_cast<size_t>(layer + 1) % wanted_.size();
  cache_->store()->Prefetch(wanted_[next]);
  std::vector<PageKey>& wanted = wanted_[static_cast<size_t>(layer)];
  wanted.clear();
  for (int h = 0; h < cache_->options().kv_heads; ++h) {
    for (int64_t page : steps_[static_cast<size_t>(h)].pages()) {
      wanted.push_back(cache_->head(layer, h).page_key(page));
    }
  }
}

// Every thread reads for its share of the heads in one batch and goes on with them at once.
Status CacheAttention::ReadAndAdd(int layer) {
  const int64_t kv_heads = cache_->options().kv_heads;
  const int64_t parts = std::min<int64_t>(kv_heads, pool_->threads());
  std::vector<size_t> next(static_cast<size_t>(kv_heads), 0);
  std::vector<size_t> bounds(static_cast<size_t>(kv_heads) + 1);
  const size_t share = std::max<size_t>(1, kPagesPerRound / static_cast<size_t>(kv_heads));
  while (true) {
    reads_.clear();
    for (int h = 0; h < kv_heads; ++h) {
      const auto i = static_cast<size_t>(h);
      const std::vector<int64_t>& pages = steps_[i].pages();
      const size_t end = std::min(pages.size(), next[i] + share);
      for (; next[i] < end; ++next[i]) {
        reads_.push_back({cache_->head(layer, h).page_key(pages[next[i]]), nullptr, Status::Ok()});
      }
      bounds[i + 1] = reads_.size();
    }
    if (reads_.empty()) return Status::Ok();
    const auto pages = [&](int64_t first, int64_t last) {
      const size_t begin = bounds[static_cast<size_t>(first)];
      return std::span(reads_).subspan(begin, bounds[static_cast<size_t>(last)] - begin);
    };
    const Status status = pool_->RunChecked(parts, [&](int64_t part) {
      const int64_t first = part * kv_heads / parts, last = (part + 1) * kv_heads / parts;
      const Status read = cache_->ReadPages(pages(first, last));
      if (!read.ok()) return read;
      for (int64_t h = first; h < last; ++h) {
        steps_[static_cast<size_t>(h)].AddPages(pages(h, h + 1));
      }
      return Status::Ok();
    });
    if (!status.ok()) {
      reads_.clear();
      return status;
    }
  }
}

Status CacheAttention::Shadow(const AttentionInput& input, const HeadStepConfig& config,
                              const float* out) {
  const int kv_heads = cache_->options().kv_heads;
  const int group = options_.heads / kv_heads;
  const int64_t group_size = int64_t{group} * cache_->options().page.dim;
  return pool_->RunChecked(kv_heads, [&](int64_t h) {
    const int head = static_cast<int>(h);
    const ShadowRequest request{
        cache_, input.layer, head, group, input.queries + h * group_size, out + h * group_size};
    return JudgeStep(request, config, steps_[static_cast<size_t>(h)],
                     &stats_.at(input.layer, head));
  });
}

}  // namespace pqcache::attention
