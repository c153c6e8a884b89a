#pragma once

// JSON values: strict parsing of files that others wrote, and writing of our own. Parsing refuses
// duplicate keys, numbers that are not finite, nesting and sizes beyond the limits, and text after
// the value. Values are plain data; share them between threads only for reading.

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "pqcache/base/status.h"

namespace pqcache {

struct JsonLimits {
  size_t max_bytes = size_t{64} << 20;
  int max_depth = 64;
};

class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::vector<std::pair<std::string, Json>>;  // in file order

  Json() = default;  // null
  Json(bool v) : value_(v) {}
  Json(int v) : value_(int64_t{v}) {}
  Json(int64_t v) : value_(v) {}
  Json(size_t v) : value_(static_cast<int64_t>(v)) {}
  Json(double v) : value_(v) {}
  Json(const char* v) : value_(std::string(v)) {}
  Json(std::string v) : value_(std::move(v)) {}
  Json(std::string_view v) : value_(std::string(v)) {}
  Json(Array v) : value_(std::move(v)) {}
  Json(Object v) : value_(std::move(v)) {}

  // Errors give the byte offset and what was expected there.
  static Result<Json> Parse(std::string_view text, const JsonLimits& limits = {});
  // How a double that is a whole number is written: as "1", which is read as an integer, or as
  // "1.0".
  enum class Doubles { kShort, kWithPoint };
  // Compact when `indent` is negative. Doubles keep their value; NaN and infinities become null.
  std::string Dump(int indent = -1, Doubles doubles = Doubles::kShort) const;

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  bool is_bool() const { return std::holds_alternative<bool>(value_); }
  bool is_int() const { return std::holds_alternative<int64_t>(value_); }
  bool is_number() const { return is_int() || std::holds_alternative<double>(value_); }
  bool is_string() const { return std::holds_alternative<std::string>(value_); }
  bool is_array() const { return std::holds_alternative<Array>(value_); }
  bool is_object() const { return std::holds_alternative<Object>(value_); }
  // "null", "true/false", "an integer", "a number", "a string", "an array" or "an object".
  std::string_view KindName() const;

  // The value must be of that kind.
  bool AsBool() const { return std::get<bool>(value_); }
  int64_t AsInt() const { return std::get<int64_t>(value_); }
  double AsDouble() const;
  const std::string& AsString() const { return std::get<std::string>(value_); }
  const Array& AsArray() const { return std::get<Array>(value_); }
  const Object& AsObject() const { return std::get<Object>(value_); }

  // Members of an object (anything else has none). Find gives nullptr for an absent key.
  const Json* Find(std::string_view key) const;
  // Required members: an error names the key, what was found and what was expected.
  Result<int64_t> GetInt(std::string_view key) const;
  Result<double> GetDouble(std::string_view key) const;
  Result<bool> GetBool(std::string_view key) const;
  Result<std::string> GetString(std::string_view key) const;
  // Optional members: absent or null gives `fallback`, another kind is an error.
  Result<int64_t> IntOr(std::string_view key, int64_t fallback) const;
  Result<double> DoubleOr(std::string_view key, double fallback) const;
  Result<bool> BoolOr(std::string_view key, bool fallback) const;
  Result<std::string> StringOr(std::string_view key, std::string_view fallback) const;

  // Building: Set appends or replaces a member (null becomes an object); Push appends an element.
  Json& Set(std::string_view key, Json value);
  Json& Push(Json value);

 private:
  std::variant<std::monostate, bool, int64_t, double, std::string, Array, Object> value_;
};

}  // namespace pqcache
