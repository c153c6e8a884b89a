#pragma once

// The one notation for a choice from a registry: "name:key=value,key=value". A key without "="
// has the value "true".

#include <cstdint>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "pqcache/base/status.h"

namespace pqcache {

struct SpecString {
  std::string name;
  std::map<std::string, std::string> args;

  // Error if an argument is not among `known`; the message lists them.
  Status CheckKnown(std::span<const std::string_view> known) const;
  // Value of a size or count argument, or `fallback` when absent.
  Result<int64_t> IntOr(const std::string& key, int64_t fallback) const;
  // The same, of a narrower type.
  template <typename Int>
  Result<Int> NumberOr(const std::string& key, Int fallback) const;
  // A share in [0, 1].
  Result<double> ShareOr(const std::string& key, double fallback) const;
  // Place in `choices` of a word argument; the error lists them.
  Result<size_t> ChoiceOr(const std::string& key, std::span<const std::string_view> choices,
                          size_t fallback) const;
  // "true"/"1" and "false"/"0".
  Result<bool> BoolOr(const std::string& key, bool fallback) const;
  std::string StringOr(const std::string& key, std::string_view fallback) const;
};

// Refuses empty names, empty keys and repeated keys.
Result<SpecString> ParseSpec(std::string_view text);

// "16k" = 16384; suffixes k, M, G (either case) are powers of 1024. `what` names it in errors.
Result<int64_t> ParseCount(std::string_view text, std::string_view what);

template <typename Int>
Result<Int> SpecString::NumberOr(const std::string& key, Int fallback) const {
  PQCACHE_ASSIGN_OR_RETURN(const int64_t value, IntOr(key, fallback));
  constexpr int64_t kMost = std::numeric_limits<Int>::max();
  if (value <= kMost) return static_cast<Int>(value);
  return Status::InvalidArgument(name + ":" + key + " is " + std::to_string(value) +
                                 ", expected at most " + std::to_string(kMost));
}

}  // namespace pqcache
