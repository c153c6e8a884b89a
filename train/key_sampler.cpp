#include "train/key_sampler.h"

#include <algorithm>
#include <string>

#include "pqcache/base/check.h"
#include "pqcache/base/vector_math.h"

namespace pqcache::train {
namespace {

Status CheckCount(int64_t value, const char* name) {
  if (value >= 1) return Status::Ok();
  return Status::InvalidArgument(std::string("key sampler: ") + name + " is " +
                                 std::to_string(value) + ", expected at least 1");
}

// Algorithm R: the slot that the next row goes to, or -1 if it is not kept.
int64_t NextSlot(int64_t capacity, int64_t* seen, Random* random) {
  const int64_t index = (*seen)++;
  if (index < capacity) return index;
  const auto slot = static_cast<int64_t>(random->Below(static_cast<uint64_t>(index) + 1));
  return slot < capacity ? slot : -1;
}

void StoreRow(int64_t slot, int64_t position, int dim, const float* row,
              std::vector<int64_t>* positions, std::vector<float>* rows) {
  if (slot == std::ssize(*positions)) positions->push_back(0);
  (*positions)[static_cast<size_t>(slot)] = position;
  const size_t begin = static_cast<size_t>(slot) * static_cast<size_t>(dim);
  if (begin == rows->size()) {
    rows->insert(rows->end(), row, row + dim);
  } else {
    std::copy_n(row, dim, rows->begin() + static_cast<int64_t>(begin));
  }
}

}  // namespace

Result<KeySampler> KeySampler::Create(const KeySamplerOptions& options) {
  PQCACHE_RETURN_IF_ERROR(CheckCount(options.layers, "number of layers"));
  PQCACHE_RETURN_IF_ERROR(CheckCount(options.kv_heads, "number of KV heads"));
  PQCACHE_RETURN_IF_ERROR(CheckCount(options.group, "number of query heads per KV head"));
  PQCACHE_RETURN_IF_ERROR(CheckCount(options.dim, "head size"));
  PQCACHE_RETURN_IF_ERROR(CheckCount(options.key_capacity, "key capacity"));
  PQCACHE_RETURN_IF_ERROR(CheckCount(options.query_capacity, "query capacity"));
  return KeySampler(options);
}

KeySampler::KeySampler(const KeySamplerOptions& options)
    : options_(options),
      heads_(static_cast<size_t>(options.layers) * static_cast<size_t>(options.kv_heads)) {
  for (size_t i = 0; i < heads_.size(); ++i) {
    heads_[i].key_random = Random(MixSeed(options.seed, 2 * i));
    heads_[i].query_random = Random(MixSeed(options.seed, 2 * i + 1));
  }
}

void KeySampler::OfferKey(Reservoir& head, int64_t position, const float* key) const {
  if (!AllFinite(key, options_.dim)) {
    ++head.left_out;
    return;
  }
  const int64_t slot = NextSlot(options_.key_capacity, &head.keys_seen, &head.key_random);
  if (slot < 0) return;
  StoreRow(slot, position, options_.dim, key, &head.samples.positions, &head.samples.keys);
}

void KeySampler::OfferQuery(Reservoir& head, int64_t position, const float* query) const {
  if (!AllFinite(query, options_.dim)) {
    ++head.left_out;
    return;
  }
  const int64_t slot = NextSlot(options_.query_capacity, &head.queries_seen, &head.query_random);
  if (slot < 0) return;
  StoreRow(slot, position, options_.dim, query, &head.samples.query_positions,
           &head.samples.queries);
}

void KeySampler::Add(int layer, int64_t n, const int64_t* positions, const float* keys,
                     const float* queries) {
  PQCACHE_CHECK(layer >= 0 && layer < options_.layers, "layer out of range");
  PQCACHE_CHECK(!heads_.empty(), "Add after Finish");
  const int kv_heads = options_.kv_heads;
  const int group = options_.group;
  for (int h = 0; h < kv_heads; ++h) {
    Reservoir& head = heads_[static_cast<size_t>(layer) * kv_heads + h];
    for (int64_t t = 0; t < n; ++t) {
      OfferKey(head, positions[t], keys + (t * kv_heads + h) * options_.dim);
      for (int g = 0; g < group; ++g) {
        OfferQuery(head, positions[t], queries + ((t * kv_heads + h) * group + g) * options_.dim);
      }
    }
  }
}

KeySamples KeySampler::Finish() {
  KeySamples samples;
  samples.layers = options_.layers;
  samples.kv_heads = options_.kv_heads;
  samples.group = options_.group;
  samples.dim = options_.dim;
  for (Reservoir& head : heads_) {
    samples.left_out += head.left_out;
    samples.heads.push_back(std::move(head.samples));
  }
  heads_.clear();
  return samples;
}

}  // namespace pqcache::train
