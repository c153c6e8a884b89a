#pragma once

// Reading of the components of a tokenizer.json: {"type": "Name", options...}, where the type
// "Sequence" lists further components. Whatever is not known is refused by name (kUnsupported).

#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>

#include "pqcache/base/json.h"
#include "pqcache/base/status.h"

namespace pqcache::attention {

// Calls `visit` for `component`, or in order for everything in it when it is a Sequence (its list
// is under `list_key`; sequences may nest). Errors get the component's type as a prefix.
Status VisitComponents(const Json& component, std::string_view list_key,
                       const std::function<Status(const Json&, const std::string& type)>& visit);

// Refuses options other than "type" and `known`.
Status CheckOptions(const Json& component, std::initializer_list<std::string_view> known);

// `text` in double quotes, for messages.
std::string Quoted(std::string_view text);

// The error for a component whose type is not supported.
Status UnknownType(std::string_view type, std::string_view expected);

// Option `key` holding exactly one character, as UTF-8.
Result<std::string> GetCharacter(const Json& component, std::string_view key);

// The text under pattern: {"String": text}; a regular expression or an empty text is refused.
Result<std::string> GetStringPattern(const Json& component);

// `text` with every occurrence of `from` (not empty), found left to right, replaced by `to`.
std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to);

// How many times as long the steps of a component may make a text, one after the other. Without a
// limit, a file of 40 steps that each double it would ask for any amount of memory.
class Growth {
 public:
  // Takes one more step into account; refuses it if all of them grow a text too much.
  Status Add(double factor);

 private:
  double factor_ = 1;
};
// The factor of ReplaceAll.
double ReplaceGrowth(std::string_view from, std::string_view to);

// Both uses of Metaspace: a character that stands for a space, and where one is put in front.
struct MetaspaceOptions {
  enum class Prepend { kAlways, kFirst, kNever };
  std::string replacement;  // one character
  Prepend prepend = Prepend::kAlways;
  bool split = true;
};
Result<MetaspaceOptions> ParseMetaspace(const Json& component);

}  // namespace pqcache::attention
