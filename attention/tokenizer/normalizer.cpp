#include "attention/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>

#include "attention/tokenizer/component.h"
#include "attention/tokenizer/unicode.h"

namespace pqcache::attention {
namespace {

constexpr std::string_view kTypes = "NFC, NFD, NFKC, NFKD, Prepend, Replace or Sequence";

bool IsAscii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c & 0x80) == 0; });
}

// utf8proc_map would do, but sorts marks in quadratic time: a text of half a megabyte could keep it
// busy for minutes.
void SortMarks(std::vector<utf8proc_int32_t>* code_points) {
  const auto mark_class = [](utf8proc_int32_t c) {
    return utf8proc_get_property(c)->combining_class;
  };
  const auto is_mark = [&](utf8proc_int32_t c) { return mark_class(c) != 0; };
  for (auto begin = code_points->begin(); begin != code_points->end();) {
    begin = std::find_if(begin, code_points->end(), is_mark);
    const auto end = std::find_if_not(begin, code_points->end(), is_mark);
    std::stable_sort(begin, end, [&](auto l, auto r) { return mark_class(l) < mark_class(r); });
    begin = end;
  }
}

Result<std::string> ToUnicodeForm(std::string text, int form) {
  if (IsAscii(text)) return text;
  const auto options = static_cast<utf8proc_option_t>(form);
  std::vector<utf8proc_int32_t> code_points;
  code_points.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Char c = ReadUtf8(text, pos);
    pos += c.length;
    std::array<utf8proc_int32_t, 32> parts;  // the longest decomposition, of U+FDFA, has 18
    const utf8proc_ssize_t count = utf8proc_decompose_char(
        static_cast<utf8proc_int32_t>(c.code_point), parts.data(), parts.size(), options, nullptr);
    if (count < 0 || count > static_cast<utf8proc_ssize_t>(parts.size())) {
      return Status::Internal("utf8proc cannot decompose code point " +
                              std::to_string(uint32_t{c.code_point}));
    }
    code_points.insert(code_points.end(), parts.begin(), parts.begin() + count);
  }
  SortMarks(&code_points);
  const utf8proc_ssize_t size = utf8proc_normalize_utf32(
      code_points.data(), static_cast<utf8proc_ssize_t>(code_points.size()), options);
  if (size < 0) return Status::Internal(std::string("utf8proc: ") + utf8proc_errmsg(size));
  std::string result;
  result.reserve(text.size());
  for (utf8proc_ssize_t i = 0; i < size; ++i) {
    AppendUtf8(static_cast<char32_t>(code_points[static_cast<size_t>(i)]), &result);
  }
  return result;
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
  Growth growth;
  if (json.is_null()) return normalizer;
  PQCACHE_RETURN_IF_ERROR(VisitComponents(
      json, "normalizers", [&](const Json& component, const std::string& type) -> Status {
        const Status added = normalizer.AddStep(component, type);
        return added.ok() ? growth.Add(GrowthOf(normalizer.steps_.back())) : added;
      }));
  return normalizer;
}

Status Normalizer::AddStep(const Json& json, const std::string& type) {
  if (const int options = UnicodeFormOptions(type); options != 0) {
    PQCACHE_RETURN_IF_ERROR(CheckOptions(json, {}));
    steps_.emplace_back(UnicodeForm{options});
    return Status::Ok();
  }
  if (type == "Prepend") {
    PQCACHE_RETURN_IF_ERROR(CheckOptions(json, {"prepend"}));
    PQCACHE_ASSIGN_OR_RETURN(std::string text, json.GetString("prepend"));
    steps_.emplace_back(Prepend{std::move(text)});
    return Status::Ok();
  }
  if (type == "Replace") {
    PQCACHE_RETURN_IF_ERROR(CheckOptions(json, {"pattern", "content"}));
    PQCACHE_ASSIGN_OR_RETURN(std::string from, GetStringPattern(json));
    PQCACHE_ASSIGN_OR_RETURN(std::string to, json.GetString("content"));
    steps_.emplace_back(Replace{std::move(from), std::move(to)});
    return Status::Ok();
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

double Normalizer::GrowthOf(const Step& step) {
  if (const auto* form = std::get_if<UnicodeForm>(&step)) {
    // In UTF-8; the Unicode standard's worst cases (annex 15), U+FDFA for the second.
    return (form->options & UTF8PROC_COMPAT) == 0 ? 3 : 11;
  }
  if (const auto* replace = std::get_if<Replace>(&step)) {
    return ReplaceGrowth(replace->from, replace->to);
  }
  return 1;  // Prepend adds its text once
}

Result<std::string> Normalizer::Normalize(std::string_view text) const {
  std::string result(text);
  for (const Step& step : steps_) {
    PQCACHE_ASSIGN_OR_RETURN(result, Apply(step, std::move(result)));
  }
  return result;
}

}  // namespace pqcache::attention
