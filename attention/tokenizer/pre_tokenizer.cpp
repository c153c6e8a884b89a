#include "attention/tokenizer/pre_tokenizer.h"

#include <utility>

#include "attention/tokenizer/byte_spelling.h"
#include "attention/tokenizer/unicode.h"

namespace pqcache::attention {
namespace {

constexpr std::string_view kTypes = "ByteLevel, Split, Metaspace, Digits or Sequence";

Result<SplitPattern> ParseSplit(const Json& json) {
  PQCACHE_RETURN_IF_ERROR(CheckOptions(json, {"pattern", "behavior", "invert"}));
  const Json* pattern = json.Find("pattern");
  if (pattern == nullptr || !pattern->is_object() || pattern->AsObject().size() != 1) {
    return Status::InvalidArgument("pattern is not {\"Regex\": text}");
  }
  if (pattern->Find("Regex") == nullptr) {
    return Status::Unsupported("pattern is a " + pattern->AsObject()[0].first +
                               ", expected a Regex");
  }
  PQCACHE_ASSIGN_OR_RETURN(const std::string regex, pattern->GetString("Regex"));
  PQCACHE_ASSIGN_OR_RETURN(const std::string behavior, json.GetString("behavior"));
  PQCACHE_ASSIGN_OR_RETURN(const bool invert, json.BoolOr("invert", false));
  if (behavior != "Isolated") {
    return Status::Unsupported("behavior is " + Quoted(behavior) + ", expected Isolated");
  }
  if (invert) return Status::Unsupported("invert is true, expected false");
  return FindSplitPattern(regex);
}

}  // namespace

Result<PreTokenizer> PreTokenizer::FromJson(const Json& json) {
  PreTokenizer pre_tokenizer;
  Growth growth;
  if (json.is_null()) return pre_tokenizer;
  PQCACHE_RETURN_IF_ERROR(VisitComponents(
      json, "pretokenizers", [&](const Json& component, const std::string& type) -> Status {
        const Status added = pre_tokenizer.AddStep(component, type);
        return added.ok() ? growth.Add(GrowthOf(pre_tokenizer.steps_.back())) : added;
      }));
  return pre_tokenizer;
}

Status PreTokenizer::AddStep(const Json& json, const std::string& type) {
  if (type == "ByteLevel") {
    // trim_offsets concerns character offsets, which are not computed here.
    PQCACHE_RETURN_IF_ERROR(CheckOptions(json, {"add_prefix_space", "trim_offsets", "use_regex"}));
    PQCACHE_ASSIGN_OR_RETURN(const bool add, json.GetBool("add_prefix_space"));
    PQCACHE_ASSIGN_OR_RETURN(const bool use_regex, json.BoolOr("use_regex", true));
    steps_.emplace_back(ByteLevel{add, use_regex});
    return Status::Ok();
  }
  if (type == "Split") {
    PQCACHE_ASSIGN_OR_RETURN(const SplitPattern pattern, ParseSplit(json));
    steps_.emplace_back(pattern);
    return Status::Ok();
  }
  if (type == "Metaspace") {
    PQCACHE_ASSIGN_OR_RETURN(MetaspaceOptions options, ParseMetaspace(json));
    steps_.emplace_back(std::move(options));
    return Status::Ok();
  }
  if (type == "Digits") {
    PQCACHE_RETURN_IF_ERROR(CheckOptions(json, {"individual_digits"}));
    PQCACHE_ASSIGN_OR_RETURN(const bool individual, json.GetBool("individual_digits"));
    steps_.emplace_back(Digits{individual});
    return Status::Ok();
  }
  return UnknownType(type, kTypes);
}

double PreTokenizer::GrowthOf(const Step& step) {
  if (const auto* bytes = std::get_if<ByteLevel>(&step)) {
    // A byte is spelled with up to two; a word of one byte may get a space.
    return bytes->add_prefix_space ? 4 : 2;
  }
  if (const auto* spaces = std::get_if<MetaspaceOptions>(&step)) {
    return 1 + static_cast<double>(spaces->replacement.size());
  }
  return 1;
}

void PreTokenizer::Apply(const ByteLevel& step, std::string word, bool, Words* out) {
  if (step.add_prefix_space && word[0] != ' ') word.insert(0, 1, ' ');
  if (!step.use_regex) {
    out->push_back(SpellBytes(word));
    return;
  }
  Words parts;
  Apply(SplitPattern::kGpt2, std::move(word), false, &parts);
  for (const std::string& part : parts) out->push_back(SpellBytes(part));
}

void PreTokenizer::Apply(const SplitPattern& step, std::string word, bool, Words* out) {
  for (size_t pos = 0; pos < word.size();) {
    const size_t end = FindWordEnd(step, word, pos);
    out->push_back(word.substr(pos, end - pos));
    pos = end;
  }
}

void PreTokenizer::Apply(const MetaspaceOptions& step, std::string word, bool at_start,
                         Words* out) {
  word = ReplaceAll(word, " ", step.replacement);
  const bool wanted = step.prepend == MetaspaceOptions::Prepend::kAlways ||
                      (step.prepend == MetaspaceOptions::Prepend::kFirst && at_start);
  if (wanted && !word.starts_with(step.replacement)) word.insert(0, step.replacement);
  size_t begin = 0;
  while (step.split && begin < word.size()) {
    const size_t next = word.find(step.replacement, begin + 1);
    if (next == std::string::npos) break;
    out->push_back(word.substr(begin, next - begin));
    begin = next;
  }
  out->push_back(word.substr(begin));
}

void PreTokenizer::Apply(const Digits& step, std::string word, bool, Words* out) {
  bool joins = false;  // the character before goes on with one of its kind
  bool was_digit = false;
  for (size_t pos = 0; pos < word.size();) {
    const Utf8Char c = ReadUtf8(word, pos);
    const bool is_digit = ClassOf(c.code_point) == CharClass::kNumber;
    if (joins && was_digit == is_digit) {
      out->back().append(word, pos, c.length);
    } else {
      out->push_back(word.substr(pos, c.length));
    }
    joins = !is_digit || !step.individual;
    was_digit = is_digit;
    pos += c.length;
  }
}

std::vector<std::string> PreTokenizer::Split(std::string_view text, bool at_start) const {
  Words words;
  if (!text.empty()) words.emplace_back(text);
  for (const Step& step : steps_) {
    Words parts;
    parts.reserve(words.size());
    for (size_t i = 0; i < words.size(); ++i) {
      std::visit([&](const auto& s) { Apply(s, std::move(words[i]), at_start && i == 0, &parts); },
                 step);
    }
    words = std::move(parts);
  }
  return words;
}

}  // namespace pqcache::attention
