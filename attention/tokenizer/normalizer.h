#pragma once

// The normaliser of a tokenizer.json: null, NFC, NFD, NFKC, NFKD, Prepend, Replace of a text, or a
// Sequence of these. Immutable: share it between threads.

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "pqcache/base/json.h"
#include "pqcache/base/status.h"

namespace pqcache::attention {

class Normalizer {
 public:
  static Result<Normalizer> FromJson(const Json& json);

  // `text` is UTF-8, and so is the result. Empty text stays empty.
  Result<std::string> Normalize(std::string_view text) const;

 private:
  struct UnicodeForm {
    int options;  // of utf8proc
  };
  struct Prepend {
    std::string text;
  };
  struct Replace {
    std::string from;
    std::string to;
  };
  using Step = std::variant<UnicodeForm, Prepend, Replace>;

  Status AddStep(const Json& json, const std::string& type);
  static Result<std::string> Apply(const Step& step, std::string text);
  static double GrowthOf(const Step& step);

  std::vector<Step> steps_;
};

}  // namespace pqcache::attention
