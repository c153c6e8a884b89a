#include "attention/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "attention/tokenizer/component.h"

namespace pqcache::attention {
namespace {

constexpr std::string_view kTypes = "NFC, NFD, NFKC, NFKD, Prepend, Replace or Sequence";

bool IsAscii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c & 0x80) == 0; });
}

Result<std::string> ToUnicodeForm(std::string text, int options) {
  if (IsAscii(text)) return text;
  utf8proc_uint8_t* raw = nullptr;
  const utf8proc_ssize_t size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                             static_cast<utf8proc_ssize_t>(text.size()), &raw,
                                             static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(raw, &std::free);
  if (size == UTF8PROC_ERROR_NOMEM || size == UTF8PROC_ERROR_OVERFLOW) {
    return Status::OutOfMemory("Unicode normalisation of " + std::to_string(text.size()) +
                               " bytes: " + utf8proc_errmsg(size));
  }
  if (size < 0) return Status::InvalidArgument(std::string("text: ") + utf8proc_errmsg(size));
  return std::string(reinterpret_cast<const char*>(raw), static_cast<size_t>(size));
}

int UnicodeFormOptions(std::string_view type) {
  if (type == "NFC") return UTF8PROC_STABLE | UTF8PROC_COMPOSE;
  if (type == "NFD") return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
  if (type == "NFKC") return UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT;
  if (type == "NFKD") return UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT;
  return 0;
}

}  // namespace

Result<Normalizer> Normalizer::FromJson(const Json& json) {
  Normalizer normalizer;
  if (json.is_null()) return normalizer;
  PQCACHE_RETURN_IF_ERROR(VisitComponents(
      json, "normalizers", [&](const Json& component, const std::string& type) -> Status {
        PQCACHE_ASSIGN_OR_RETURN(Step step, ParseStep(component, type));
        normalizer.steps_.push_back(std::move(step));
        return Status::Ok();
      }));
  return normalizer;
}

Result<Normalizer::Step> Normalizer::ParseStep(const Json& json, const std::string& type) {
  if (const int options = UnicodeFormOptions(type); options != 0) {
    PQCACHE_RETURN_IF_ERROR(CheckOptions(json, {}));
    return Step(UnicodeForm{options});
  }
  if (type == "Prepend") {
    PQCACHE_RETURN_IF_ERROR(CheckOptions(json, {"prepend"}));
    PQCACHE_ASSIGN_OR_RETURN(std::string text, json.GetString("prepend"));
    return Step(Prepend{std::move(text)});
  }
  if (type == "Replace") {
    PQCACHE_RETURN_IF_ERROR(CheckOptions(json, {"pattern", "content"}));
    PQCACHE_ASSIGN_OR_RETURN(std::string from, GetStringPattern(json));
    PQCACHE_ASSIGN_OR_RETURN(std::string to, json.GetString("content"));
    return Step(Replace{std::move(from), std::move(to)});
  }
  return UnknownType(type, kTypes);
}

Result<std::string> Normalizer::Apply(const Step& step, std::string text) {
  if (const auto* form = std::get_if<UnicodeForm>(&step)) {
    return ToUnicodeForm(std::move(text), form->options);
  }
  if (const auto* prepend = std::get_if<Prepend>(&step)) {
    return text.empty() ? text : prepend->text + text;
  }
  const auto& replace = std::get<Replace>(step);
  return ReplaceAll(text, replace.from, replace.to);
}

Result<std::string> Normalizer::Normalize(std::string_view text) const {
  std::string result(text);
  for (const Step& step : steps_) {
    PQCACHE_ASSIGN_OR_RETURN(result, Apply(step, std::move(result)));
  }
  return result;
}

}  // namespace pqcache::attention
