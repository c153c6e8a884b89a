#pragma once

// How vocabularies spell single bytes. Pure functions, callable from any thread.
//  - The byte-level alphabet of GPT-2 (Radford et al., 2019): printable Latin-1 bytes stand for
//    themselves, the other 68 are U+0100 onwards in order; a space is U+0120.
//  - Byte tokens of SentencePiece: <0x00> to <0xFF>.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace pqcache::attention {

// `bytes` in the byte-level alphabet, as UTF-8.
std::string SpellBytes(std::string_view bytes);

// The bytes that `token` (UTF-8) spells; the token itself when one of its characters is not in the
// alphabet, as happens for added tokens.
std::string UnspellBytes(std::string_view token);

// "<0x41>" for 0x41.
std::string ByteToken(uint8_t byte);

// Byte of a byte token: exactly two upper-case hexadecimal digits.
std::optional<uint8_t> ParseByteToken(std::string_view token);

}  // namespace pqcache::attention
