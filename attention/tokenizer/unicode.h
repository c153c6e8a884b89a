#pragma once

// UTF-8 and the Unicode classes that tokenisers ask for. Pure functions, callable from any thread.

#include <cstddef>
#include <string>
#include <string_view>

namespace pqcache::attention {

struct Utf8Char {
  enum class State {
    kValid,
    kInvalid,     // cannot become a character, whatever follows
    kIncomplete,  // the text ends inside what may be a character
  };
  State state = State::kInvalid;
  char32_t code_point = 0xFFFD;
  // Bytes read; without a valid character, the longest beginning of one (Unicode 15, 3.9, U+FFFD
  // substitution of maximal subparts), at least 1.
  size_t length = 1;
};

// The character at text[pos]; pos < text.size().
Utf8Char ReadUtf8(std::string_view text, size_t pos);

// Offset of the first byte that is not UTF-8, npos when all is.
size_t FindInvalidUtf8(std::string_view text);

void AppendUtf8(char32_t code_point, std::string* out);

// Appends `bytes` with U+FFFD for each maximal invalid part. An incomplete character at the end is
// left out: the number of bytes used up is returned.
size_t AppendLossyUtf8(std::string_view bytes, std::string* out);

enum class CharClass { kLetter, kNumber, kSpace, kOther };

// \p{L}, \p{N}, \s (White_Space) or none of them.
CharClass ClassOf(char32_t code_point);

// \w of UTS 18: alphabetic, mark, decimal digit, connector punctuation, join control.
bool IsWordChar(char32_t code_point);

}  // namespace pqcache::attention
