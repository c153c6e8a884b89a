#pragma once

// The pre-tokeniser of a tokenizer.json, which cuts normalised text into the words that the model
// works on: null, ByteLevel, Split by a known regular expression, Metaspace, Digits, or a Sequence
// of these. Immutable: share it between threads.

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "attention/tokenizer/component.h"
#include "attention/tokenizer/split_patterns.h"
#include "pqcache/base/json.h"
#include "pqcache/base/status.h"

namespace pqcache::attention {

class PreTokenizer {
 public:
  static Result<PreTokenizer> FromJson(const Json& json);

  // Words of `text` (UTF-8), in order, none empty. `at_start`: the text is the beginning of what
  // the caller encodes, rather than what follows an added token.
  std::vector<std::string> Split(std::string_view text, bool at_start) const;

 private:
  struct ByteLevel {
    bool add_prefix_space;
    bool use_regex;
  };
  struct Digits {
    bool individual;
  };
  using Step = std::variant<ByteLevel, SplitPattern, MetaspaceOptions, Digits>;
  using Words = std::vector<std::string>;

  Status AddStep(const Json& json, const std::string& type);
  // The most that a word can grow.
  static double GrowthOf(const Step& step);
  static void Apply(const ByteLevel& step, std::string word, bool at_start, Words* out);
  static void Apply(const SplitPattern& step, std::string word, bool at_start, Words* out);
  static void Apply(const MetaspaceOptions& step, std::string word, bool at_start, Words* out);
  static void Apply(const Digits& step, std::string word, bool at_start, Words* out);

  std::vector<Step> steps_;
};

}  // namespace pqcache::attention
