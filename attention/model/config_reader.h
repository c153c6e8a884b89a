#pragma once

// Private to attention/model: readers of the parts of a Hugging Face config.json that families
// share. Each fills its fields of the ModelSpec and checks their limits; an error names the key,
// what was found and what was expected. Keys that are null count as absent.

#include <cstdint>
#include <string_view>

#include "attention/model/model_spec.h"

namespace pqcache::attention {

inline constexpr int64_t kMaxLayers = 1024;
inline constexpr int64_t kMaxHeads = 1024;
inline constexpr int64_t kMaxWidth = int64_t{1} << 20;  // hidden and intermediate sizes
inline constexpr int64_t kMinHeadDim = 8;
inline constexpr int64_t kMaxHeadDim = 512;
inline constexpr int64_t kMaxVocab = int64_t{1} << 21;
inline constexpr int64_t kMaxPositions = int64_t{1} << 26;

// A required integer in [min, max].
Result<int64_t> ReadInt(const Json& config, std::string_view key, int64_t min, int64_t max);

// hidden_size, intermediate_size, num_hidden_layers, vocab_size, max_position_embeddings,
// num_attention_heads, num_key_value_heads (absent: all heads) and head_dim (absent: hidden size
// over heads, which must be whole).
Status ReadDimensions(const Json& config, ModelSpec* spec);

// The epsilon of the norms, under `key`: above 0 and below 1.
Status ReadNormEps(const Json& config, std::string_view key, ModelSpec* spec);

// hidden_act.
Status ReadActivation(const Json& config, ModelSpec* spec);

// bos_token_id, a number.
Status ReadBosToken(const Json& config, ModelSpec* spec);

// eos_token_id, a number or an array; absent leaves the tokens that the spec has.
Status ReadEosTokens(const Json& config, ModelSpec* spec);

// torch_dtype or dtype.
Status ReadCheckpointDtype(const Json& config, ModelSpec* spec);

// layer_types, which must give every layer the kind that spec.sliding_window implies.
Status CheckLayerTypes(const Json& config, const ModelSpec& spec);

}  // namespace pqcache::attention
