#include "attention/tokenizer/added_tokens.h"

#include <utility>

#include "attention/tokenizer/component.h"
#include "attention/tokenizer/unicode.h"

namespace pqcache::attention {
namespace {

// Start of the character that ends before text[end]; end > 0.
size_t PreviousChar(std::string_view text, size_t end) {
  size_t pos = end - 1;
  while (pos > 0 && (text[pos] & 0xC0) == 0x80) --pos;
  return pos;
}

bool IsSpaceAt(std::string_view text, size_t pos) {
  return ClassOf(ReadUtf8(text, pos).code_point) == CharClass::kSpace;
}

// Start of the white space that ends at `end`, not before `floor`.
size_t SpacesBegin(std::string_view text, size_t end, size_t floor) {
  while (end > floor && IsSpaceAt(text, PreviousChar(text, end))) end = PreviousChar(text, end);
  return end;
}

size_t SpacesEnd(std::string_view text, size_t pos) {
  while (pos < text.size() && IsSpaceAt(text, pos)) pos += ReadUtf8(text, pos).length;
  return pos;
}

bool IsInsideWord(std::string_view text, size_t begin, size_t end) {
  const auto is_word = [&](size_t pos) { return IsWordChar(ReadUtf8(text, pos).code_point); };
  return (begin > 0 && is_word(PreviousChar(text, begin))) || (end < text.size() && is_word(end));
}

}  // namespace

Result<AddedTokens> AddedTokens::FromJson(const Json& json, const Normalizer& normalizer) {
  AddedTokens added;
  if (json.is_null()) return added;
  if (!json.is_array()) {
    return Status::InvalidArgument("is " + std::string(json.KindName()) + ", expected an array");
  }
  for (const Json& item : json.AsArray()) {
    Result<AddedToken> token = ParseToken(item, normalizer);
    const std::string number = "token " + std::to_string(added.tokens_.size());
    if (!token.ok()) return token.status().Annotate(number);
    PQCACHE_RETURN_IF_ERROR(added.Add(std::move(*token)).Annotate(number));
  }
  return added;
}

Result<AddedToken> AddedTokens::ParseToken(const Json& json, const Normalizer& normalizer) {
  AddedToken token;
  PQCACHE_ASSIGN_OR_RETURN(token.id, json.GetInt("id"));
  PQCACHE_ASSIGN_OR_RETURN(token.content, json.GetString("content"));
  PQCACHE_RETURN_IF_ERROR(CheckOptions(
      json, {"id", "content", "special", "normalized", "lstrip", "rstrip", "single_word"}));
  PQCACHE_ASSIGN_OR_RETURN(token.special, json.GetBool("special"));
  PQCACHE_ASSIGN_OR_RETURN(token.normalized, json.GetBool("normalized"));
  PQCACHE_ASSIGN_OR_RETURN(token.lstrip, json.GetBool("lstrip"));
  PQCACHE_ASSIGN_OR_RETURN(token.rstrip, json.GetBool("rstrip"));
  PQCACHE_ASSIGN_OR_RETURN(token.single_word, json.GetBool("single_word"));
  token.pattern = token.content;
  if (token.normalized) {
    PQCACHE_ASSIGN_OR_RETURN(token.pattern, normalizer.Normalize(token.content));
  }
  if (token.pattern.empty()) {
    return Status::Corruption("content is empty, expected text that can be found");
  }
  return token;
}

Status AddedTokens::Add(AddedToken token) {
  const size_t index = tokens_.size();
  const std::string name = Quoted(token.content);
  if (!by_id_.emplace(token.id, index).second) {
    return Status::Corruption("id " + std::to_string(token.id) + " of " + name + " occurs twice");
  }
  if (!by_content_.emplace(token.content, index).second) {
    return Status::Corruption(name + " occurs twice");
  }
  TokenTrie& trie = token.normalized ? normalized_ : raw_;
  if (!trie.Insert(token.pattern, static_cast<int64_t>(index))) {
    return Status::Corruption(name + " cannot be told from another token once normalised");
  }
  tokens_.push_back(std::move(token));
  return Status::Ok();
}

std::vector<AddedTokens::Segment> AddedTokens::Split(const TokenTrie& trie,
                                                     std::string_view text) const {
  std::vector<Segment> segments;
  size_t done = 0;
  const auto add_text = [&](size_t end) {
    if (done < end) segments.push_back({text.substr(done, end - done), -1});
  };
  for (size_t pos = 0; pos < text.size();) {
    const TokenTrie::Match match = trie.FindLongest(text, pos);
    if (match.value < 0) {
      ++pos;
      continue;
    }
    // White space that rstrip takes is still searched, as the format's reference does.
    size_t begin = pos;
    size_t end = pos + match.length;
    pos = end;
    const AddedToken& token = tokens_[static_cast<size_t>(match.value)];
    if (token.single_word && IsInsideWord(text, begin, end)) continue;
    if (token.lstrip) begin = SpacesBegin(text, begin, done);
    if (token.rstrip) end = SpacesEnd(text, end);
    add_text(begin);
    segments.push_back({text.substr(begin, end - begin), token.id});
    done = end;
  }
  add_text(text.size());
  return segments;
}

const AddedToken* AddedTokens::Find(int64_t id) const {
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : &tokens_[it->second];
}

int64_t AddedTokens::IdOf(std::string_view content) const {
  const auto it = by_content_.find(std::string(content));
  return it == by_content_.end() ? -1 : tokens_[it->second].id;
}

}  // namespace pqcache::attention
