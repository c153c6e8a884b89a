#include "attention/tokenizer/component.h"

#include <algorithm>

#include "attention/tokenizer/unicode.h"

namespace pqcache::attention {

Status VisitComponents(const Json& component, std::string_view list_key,
                       const std::function<Status(const Json&, const std::string&)>& visit) {
  PQCACHE_ASSIGN_OR_RETURN(const std::string type, component.GetString("type"));
  if (type != "Sequence") return visit(component, type).Annotate(type);
  PQCACHE_RETURN_IF_ERROR(CheckOptions(component, {list_key}).Annotate("Sequence"));
  const Json* list = component.Find(list_key);
  if (list == nullptr || !list->is_array()) {
    return Status::InvalidArgument("Sequence: " + Quoted(list_key) + " is " +
                                   (list == nullptr ? "absent" : std::string(list->KindName())) +
                                   ", expected an array");
  }
  for (const Json& item : list->AsArray()) {
    PQCACHE_RETURN_IF_ERROR(VisitComponents(item, list_key, visit));
  }
  return Status::Ok();
}

Status CheckOptions(const Json& component, std::initializer_list<std::string_view> known) {
  for (const auto& [key, value] : component.AsObject()) {
    if (key == "type" || std::find(known.begin(), known.end(), key) != known.end()) continue;
    std::string list;
    for (const std::string_view k : known) list += (list.empty() ? "" : ", ") + std::string(k);
    return Status::Unsupported("unknown option " + Quoted(key) + ", expected " +
                               (list.empty() ? "none" : "one of: " + list));
  }
  return Status::Ok();
}

std::string Quoted(std::string_view text) {
  std::string quoted(1, '"');
  quoted.append(text);
  quoted.push_back('"');
  return quoted;
}

Status UnknownType(std::string_view type, std::string_view expected) {
  return Status::Unsupported("type " + Quoted(type) + " is not supported, expected " +
                             std::string(expected));
}

Result<std::string> GetCharacter(const Json& component, std::string_view key) {
  PQCACHE_ASSIGN_OR_RETURN(std::string text, component.GetString(key));
  if (text.empty() || ReadUtf8(text, 0).length != text.size()) {
    return Status::InvalidArgument(Quoted(key) + " is " + Quoted(text) +
                                   ", expected one character");
  }
  return text;
}

Result<std::string> GetStringPattern(const Json& component) {
  const Json* pattern = component.Find("pattern");
  if (pattern == nullptr || !pattern->is_object() || pattern->AsObject().size() != 1) {
    return Status::InvalidArgument("pattern is not {\"String\": text}");
  }
  const auto& [kind, text] = pattern->AsObject()[0];
  if (kind != "String") {
    return Status::Unsupported("pattern is a " + kind + ", " + text.Dump() + ", expected a String");
  }
  if (!text.is_string() || text.AsString().empty()) {
    return Status::InvalidArgument("pattern has no text, expected {\"String\": text}");
  }
  return text.AsString();
}

std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size());
  size_t pos = 0;
  for (size_t hit; (hit = text.find(from, pos)) != std::string_view::npos;
       pos = hit + from.size()) {
    out.append(text, pos, hit - pos);
    out.append(to);
  }
  out.append(text.substr(pos));
  return out;
}

Status Growth::Add(double factor) {
  constexpr int kMax = 64;  // that of a Replace of spaces and NFKC is 33
  if (factor_ * factor > kMax) {
    return Status::Unsupported(
        "could make a text " + std::to_string(factor_ * factor) +
        " times as long, together with what comes before, expected at most " +
        std::to_string(kMax));
  }
  factor_ *= factor;
  return Status::Ok();
}

double ReplaceGrowth(std::string_view from, std::string_view to) {
  return std::max(1.0, static_cast<double>(to.size()) / static_cast<double>(from.size()));
}

Result<MetaspaceOptions> ParseMetaspace(const Json& component) {
  using Prepend = MetaspaceOptions::Prepend;
  PQCACHE_RETURN_IF_ERROR(CheckOptions(
      component, {"replacement", "str_rep", "add_prefix_space", "prepend_scheme", "split"}));
  MetaspaceOptions options;
  PQCACHE_ASSIGN_OR_RETURN(options.replacement, GetCharacter(component, "replacement"));
  PQCACHE_ASSIGN_OR_RETURN(options.split, component.BoolOr("split", true));
  PQCACHE_ASSIGN_OR_RETURN(const bool add, component.BoolOr("add_prefix_space", true));
  PQCACHE_ASSIGN_OR_RETURN(const std::string scheme,
                           component.StringOr("prepend_scheme", add ? "always" : "never"));
  if (scheme == "always") {
    options.prepend = Prepend::kAlways;
  } else if (scheme == "first") {
    options.prepend = Prepend::kFirst;
  } else if (scheme == "never") {
    options.prepend = Prepend::kNever;
  } else {
    return Status::Unsupported("prepend_scheme is " + Quoted(scheme) +
                               ", expected always, first or never");
  }
  if (!add && options.prepend != Prepend::kNever) {
    return Status::InvalidArgument("add_prefix_space is false but prepend_scheme is " +
                                   Quoted(scheme) + ", expected never");
  }
  return options;
}

}  // namespace pqcache::attention
