#include "pqcache/policy/hash_selector.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <span>

#include "pqcache/base/random.h"
#include "pqcache/base/vector_clones.h"
#include "pqcache/base/vector_math.h"

namespace pqcache {
namespace {

constexpr int kNeededTables = 2;       // that a chosen token shares with the query
constexpr int64_t kLeastTokens = 256;  // of which a mean is taken
constexpr double kLeastShare = 1e-4;   // added to the probability of a choice, as in the original

// counts[i] += hashes[i] == hash.
PQCACHE_VECTOR_CLONES void CountEqual(const uint16_t* hashes, int64_t n, uint16_t hash,
                                      uint16_t* counts) {
  for (int64_t i = 0; i < n; ++i) counts[i] += hashes[i] == hash ? 1 : 0;
}

// That two vectors at this angle (its cosine) share their hash in so many of `tables` tables.
double ChoiceProbability(double cosine, int bits, int tables) {
  const double angle = std::acos(std::clamp(cosine, -1.0, 1.0));
  const double same = std::pow(1.0 - angle / std::numbers::pi, bits);
  const double none = std::pow(1.0 - same, tables);
  const double once = tables * same * std::pow(1.0 - same, tables - 1);
  return 1.0 - none - once;
}

class HashSelector : public LayerSelector {
 public:
  HashSelector(const HashSettings& settings, HashDirections directions, const SelectorShape& shape)
      : settings_(settings),
        shape_(shape),
        directions_(std::move(directions)),
        heads_(static_cast<size_t>(shape.kv_heads)),
        queries_(static_cast<size_t>(shape.kv_heads * shape.group)) {
    for (Head& head : heads_) head.hashes.resize(static_cast<size_t>(settings.tables));
  }

  // Until there are enough for a mean, tokens wait, and all of them are chosen.
  void Append(int head, int64_t n, const float* keys) override {
    Head& h = heads_[static_cast<size_t>(head)];
    h.waiting.insert(h.waiting.end(), keys, keys + n * shape_.dim);
    const int64_t waiting = std::ssize(h.waiting) / shape_.dim;
    if (h.mean.empty() && waiting < kLeastTokens) return;
    if (h.mean.empty()) SetMean(waiting, h.waiting.data(), &h);
    for (int64_t i = 0; i < waiting; ++i) AddHashed(h.waiting.data() + i * shape_.dim, &h);
    h.waiting.clear();
  }
  int64_t tokens(int head) const override {
    const Head& h = heads_[static_cast<size_t>(head)];
    return std::ssize(h.lengths) + std::ssize(h.waiting) / shape_.dim;
  }

  void Score(int head, const float* queries, const SelectorStep& step) override {
    const Head& h = heads_[static_cast<size_t>(head)];
    const int64_t n = std::max<int64_t>(0, std::ssize(h.lengths) - step.begin);
    std::vector<uint16_t> hashes(static_cast<size_t>(settings_.tables));
    std::vector<uint16_t> counts;
    for (int g = 0; g < shape_.group; ++g) {
      const float* query = queries + int64_t{g} * shape_.dim;
      Query& q = queries_[static_cast<size_t>(head * shape_.group + g)];
      q.positions.clear();
      for (int64_t t = step.begin; n == 0 && t < step.end; ++t) q.positions.push_back(t);
      if (n == 0) continue;
      q.scale = step.scale;
      q.length = std::sqrt(Dot(query, query, shape_.dim));
      q.mean_product = Dot(query, h.mean.data(), shape_.dim);
      Hash(query, hashes.data());
      counts.assign(static_cast<size_t>(n), 0);
      for (size_t t = 0; t < hashes.size(); ++t) {
        CountEqual(h.hashes[t].data() + step.begin, n, hashes[t], counts.data());
      }
      for (int64_t i = 0; i < n; ++i) {
        if (counts[static_cast<size_t>(i)] >= kNeededTables) q.positions.push_back(step.begin + i);
      }
    }
  }
  void Choose(const SelectorStep&) override {}

  bool per_query() const override { return shape_.group > 1; }
  std::span<const int64_t> chosen(int head, int query) const override {
    return queries_[static_cast<size_t>(head * shape_.group + query)].positions;
  }

  bool adjusts_logits() const override { return true; }
  // Divides the weight of a token by the probability with which it was chosen.
  void AdjustLogits(int head, int query, std::span<const int64_t> positions,
                    float* logits) const override {
    const Head& h = heads_[static_cast<size_t>(head)];
    const Query& q = queries_[static_cast<size_t>(head * shape_.group + query)];
    if (h.mean.empty()) return;
    for (size_t i = 0; i < positions.size(); ++i) {
      const double product = double{logits[i]} / q.scale - q.mean_product;
      const double lengths = double{q.length} * h.lengths[static_cast<size_t>(positions[i])];
      const double cosine = lengths > 0 ? product / lengths : 0.0;
      logits[i] -= static_cast<float>(
          std::log(ChoiceProbability(cosine, settings_.bits, settings_.tables) + kLeastShare));
    }
  }

  uint64_t bytes() const override {
    uint64_t bytes = 0;
    for (const Head& head : heads_) {
      bytes += head.lengths.size() *
               (sizeof(float) + static_cast<size_t>(settings_.tables) * sizeof(uint16_t));
    }
    return bytes;
  }

 private:
  struct Head {
    std::vector<float> mean;                    // [D], of the tokens that were hashed first
    std::vector<float> waiting;                 // [tokens, D]
    std::vector<float> lengths;                 // [tokens], of the centred keys
    std::vector<std::vector<uint16_t>> hashes;  // [tables][tokens]
  };
  struct Query {
    std::vector<int64_t> positions;
    float scale = 0, length = 0, mean_product = 0;
  };

  void SetMean(int64_t n, const float* keys, Head* h) const {
    h->mean.assign(static_cast<size_t>(shape_.dim), 0.0f);
    if (!settings_.centre) return;
    for (int64_t i = 0; i < n; ++i) {
      AddScaled(1.0f / static_cast<float>(n), keys + i * shape_.dim, shape_.dim, h->mean.data());
    }
  }

  void AddHashed(const float* key, Head* h) const {
    std::vector<float> centred(key, key + shape_.dim);
    AddScaled(-1.0f, h->mean.data(), shape_.dim, centred.data());
    h->lengths.push_back(std::sqrt(Dot(centred.data(), centred.data(), shape_.dim)));
    std::vector<uint16_t> hashes(static_cast<size_t>(settings_.tables));
    Hash(centred.data(), hashes.data());
    for (size_t t = 0; t < hashes.size(); ++t) h->hashes[t].push_back(hashes[t]);
  }

  // hashes [tables].
  void Hash(const float* x, uint16_t* hashes) const {
    const int64_t count = int64_t{settings_.tables} * settings_.bits;
    std::vector<float> products(static_cast<size_t>(count));
    DotRows(x, directions_->data(), shape_.dim, count, shape_.dim, 1.0f, products.data());
    const float* product = products.data();
    for (int t = 0; t < settings_.tables; ++t) {
      unsigned hash = 0;
      for (int b = 0; b < settings_.bits; ++b) hash = 2 * hash + (*product++ >= 0 ? 1 : 0);
      hashes[t] = static_cast<uint16_t>(hash);
    }
  }

  HashSettings settings_;
  SelectorShape shape_;
  HashDirections directions_;
  std::vector<Head> heads_;     // [Hkv]
  std::vector<Query> queries_;  // [Hkv, G]
};

}  // namespace

HashDirections MakeHashDirections(const HashSettings& settings, int dim) {
  Random random(MixSeed(settings.seed, 0));
  std::vector<float> directions(static_cast<size_t>(settings.tables * settings.bits * dim));
  for (float& x : directions) x = random.Normal();
  return std::make_shared<const std::vector<float>>(std::move(directions));
}

std::unique_ptr<LayerSelector> CreateHashSelector(const HashSettings& settings,
                                                  HashDirections directions,
                                                  const SelectorShape& shape) {
  return std::make_unique<HashSelector>(settings, std::move(directions), shape);
}

}  // namespace pqcache
