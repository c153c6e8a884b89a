#pragma once

// The post-processor of a tokenizer.json: null, ByteLevel (which concerns offsets only),
// TemplateProcessing, or a Sequence of these with at most one template.

#include <cstdint>
#include <string>
#include <vector>

#include "pqcache/base/json.h"
#include "pqcache/base/status.h"

namespace pqcache::attention {

// What a template for one sequence puts around its ids.
struct PostTemplate {
  struct Token {
    int64_t id;
    std::string content;
  };
  std::vector<Token> prefix;
  std::vector<Token> suffix;
};

// Ids are as declared: the caller checks that they belong to these tokens. The template for pairs
// is not read.
Result<PostTemplate> ParsePostProcessor(const Json& json);

}  // namespace pqcache::attention
