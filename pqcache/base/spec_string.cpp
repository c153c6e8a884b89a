#include "pqcache/base/spec_string.h"

#include <algorithm>
#include <charconv>
#include <limits>

namespace pqcache {

Status SpecString::CheckKnown(std::span<const std::string_view> known) const {
  for (const auto& [key, value] : args) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    std::string list;
    for (std::string_view k : known) list += (list.empty() ? "" : ", ") + std::string(k);
    return Status::InvalidArgument(name + ": unknown parameter '" + key + "', expected " +
                                   (list.empty() ? "none" : "one of: " + list));
  }
  return Status::Ok();
}

Result<int64_t> SpecString::IntOr(const std::string& key, int64_t fallback) const {
  const auto it = args.find(key);
  if (it == args.end()) return fallback;
  if (it->second == "true") {  // as a key without "=" has it
    return Status::InvalidArgument(name + ":" + key + " has no number, expected a whole number");
  }
  return ParseCount(it->second, name + ":" + key);
}

Result<bool> SpecString::BoolOr(const std::string& key, bool fallback) const {
  const auto it = args.find(key);
  if (it == args.end()) return fallback;
  if (it->second == "true" || it->second == "1") return true;
  if (it->second == "false" || it->second == "0") return false;
  return Status::InvalidArgument(name + ":" + key + " is '" + it->second +
                                 "', expected true or false");
}

Result<double> SpecString::ShareOr(const std::string& key, double fallback) const {
  const auto it = args.find(key);
  if (it == args.end()) return fallback;
  const std::string& text = it->second;
  double value = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = error == std::errc() && rest == text.data() + text.size();
  if (whole && value >= 0 && value <= 1) return value;
  if (text == "true") {
    return Status::InvalidArgument(name + ":" + key + " has no number, expected 0 to 1");
  }
  return Status::InvalidArgument(name + ":" + key + " is '" + text + "', expected 0 to 1");
}

Result<size_t> SpecString::ChoiceOr(const std::string& key,
                                    std::span<const std::string_view> choices,
                                    size_t fallback) const {
  const auto it = args.find(key);
  if (it == args.end()) return fallback;
  std::string list;
  for (size_t i = 0; i < choices.size(); ++i) {
    if (choices[i] == it->second) return i;
    list += (i == 0 ? "" : ", ") + std::string(choices[i]);
  }
  return Status::InvalidArgument(name + ":" + key + " is '" + it->second +
                                 "', expected one of: " + list);
}

std::string SpecString::StringOr(const std::string& key, std::string_view fallback) const {
  const auto it = args.find(key);
  return it == args.end() ? std::string(fallback) : it->second;
}

Result<SpecString> ParseSpec(std::string_view text) {
  SpecString spec;
  const size_t colon = text.find(':');
  spec.name = std::string(text.substr(0, colon));
  if (spec.name.empty()) {
    return Status::InvalidArgument("'" + std::string(text) +
                                   "' has no name, expected name:key=value,key=value");
  }
  if (colon == std::string_view::npos) return spec;
  std::string_view rest = text.substr(colon + 1);
  while (true) {
    const size_t comma = rest.find(',');
    const std::string_view item = rest.substr(0, comma);
    const size_t equals = item.find('=');
    const std::string key(item.substr(0, equals));
    if (key.empty()) {
      return Status::InvalidArgument("'" + std::string(text) +
                                     "' has an empty parameter, expected name:key=value,key=value");
    }
    std::string value =
        equals == std::string_view::npos ? "true" : std::string(item.substr(equals + 1));
    if (!spec.args.emplace(key, std::move(value)).second) {
      return Status::InvalidArgument("'" + std::string(text) + "' gives '" + key + "' twice");
    }
    if (comma == std::string_view::npos) return spec;
    rest = rest.substr(comma + 1);
  }
}

Result<int64_t> ParseCount(std::string_view text, std::string_view what) {
  int64_t value = 0;
  const char* end = text.data() + text.size();
  auto [rest, error] = std::from_chars(text.data(), end, value);
  int shift = 0;
  if (error == std::errc() && end - rest == 1) {
    const char suffix = *rest;
    shift = suffix == 'k' || suffix == 'K'   ? 10
            : suffix == 'm' || suffix == 'M' ? 20
            : suffix == 'g' || suffix == 'G' ? 30
                                             : 0;
    if (shift > 0) ++rest;
  }
  if (error != std::errc() || rest != end || value < 0 ||
      value > (std::numeric_limits<int64_t>::max() >> shift)) {
    return Status::InvalidArgument(std::string(what) + " is '" + std::string(text) +
                                   "', expected a whole number such as 256, 16k, 512M");
  }
  return value << shift;
}

}  // namespace pqcache
