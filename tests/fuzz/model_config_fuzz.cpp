// The input is a config.json.

#include "attention/model/config_reader.h"
#include "attention/model/rope.h"
#include "pqcache/base/check.h"
#include "tests/fuzz/fuzz_bytes.h"

namespace pqcache::attention {
namespace {

bool Within(int64_t value, int64_t low, int64_t high) { return low <= value && value <= high; }

// What model_spec.h promises.
void CheckLimits(const ModelSpec& spec) {
  PQCACHE_CHECK(Within(spec.layers, 1, kMaxLayers), "layers");
  PQCACHE_CHECK(Within(spec.hidden, 1, kMaxWidth), "hidden");
  PQCACHE_CHECK(Within(spec.intermediate, 1, kMaxWidth), "intermediate");
  PQCACHE_CHECK(Within(spec.vocab, 1, kMaxVocab), "vocab");
  PQCACHE_CHECK(Within(spec.max_positions, 1, kMaxPositions), "max_positions");
  PQCACHE_CHECK(Within(spec.heads, 1, kMaxHeads), "heads");
  PQCACHE_CHECK(Within(spec.kv_heads, 1, spec.heads), "kv_heads");
  PQCACHE_CHECK(spec.heads % spec.kv_heads == 0, "group");
  PQCACHE_CHECK(Within(spec.head_dim, kMinHeadDim, kMaxHeadDim), "head_dim");
  PQCACHE_CHECK(Within(spec.rope.rotary_dim, 2, spec.head_dim), "rotary_dim");
  PQCACHE_CHECK(Within(spec.sliding_window, 0, kMaxPositions), "sliding_window");
  PQCACHE_CHECK(Within(spec.bos_token, -1, spec.vocab - 1), "bos_token");
  for (const int64_t token : spec.eos_tokens) {
    PQCACHE_CHECK(Within(token, 0, spec.vocab - 1), "eos_token");
  }
}

void Try(std::string_view text) {
  const Result<Json> json = Json::Parse(text);
  if (!json.ok()) return;
  const std::string dumped = json->Dump();
  const Result<Json> again = Json::Parse(dumped);
  PQCACHE_CHECK(again.ok(), "what was read and written cannot be read");
  PQCACHE_CHECK(again->Dump() == dumped, "writing changes what is read");

  const Result<ModelSpec> spec = ParseModelConfig(*json);
  if (!spec.ok()) return;
  // Only this way round: 1.0 is written as 1, which is good in more places.
  PQCACHE_CHECK(ParseModelConfig(*again).ok(), "writing changes the model");
  CheckLimits(*spec);
  const Rope rope(spec->rope);
  for (const double frequency : rope.frequencies()) {
    PQCACHE_CHECK(frequency >= 0 && frequency <= 1, "an angle that grows without bound");
  }
}

}  // namespace
}  // namespace pqcache::attention

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  pqcache::attention::Try(pqcache::testing::TextOf({data, size}));
  return 0;
}
