#pragma once

// The added tokens of a tokenizer.json, which are found in the text before the model sees it.
// Those with normalized = false are looked for in the text as given, the others in the normalised
// text between them, in their own normalised form. At each place the longest token wins.
// Immutable: share it between threads.

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "attention/tokenizer/normalizer.h"
#include "attention/tokenizer/token_trie.h"
#include "pqcache/base/json.h"
#include "pqcache/base/status.h"

namespace pqcache::attention {

struct AddedToken {
  int64_t id = -1;
  std::string content;  // as declared
  std::string pattern;  // what is looked for and decoded: content, or its normalised form
  bool special = false;
  bool normalized = false;
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool single_word = false;  // not inside a word
};

class AddedTokens {
 public:
  // `json`: the array of tokens, or null for none. Contents and ids must be unique.
  static Result<AddedTokens> FromJson(const Json& json, const Normalizer& normalizer);

  // A part of a text: an added token (id >= 0), or text between them (-1).
  struct Segment {
    std::string_view text;
    int64_t id;
  };
  // Parts of `text`, in order, none of the texts empty; they point into it.
  std::vector<Segment> SplitRaw(std::string_view text) const { return Split(raw_, text); }
  std::vector<Segment> SplitNormalized(std::string_view text) const {
    return Split(normalized_, text);
  }

  const std::vector<AddedToken>& tokens() const { return tokens_; }
  // nullptr when no added token has that id.
  const AddedToken* Find(int64_t id) const;
  // -1 when no added token has that content.
  int64_t IdOf(std::string_view content) const;

 private:
  static Result<AddedToken> ParseToken(const Json& json, const Normalizer& normalizer);
  Status Add(AddedToken token);
  std::vector<Segment> Split(const TokenTrie& trie, std::string_view text) const;

  std::vector<AddedToken> tokens_;
  std::unordered_map<int64_t, size_t> by_id_;           // index into tokens_
  std::unordered_map<std::string, size_t> by_content_;  // likewise
  TokenTrie raw_;                                       // value: index into tokens_
  TokenTrie normalized_;
};

}  // namespace pqcache::attention
