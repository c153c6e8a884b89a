#pragma once

// What tests of the cache and of attention share: random rows of queries, keys and values, random
// codebooks, a cache with a backend over it, and the exact answer computed apart from both.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "attention/cache_attention.h"
#include "attention/sdpa_reference.h"
#include "pqcache/base/random.h"
#include "pqcache/base/thread_pool.h"
#include "pqcache/cache/kv_cache.h"
#include "pqcache/index/codebook.h"
#include "storage/memory_page_store.h"

namespace pqcache::testing {

// One layer: queries [T, Hq, D], keys and values [T, Hkv, D].
struct Sequence {
  int64_t tokens = 0;
  int heads = 0, kv_heads = 0, dim = 0;
  std::vector<float> queries, keys, values;

  int group() const { return heads / kv_heads; }
  const float* query(int64_t t, int head) const {
    return queries.data() + (t * heads + head) * dim;
  }
  float* key(int64_t t, int kv_head) { return keys.data() + (t * kv_heads + kv_head) * dim; }
  const float* key(int64_t t, int kv_head) const {
    return keys.data() + (t * kv_heads + kv_head) * dim;
  }
  float* value(int64_t t, int kv_head) { return values.data() + (t * kv_heads + kv_head) * dim; }
  const float* value(int64_t t, int kv_head) const {
    return values.data() + (t * kv_heads + kv_head) * dim;
  }
};

// Queries are twice as long as keys, so that attention is neither flat nor a single token; values
// have a mean, so that dropping tokens moves the output.
inline Sequence RandomSequence(uint64_t seed, int64_t tokens, int heads, int kv_heads, int dim) {
  Sequence s{tokens, heads, kv_heads, dim, {}, {}, {}};
  Random random(seed);
  const auto fill = [&](int rows, float scale, float mean, std::vector<float>* out) {
    out->resize(static_cast<size_t>(tokens * rows * dim));
    for (float& x : *out) x = scale * random.Normal() + mean;
  };
  fill(heads, 2.0f, 0.0f, &s.queries);
  fill(kv_heads, 1.0f, 0.0f, &s.keys);
  fill(kv_heads, 1.0f, 0.25f, &s.values);
  return s;
}

// A [D, D] with orthogonal rows of length 1/2 to 2, and B = A^-T.
inline void RandomTransforms(uint64_t seed, int dim, std::vector<float>* a, std::vector<float>* b) {
  Random random(seed);
  const auto n = static_cast<size_t>(dim);
  std::vector<std::vector<double>> rows(n, std::vector<double>(n));
  for (size_t i = 0; i < n; ++i) {
    for (double& x : rows[i]) x = random.Normal();
    for (size_t j = 0; j < i; ++j) {
      const double dot = std::inner_product(rows[i].begin(), rows[i].end(), rows[j].begin(), 0.0);
      for (size_t d = 0; d < n; ++d) rows[i][d] -= dot * rows[j][d];
    }
    const double norm =
        std::sqrt(std::inner_product(rows[i].begin(), rows[i].end(), rows[i].begin(), 0.0));
    for (double& x : rows[i]) x /= norm;
  }
  a->resize(n * n);
  b->resize(n * n);
  for (size_t i = 0; i < n; ++i) {
    const double length = std::exp2(2 * random.Uniform() - 1);
    for (size_t d = 0; d < n; ++d) {
      (*a)[i * n + d] = static_cast<float>(rows[i][d] * length);
      (*b)[i * n + d] = static_cast<float>(rows[i][d] / length);
    }
  }
}

// Centroids are sub-vectors of random keys of the same head.
inline HeadCodebook RandomCodebook(const Sequence& s, int kv_head, PqShape shape, bool rotate,
                                   uint64_t seed) {
  HeadCodebook::Parts parts;
  parts.shape = shape;
  if (rotate) {
    RandomTransforms(MixSeed(seed, 1), s.dim, &parts.key_transform, &parts.query_transform);
  }
  Random random(seed);
  std::vector<float> mapped(static_cast<size_t>(s.dim));
  for (int c = 0; c < shape.subspaces * shape.centroids(); ++c) {
    const float* key =
        s.key(static_cast<int64_t>(random.Below(static_cast<uint64_t>(s.tokens))), kv_head);
    for (int d = 0; d < s.dim; ++d) {
      const float* row = rotate ? &parts.key_transform[static_cast<size_t>(d * s.dim)] : nullptr;
      mapped[static_cast<size_t>(d)] =
          rotate ? std::inner_product(row, row + s.dim, key, 0.0f) : key[d];
    }
    const auto sub = mapped.begin() + c / shape.centroids() * shape.sub_dim();
    parts.centroids.insert(parts.centroids.end(), sub, sub + shape.sub_dim());
  }
  return HeadCodebook::Create(std::move(parts)).value();
}

// For layers of equal shape; pq is "MxBITS".
inline std::shared_ptr<const CodebookSet> RandomCodebooks(const std::vector<Sequence>& layers,
                                                          const std::string& pq,
                                                          bool rotate = true) {
  auto set = std::make_shared<CodebookSet>();
  set->layers = static_cast<int>(layers.size());
  set->kv_heads = layers[0].kv_heads;
  const PqShape shape = PqShape::Parse(pq, layers[0].dim).value();
  for (const Sequence& s : layers) {
    for (int h = 0; h < s.kv_heads; ++h) {
      set->heads.push_back(RandomCodebook(s, h, shape, rotate, set->heads.size() + 1));
    }
  }
  return set;
}

// The same codebooks, said to have these residuals.
inline std::shared_ptr<const CodebookSet> WithResiduals(const CodebookSet& set, float residual) {
  auto with = std::make_shared<CodebookSet>(set);
  for (HeadCodebook& head : with->heads) head = head.WithResidual(residual).value();
  return with;
}

// The sequence with keys [begin, end) replaced by what the codes of `layer` keep of them.
inline Sequence WithDecodedKeys(Sequence s, const CodebookSet& codebooks, int layer, int64_t begin,
                                int64_t end) {
  for (int h = 0; h < s.kv_heads; ++h) {
    const HeadCodebook& codebook = codebooks.head(layer, h);
    std::vector<uint8_t> code(static_cast<size_t>(codebook.shape().subspaces));
    for (int64_t t = begin; t < end; ++t) {
      codebook.Encode(t, 1, s.key(t, h), code.data());
      codebook.Decode(t, 1, code.data(), s.key(t, h));
    }
  }
  return s;
}

// Exact attention [G, D] of the query heads of one KV head at token t, over the tokens up to t for
// which `keep` ([t + 1], or empty) holds.
inline std::vector<double> ExactHead(const Sequence& s, int64_t t, int kv_head,
                                     const std::vector<bool>& keep = {},
                                     int64_t sliding_window = 0) {
  std::vector<float> keys, values;
  for (int64_t i = 0; i <= t; ++i) {
    keys.insert(keys.end(), s.key(i, kv_head), s.key(i, kv_head) + s.dim);
    values.insert(values.end(), s.value(i, kv_head), s.value(i, kv_head) + s.dim);
  }
  const attention::SdpaShape shape{.n = 1,
                                   .t = t + 1,
                                   .heads = s.group(),
                                   .kv_heads = 1,
                                   .dim = s.dim,
                                   .sliding_window = sliding_window};
  return attention::SdpaReference(shape, s.query(t, kv_head * s.group()), keys.data(),
                                  values.data(), keep)
      .out;
}

// The same of all heads: [Hq, D].
inline std::vector<double> ExactRow(const Sequence& s, int64_t t,
                                    const std::vector<bool>& keep = {},
                                    int64_t sliding_window = 0) {
  std::vector<double> out;
  for (int h = 0; h < s.kv_heads; ++h) {
    const std::vector<double> head = ExactHead(s, t, h, keep, sliding_window);
    out.insert(out.end(), head.begin(), head.end());
  }
  return out;
}

// Largest |a - b|; infinite if either has a NaN or the sizes differ.
template <typename A, typename B>
double MaxDifference(const A& a, const B& b) {
  if (std::size(a) != std::size(b)) return INFINITY;
  double worst = 0;
  for (size_t i = 0; i < std::size(a); ++i) {
    const double difference = std::abs(double{a[i]} - double{b[i]});
    worst = difference <= worst ? worst : (std::isnan(difference) ? INFINITY : difference);
  }
  return worst;
}

// How a decode step splits its tokens: tokens [candidates_begin, candidates_end) are chosen from,
// the other visible ones are attended always.
struct Split {
  int64_t begin = 0, end = 0;
  int64_t visible = 0;  // first token inside the model's sliding window

  Split(int64_t tokens, int n_sink, int local_window, int64_t sliding_window = 0)
      : visible(sliding_window > 0 ? std::max<int64_t>(0, tokens - sliding_window) : 0) {
    for (int64_t t = 0; t < tokens; ++t) {
      if (t < n_sink || t >= tokens - local_window || t < visible) continue;
      if (end == 0) begin = t;
      end = t + 1;
    }
  }
  // [tokens] with the always attended and the chosen ones set.
  std::vector<bool> Keep(int64_t tokens, std::span<const int64_t> chosen = {}) const {
    std::vector<bool> keep(static_cast<size_t>(tokens), true);
    std::fill(keep.begin() + begin, keep.begin() + end, false);
    std::fill(keep.begin(), keep.begin() + visible, false);
    for (int64_t t : chosen) keep[static_cast<size_t>(t)] = true;
    return keep;
  }
};

struct RigOptions {
  KvCacheOptions cache;  // shape and context are filled in
  attention::CacheAttentionOptions attention;
  std::string policy = "flat";  // unless attention.policy is set
  std::shared_ptr<const CodebookSet> codebooks;
  int threads = 1;
  PageStore* store = nullptr;  // its own in memory, unless set
};

// A budget for everything.
inline constexpr SelectionBudget kAll = {.tokens = 1 << 20};

// 4 sinks, a window of 24 and pages of 16 tokens: small enough that 100 tokens have all parts.
inline RigOptions SmallSplit(const std::string& policy, SelectionBudget budget) {
  RigOptions options;
  options.cache.page.page_tokens = 16;
  options.cache.n_sink = 4;
  options.cache.local_window = 24;
  options.policy = policy;
  options.attention.budget = budget;
  return options;
}

// Rows [begin, end) of every layer through a backend: outputs [layers, N, Hq, D]. Whatever is not
// written shows as NaN.
inline Result<std::vector<float>> AttendLayers(const std::vector<Sequence>& layers, int64_t begin,
                                               int64_t end, attention::AttentionBackend* backend) {
  std::vector<int64_t> positions(static_cast<size_t>(end - begin));
  std::iota(positions.begin(), positions.end(), begin);
  std::vector<float> out;
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    const Sequence& s = layers[layer];
    const size_t size = positions.size() * static_cast<size_t>(s.heads * s.dim);
    out.resize(out.size() + size, NAN);
    const attention::AttentionInput input{static_cast<int>(layer), end - begin,
                                          positions.data(),        s.query(begin, 0),
                                          s.key(begin, 0),         s.value(begin, 0)};
    PQCACHE_RETURN_IF_ERROR(backend->Attend(input, out.data() + out.size() - size));
  }
  return out;
}

// A cache and a backend over given layers, driven as a decoder drives them. Outputs are
// [layers, N, Hq, D].
class Rig {
 public:
  Rig(const std::vector<Sequence>* layers, RigOptions options)
      : layers_(layers), own_store_(storage::kNoMemoryLimit), pool_(options.threads) {
    const Sequence& s = layers->front();
    store_ = options.store != nullptr ? options.store : &own_store_;
    options.cache.layers = static_cast<int>(layers->size());
    options.cache.kv_heads = s.kv_heads;
    options.cache.page.dim = s.dim;
    options.cache.context = NewContextId({}, FingerprintOf("model"));
    options.attention.heads = s.heads;
    if (options.attention.policy == nullptr) {
      options.attention.policy = CreatePolicy(options.policy).value();
    }
    if (options.attention.policy->score_source() == ScoreSource::kKeys) {
      options.cache.keep_keys = true;
    }
    options_ = options;
    cache_ = KvCache::Create(options.cache, options.codebooks, store_, &pool_).value();
    attention_ = attention::CacheAttention::Create(options.attention, cache_.get(), &pool_).value();
  }
  // Continues `parent` in a cache of its own; the parent must outlive it.
  explicit Rig(const Rig& parent, const std::vector<Sequence>* layers)
      : layers_(layers), own_store_(0), pool_(parent.options_.threads), store_(parent.store_) {
    options_ = parent.options_;
    cache_ = parent.cache_->Fork(NewContextId({}, FingerprintOf("model"))).value();
    attention_ =
        attention::CacheAttention::Create(options_.attention, cache_.get(), &pool_).value();
    attention_->set_memory(parent.attention_->memory());
  }

  std::vector<float> Prefill(int64_t begin, int64_t end) {
    attention_->set_prefill(true);
    return Attend(begin, end).value();
  }
  std::vector<float> Decode(int64_t t) { return TryDecode(t).value(); }
  // Tokens [begin, end) in one step.
  std::vector<float> DecodeTogether(int64_t begin, int64_t end) {
    attention_->set_prefill(false);
    return Attend(begin, end).value();
  }
  Result<std::vector<float>> TryDecode(int64_t t) {
    attention_->set_prefill(false);
    return Attend(t, t + 1);
  }

  KvCache& cache() { return *cache_; }
  PageStore& store() { return *store_; }
  const attention::CacheAttention& attention() const { return *attention_; }
  const attention::AttentionStats& stats() const { return attention_->stats(); }
  Split SplitAt(int64_t t) const {
    return {t + 1, options_.cache.n_sink, options_.cache.local_window,
            options_.attention.sliding_window};
  }

 private:
  Result<std::vector<float>> Attend(int64_t begin, int64_t end) {
    return AttendLayers(*layers_, begin, end, attention_.get());
  }

  const std::vector<Sequence>* layers_;
  RigOptions options_;
  storage::MemoryPageStore own_store_;
  ThreadPool pool_;
  PageStore* store_ = nullptr;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<attention::CacheAttention> attention_;
};

// Chooses candidates by their number alone: those for which `rule` holds.
class RulePolicy : public SelectionPolicy {
 public:
  explicit RulePolicy(bool (*rule)(int64_t), ScoreSource source = ScoreSource::kNone)
      : rule_(rule), source_(source) {}
  ScoreSource score_source() const override { return source_; }
  void Select(const SelectionRequest& request, SelectionScratch*,
              std::vector<int64_t>* positions) const override {
    positions->clear();
    for (int64_t t = 0; t < request.n; ++t) {
      if (rule_(t)) positions->push_back(t);
    }
  }

 private:
  bool (*rule_)(int64_t);
  ScoreSource source_;
};

inline bool EveryThird(int64_t t) { return t % 3 == 1; }

}  // namespace pqcache::testing
