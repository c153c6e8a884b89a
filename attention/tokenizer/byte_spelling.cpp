#include "attention/tokenizer/byte_spelling.h"

#include <array>

#include "attention/tokenizer/unicode.h"

namespace pqcache::attention {
namespace {

constexpr std::string_view kHexDigits = "0123456789ABCDEF";

bool StandsForItself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Alphabet {
  std::array<std::string, 256> spelling;
  std::array<int16_t, 0x144> byte_of;  // by code point, -1 outside the alphabet
};

const Alphabet& GetAlphabet() {
  static const Alphabet alphabet = [] {
    Alphabet a;
    a.byte_of.fill(-1);
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const char32_t c = StandsForItself(byte) ? static_cast<char32_t>(byte) : next++;
      AppendUtf8(c, &a.spelling[static_cast<size_t>(byte)]);
      a.byte_of[c] = static_cast<int16_t>(byte);
    }
    return a;
  }();
  return alphabet;
}

}  // namespace

std::string SpellBytes(std::string_view bytes) {
  const Alphabet& alphabet = GetAlphabet();
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const char c : bytes) out += alphabet.spelling[static_cast<unsigned char>(c)];
  return out;
}

std::string UnspellBytes(std::string_view token) {
  const Alphabet& alphabet = GetAlphabet();
  std::string out;
  for (size_t pos = 0; pos < token.size();) {
    const Utf8Char c = ReadUtf8(token, pos);
    const bool known = c.state == Utf8Char::State::kValid &&
                       c.code_point < alphabet.byte_of.size() &&
                       alphabet.byte_of[c.code_point] >= 0;
    if (!known) return std::string(token);
    out.push_back(static_cast<char>(alphabet.byte_of[c.code_point]));
    pos += c.length;
  }
  return out;
}

std::string ByteToken(uint8_t byte) {
  return {'<', '0', 'x', kHexDigits[byte >> 4], kHexDigits[byte & 15], '>'};
}

std::optional<uint8_t> ParseByteToken(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  const size_t high = kHexDigits.find(token[3]);
  const size_t low = kHexDigits.find(token[4]);
  if (high == std::string_view::npos || low == std::string_view::npos) return std::nullopt;
  return static_cast<uint8_t>(high * 16 + low);
}

}  // namespace pqcache::attention
