#include "attention/model/config_reader.h"
#include "attention/model/llama_like.h"

namespace pqcache::attention {

Status ParseMistral(const Json& config, ModelSpec* spec) {
  PQCACHE_RETURN_IF_ERROR(ParseLlamaLike(config, spec));
  const Json* window = config.Find("sliding_window");
  if (window == nullptr) {
    spec->sliding_window = 4096;  // as transformers: only an explicit null means no window
  } else if (!window->is_null()) {
    PQCACHE_ASSIGN_OR_RETURN(spec->sliding_window,
                             ReadInt(config, "sliding_window", 1, kMaxPositions));
  }
  return Status::Ok();
}

}  // namespace pqcache::attention
