#pragma once

// Training samples: for every layer and KV head a uniform random subset of the keys that the model
// makes and of the queries that meet them.
//
// Alphabet: N rows of keys, Nq rows of queries, D head size, Hkv KV heads, G query heads per KV
// head, Hq = Hkv * G. All arrays are dense, row-major, float32.

#include <cstdint>
#include <vector>

#include "pqcache/base/random.h"
#include "pqcache/base/status.h"

namespace pqcache::train {

// Samples of one layer and KV head, in no particular order.
struct HeadSamples {
  std::vector<int64_t> positions;        // [N] of the keys in their sequences
  std::vector<float> keys;               // [N, D] after the rotary embedding
  std::vector<int64_t> query_positions;  // [Nq]
  std::vector<float> queries;            // [Nq, D], of all G query heads of the group mixed
};

// Samples of a whole model.
struct KeySamples {
  int layers = 0;
  int kv_heads = 0;
  int group = 0;                   // G
  int dim = 0;                     // D
  int64_t left_out = 0;            // rows (keys and queries) with a NaN or infinity
  std::vector<HeadSamples> heads;  // [layers, kv_heads]

  const HeadSamples& head(int layer, int kv_head) const {
    return heads[static_cast<size_t>(layer) * kv_heads + kv_head];
  }
};

struct KeySamplerOptions {
  int layers = 0;
  int kv_heads = 0;
  int group = 0;               // G
  int dim = 0;                 // D
  int64_t key_capacity = 0;    // rows of keys kept per layer and KV head
  int64_t query_capacity = 0;  // rows of queries kept per layer and KV head
  uint64_t seed = 0;
};

// Draws the samples while a model runs, in memory that does not grow with the text: a reservoir per
// layer and KV head (algorithm R; Vitter, "Random sampling with a reservoir", 1985). Every row that
// was added is kept with the same probability.
//
// The outcome depends on the seed and on the order of rows within a layer, not on how the rows are
// split over calls. Different layers may be added from different threads at once; calls for one
// layer must not overlap.
class KeySampler {
 public:
  // Error for a count below one.
  static Result<KeySampler> Create(const KeySamplerOptions& options);

  // The next n tokens of one layer: positions [n], keys [n, Hkv, D] after the rotary embedding,
  // queries [n, Hq, D] with the heads of a group adjacent. Rows with a number that is not finite
  // are counted and left out. The arrays are read during the call only.
  void Add(int layer, int64_t n, const int64_t* positions, const float* keys, const float* queries);

  // Hands the samples over; the sampler is empty and unusable afterwards.
  KeySamples Finish();

 private:
  struct Reservoir {
    HeadSamples samples;
    Random key_random{0};
    Random query_random{0};
    int64_t keys_seen = 0;
    int64_t queries_seen = 0;
    int64_t left_out = 0;
  };

  explicit KeySampler(const KeySamplerOptions& options);
  void OfferKey(Reservoir& head, int64_t position, const float* key) const;
  void OfferQuery(Reservoir& head, int64_t position, const float* query) const;

  KeySamplerOptions options_;
  std::vector<Reservoir> heads_;  // [layers, kv_heads]
};

}  // namespace pqcache::train
