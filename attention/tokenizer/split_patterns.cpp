#include "attention/tokenizer/split_patterns.h"

#include <limits>
#include <string>

#include "attention/tokenizer/component.h"
#include "attention/tokenizer/unicode.h"

namespace pqcache::attention {
namespace {

struct NamedPattern {
  SplitPattern pattern;
  std::string_view regex;
};

constexpr NamedPattern kPatterns[] = {
    {SplitPattern::kGpt2,
     R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"},
    {SplitPattern::kLlama3, R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
                            R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {SplitPattern::kQwen2, R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
                           R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
};

constexpr size_t kNoLimit = std::numeric_limits<size_t>::max();

bool IsNewline(char32_t c) { return c == '\r' || c == '\n'; }

// The word being looked for: text[pos, end).
class Scanner {
 public:
  Scanner(std::string_view text, size_t pos) : text_(text), pos_(pos) {}

  bool HasClass(size_t at, CharClass wanted) const {
    return at < text_.size() && ClassOf(ReadUtf8(text_, at).code_point) == wanted;
  }

  // End of the run of `wanted` characters from `at`, at most `limit` of them.
  size_t RunEnd(size_t at, CharClass wanted, size_t limit = kNoLimit) const {
    for (; limit > 0 && at < text_.size(); --limit) {
      const Utf8Char c = ReadUtf8(text_, at);
      if (ClassOf(c.code_point) != wanted) break;
      at += c.length;
    }
    return at;
  }

  // 's|'t|'re|'ve|'m|'ll|'d: end of the match, pos when there is none.
  size_t Contraction(bool any_case) const {
    if (text_[pos_] != '\'') return pos_;
    const auto [first, after_first] = Letter(pos_ + 1, any_case);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return after_first;
    const auto [second, after_second] = Letter(after_first, any_case);
    const bool two = (first == 'r' && second == 'e') || (first == 'v' && second == 'e') ||
                     (first == 'l' && second == 'l');
    return two ? after_second : pos_;
  }

  // \s+(?!\S)|\s+: the last space of a run belongs to the word after it.
  size_t Spaces() const {
    size_t at = pos_;
    size_t last = pos_;
    while (HasClass(at, CharClass::kSpace)) {
      last = at;
      at += ReadUtf8(text_, at).length;
    }
    return at == text_.size() || last == pos_ ? at : last;
  }

  // \s*[\r\n]+: the run of spaces up to its last newline, pos when it has none.
  size_t SpacesWithNewline() const {
    size_t end = pos_;
    for (size_t at = pos_; HasClass(at, CharClass::kSpace);) {
      const Utf8Char c = ReadUtf8(text_, at);
      at += c.length;
      if (IsNewline(c.code_point)) end = at;
    }
    return end;
  }

  size_t NewlinesEnd(size_t at) const {
    while (at < text_.size() && IsNewline(static_cast<unsigned char>(text_[at]))) ++at;
    return at;
  }

 private:
  struct LetterAt {
    char32_t letter;  // 0 at the end of the text
    size_t end;
  };

  LetterAt Letter(size_t at, bool any_case) const {
    if (at >= text_.size()) return {0, at};
    const Utf8Char c = ReadUtf8(text_, at);
    char32_t letter = c.code_point;
    if (any_case && letter >= 'A' && letter <= 'Z') letter += 'a' - 'A';
    // Simple case folding takes the long s to s; no other letter folds into these words.
    if (any_case && letter == 0x17F) letter = 's';
    return {letter, at + c.length};
  }

  std::string_view text_;
  size_t pos_;
};

size_t Gpt2WordEnd(std::string_view text, size_t pos) {
  const Scanner scanner(text, pos);
  if (const size_t end = scanner.Contraction(false); end > pos) return end;
  const size_t body = text[pos] == ' ' ? pos + 1 : pos;
  for (const CharClass c : {CharClass::kLetter, CharClass::kNumber, CharClass::kOther}) {
    if (const size_t end = scanner.RunEnd(body, c); end > body) return end;
  }
  return scanner.Spaces();
}

size_t Llama3WordEnd(std::string_view text, size_t pos, size_t max_digits) {
  const Scanner scanner(text, pos);
  if (const size_t end = scanner.Contraction(true); end > pos) return end;
  const Utf8Char first = ReadUtf8(text, pos);
  const CharClass first_class = ClassOf(first.code_point);
  if (first_class == CharClass::kNumber) {
    return scanner.RunEnd(pos, CharClass::kNumber, max_digits);
  }
  if (first_class == CharClass::kLetter) return scanner.RunEnd(pos, CharClass::kLetter);
  const size_t next = pos + first.length;
  if (!IsNewline(first.code_point) && scanner.HasClass(next, CharClass::kLetter)) {
    return scanner.RunEnd(next, CharClass::kLetter);
  }
  const size_t body = text[pos] == ' ' ? next : pos;
  if (const size_t end = scanner.RunEnd(body, CharClass::kOther); end > body) {
    return scanner.NewlinesEnd(end);
  }
  if (const size_t end = scanner.SpacesWithNewline(); end > pos) return end;
  return scanner.Spaces();
}

}  // namespace

Result<SplitPattern> FindSplitPattern(std::string_view regex) {
  std::string known;
  for (const NamedPattern& entry : kPatterns) {
    if (entry.regex == regex) return entry.pattern;
    known += "\n  " + std::string(entry.regex);
  }
  return Status::Unsupported("regular expression " + Quoted(regex) +
                             " is not supported, expected one of:" + known);
}

size_t FindWordEnd(SplitPattern pattern, std::string_view text, size_t pos) {
  switch (pattern) {
    case SplitPattern::kGpt2:
      return Gpt2WordEnd(text, pos);
    case SplitPattern::kLlama3:
      return Llama3WordEnd(text, pos, 3);
    case SplitPattern::kQwen2:
      return Llama3WordEnd(text, pos, 1);
  }
  return text.size();
}

}  // namespace pqcache::attention
