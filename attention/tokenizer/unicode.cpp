#include "attention/tokenizer/unicode.h"

#include <utf8proc.h>

#include <array>

namespace pqcache::attention {
namespace {

// Length of the sequence that `lead` begins and the range of its second byte, which excludes
// overlong forms, surrogates and code points past U+10FFFF (Unicode 15, table 3-7).
struct LeadByte {
  size_t length = 0;
  unsigned char low = 0x80;
  unsigned char high = 0xBF;
};

LeadByte Classify(unsigned char lead) {
  if (lead < 0x80) return {1};
  if (lead < 0xC2) return {0};
  if (lead < 0xE0) return {2};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};
  if (lead == 0xED) return {3, 0x80, 0x9F};
  if (lead < 0xF0) return {3};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (lead < 0xF4) return {4};
  if (lead == 0xF4) return {4, 0x80, 0x8F};
  return {0};
}

CharClass Lookup(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return CharClass::kLetter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return CharClass::kNumber;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return CharClass::kSpace;
    default:
      return (c >= 0x09 && c <= 0x0D) || c == 0x85 ? CharClass::kSpace : CharClass::kOther;
  }
}

bool IsIn(char32_t c, char32_t first, char32_t last) { return first <= c && c <= last; }

}  // namespace

Utf8Char ReadUtf8(std::string_view text, size_t pos) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const LeadByte lead = Classify(byte(pos));
  if (lead.length == 1) return {Utf8Char::State::kValid, byte(pos), 1};
  if (lead.length == 0) return {};
  char32_t code_point = byte(pos) & (0xFF >> (lead.length + 1));
  for (size_t i = 1; i < lead.length; ++i) {
    if (pos + i == text.size()) return {Utf8Char::State::kIncomplete, 0xFFFD, i};
    const unsigned char next = byte(pos + i);
    const bool fits = i == 1 ? lead.low <= next && next <= lead.high : (next & 0xC0) == 0x80;
    if (!fits) return {Utf8Char::State::kInvalid, 0xFFFD, i};
    code_point = (code_point << 6) | (next & 0x3F);
  }
  return {Utf8Char::State::kValid, code_point, lead.length};
}

size_t FindInvalidUtf8(std::string_view text) {
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Char c = ReadUtf8(text, pos);
    if (c.state != Utf8Char::State::kValid) return pos;
    pos += c.length;
  }
  return std::string_view::npos;
}

void AppendUtf8(char32_t c, std::string* out) {
  const auto tail = [&](int shift) {
    out->push_back(static_cast<char>(0x80 | ((c >> shift) & 0x3F)));
  };
  if (c < 0x80) {
    out->push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    out->push_back(static_cast<char>(0xC0 | (c >> 6)));
    tail(0);
  } else if (c < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | (c >> 12)));
    tail(6);
    tail(0);
  } else {
    out->push_back(static_cast<char>(0xF0 | (c >> 18)));
    tail(12);
    tail(6);
    tail(0);
  }
}

size_t AppendLossyUtf8(std::string_view bytes, std::string* out) {
  size_t pos = 0;
  while (pos < bytes.size()) {
    const Utf8Char c = ReadUtf8(bytes, pos);
    if (c.state == Utf8Char::State::kIncomplete) break;
    if (c.state == Utf8Char::State::kValid) {
      out->append(bytes, pos, c.length);
    } else {
      AppendUtf8(0xFFFD, out);
    }
    pos += c.length;
  }
  return pos;
}

CharClass ClassOf(char32_t code_point) {
  static const std::array<CharClass, 128> kAscii = [] {
    std::array<CharClass, 128> table{};
    for (size_t c = 0; c < table.size(); ++c) table[c] = Lookup(static_cast<char32_t>(c));
    return table;
  }();
  return code_point < kAscii.size() ? kAscii[code_point] : Lookup(code_point);
}

bool IsWordChar(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      // Join control, and the circled and squared letters: symbols that are alphabetic.
      return c == 0x200C || c == 0x200D || IsIn(c, 0x24B6, 0x24E9) || IsIn(c, 0x1F130, 0x1F149) ||
             IsIn(c, 0x1F150, 0x1F169) || IsIn(c, 0x1F170, 0x1F189);
  }
}

}  // namespace pqcache::attention
