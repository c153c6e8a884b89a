#include "pqcache/base/json.h"

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <unordered_set>

namespace pqcache {
namespace {

class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit Builder(int max_depth) : max_depth_(max_depth) {}

  bool null() override { return Add(Json()); }
  bool boolean(bool v) override { return Add(Json(v)); }
  bool number_integer(number_integer_t v) override { return Add(Json(int64_t{v})); }
  bool number_unsigned(number_unsigned_t v) override {
    if (v > static_cast<uint64_t>(INT64_MAX)) return Add(Json(static_cast<double>(v)));
    return Add(Json(static_cast<int64_t>(v)));
  }
  bool number_float(number_float_t v, const string_t& text) override {
    if (!std::isfinite(v)) return Fail("number " + text + " is not finite");
    return Add(Json(double{v}));
  }
  bool string(string_t& v) override { return Add(Json(std::move(v))); }
  bool binary(binary_t&) override { return Fail("binary value"); }
  bool start_object(std::size_t) override { return Open(Json::Object()); }
  bool end_object() override { return Close(); }
  bool start_array(std::size_t) override { return Open(Json::Array()); }
  bool end_array() override { return Close(); }
  bool key(string_t& v) override {
    if (!levels_.back().keys.insert(v).second) return Fail("key \"" + v + "\" occurs twice");
    levels_.back().key = std::move(v);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::json::exception& e) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error ..."
    const std::string what = e.what();
    const size_t detail = what.find("] ");
    return Fail("byte " + std::to_string(position) + ": " +
                (detail == std::string::npos ? what : what.substr(detail + 2)));
  }

  std::string error;
  Json result;

 private:
  struct Level {
    Json value;
    std::string key;
    std::unordered_set<std::string> keys;
  };

  bool Fail(std::string message) {
    error = std::move(message);
    return false;
  }
  bool Open(Json container) {
    if (static_cast<int>(levels_.size()) >= max_depth_) {
      return Fail("nesting is deeper than " + std::to_string(max_depth_));
    }
    levels_.push_back({std::move(container), {}, {}});
    return true;
  }
  bool Close() {
    Json done = std::move(levels_.back().value);
    levels_.pop_back();
    return Add(std::move(done));
  }
  bool Add(Json value) {
    if (levels_.empty()) {
      result = std::move(value);
    } else if (Level& level = levels_.back(); level.value.is_object()) {
      // Appending, not Set: the key is known to be new, and large vocabularies pass here.
      const_cast<Json::Object&>(level.value.AsObject())
          .emplace_back(std::move(level.key), std::move(value));
    } else {
      level.value.Push(std::move(value));
    }
    return true;
  }

  int max_depth_;
  std::vector<Level> levels_;
};

void DumpString(const std::string& s, std::string* out) {
  static constexpr char kDigits[] = "0123456789abcdef";
  out->push_back('"');
  for (const char c : s) {
    switch (c) {
      case '"':
        *out += "\\\"";
        break;
      case '\\':
        *out += "\\\\";
        break;
      case '\n':
        *out += "\\n";
        break;
      case '\t':
        *out += "\\t";
        break;
      case '\r':
        *out += "\\r";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          *out += "\\u00";
          out->push_back(kDigits[(c >> 4) & 15]);
          out->push_back(kDigits[c & 15]);
        } else {
          out->push_back(c);
        }
    }
  }
  out->push_back('"');
}

void NewLine(int indent, int level, std::string* out) {
  if (indent < 0) return;
  out->push_back('\n');
  out->append(static_cast<size_t>(indent * level), ' ');
}

void DumpTo(const Json& v, int indent, Json::Doubles doubles, int level, std::string* out) {
  if (v.is_null()) {
    *out += "null";
  } else if (v.is_bool()) {
    *out += v.AsBool() ? "true" : "false";
  } else if (v.is_int()) {
    *out += std::to_string(v.AsInt());
  } else if (v.is_number()) {
    if (!std::isfinite(v.AsDouble())) {
      *out += "null";
      return;
    }
    // "-0" would be read as an integer, which has no sign at zero.
    if (v.AsDouble() == 0 && std::signbit(v.AsDouble())) {
      *out += "-0.0";
      return;
    }
    char buffer[32];
    const auto end = std::to_chars(buffer, buffer + sizeof(buffer), v.AsDouble()).ptr;
    const std::string_view text(buffer, static_cast<size_t>(end - buffer));
    *out += text;
    const bool whole = text.find_first_of(".e") == std::string_view::npos;
    if (whole && doubles == Json::Doubles::kWithPoint) *out += ".0";
  } else if (v.is_string()) {
    DumpString(v.AsString(), out);
  } else if (v.is_array()) {
    out->push_back('[');
    for (size_t i = 0; i < v.AsArray().size(); ++i) {
      if (i > 0) *out += indent < 0 ? "," : ", ";
      DumpTo(v.AsArray()[i], indent, doubles, level + 1, out);
    }
    out->push_back(']');
  } else {
    out->push_back('{');
    for (size_t i = 0; i < v.AsObject().size(); ++i) {
      if (i > 0) out->push_back(',');
      NewLine(indent, level + 1, out);
      DumpString(v.AsObject()[i].first, out);
      *out += indent < 0 ? ":" : ": ";
      DumpTo(v.AsObject()[i].second, indent, doubles, level + 1, out);
    }
    if (!v.AsObject().empty()) NewLine(indent, level, out);
    out->push_back('}');
  }
}

Status WrongKind(std::string_view key, const Json* found, std::string_view expected) {
  return Status::InvalidArgument("\"" + std::string(key) + "\" is " +
                                 (found == nullptr ? "absent" : std::string(found->KindName())) +
                                 ", expected " + std::string(expected));
}

}  // namespace

Result<Json> Json::Parse(std::string_view text, const JsonLimits& limits) {
  if (text.size() > limits.max_bytes) {
    return Status::InvalidArgument("JSON has " + std::to_string(text.size()) +
                                   " bytes, expected at most " + std::to_string(limits.max_bytes));
  }
  // The parser takes a NUL byte for the end of the text.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    return Status::Corruption("not valid JSON: NUL at byte " + std::to_string(nul));
  }
  Builder builder(limits.max_depth);
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &builder)) {
    return Status::Corruption("not valid JSON: " + builder.error);
  }
  return std::move(builder.result);
}

std::string Json::Dump(int indent, Doubles doubles) const {
  std::string out;
  DumpTo(*this, indent, doubles, 0, &out);
  return out;
}

std::string_view Json::KindName() const {
  static constexpr std::string_view kNames[] = {"null",     "true/false", "an integer", "a number",
                                                "a string", "an array",   "an object"};
  return kNames[value_.index()];
}

double Json::AsDouble() const {
  return is_int() ? static_cast<double>(AsInt()) : std::get<double>(value_);
}

const Json* Json::Find(std::string_view key) const {
  if (!is_object()) return nullptr;
  for (const auto& [name, value] : AsObject()) {
    if (name == key) return &value;
  }
  return nullptr;
}

Result<int64_t> Json::GetInt(std::string_view key) const {
  const Json* v = Find(key);
  if (v == nullptr || !v->is_int()) return WrongKind(key, v, "an integer");
  return v->AsInt();
}
Result<double> Json::GetDouble(std::string_view key) const {
  const Json* v = Find(key);
  if (v == nullptr || !v->is_number()) return WrongKind(key, v, "a number");
  return v->AsDouble();
}
Result<bool> Json::GetBool(std::string_view key) const {
  const Json* v = Find(key);
  if (v == nullptr || !v->is_bool()) return WrongKind(key, v, "true or false");
  return v->AsBool();
}
Result<std::string> Json::GetString(std::string_view key) const {
  const Json* v = Find(key);
  if (v == nullptr || !v->is_string()) return WrongKind(key, v, "a string");
  return v->AsString();
}

Result<int64_t> Json::IntOr(std::string_view key, int64_t fallback) const {
  const Json* v = Find(key);
  if (v == nullptr || v->is_null()) return fallback;
  return GetInt(key);
}
Result<double> Json::DoubleOr(std::string_view key, double fallback) const {
  const Json* v = Find(key);
  if (v == nullptr || v->is_null()) return fallback;
  return GetDouble(key);
}
Result<bool> Json::BoolOr(std::string_view key, bool fallback) const {
  const Json* v = Find(key);
  if (v == nullptr || v->is_null()) return fallback;
  return GetBool(key);
}
Result<std::string> Json::StringOr(std::string_view key, std::string_view fallback) const {
  const Json* v = Find(key);
  if (v == nullptr || v->is_null()) return std::string(fallback);
  return GetString(key);
}

Json& Json::Set(std::string_view key, Json value) {
  if (is_null()) value_ = Object();
  auto& object = std::get<Object>(value_);
  for (auto& [name, old] : object) {
    if (name == key) {
      old = std::move(value);
      return *this;
    }
  }
  object.emplace_back(std::string(key), std::move(value));
  return *this;
}

Json& Json::Push(Json value) {
  if (is_null()) value_ = Array();
  std::get<Array>(value_).push_back(std::move(value));
  return *this;
}

}  // namespace pqcache
