#include "attention/tokenizer/byte_spelling.h"

#include <gtest/gtest.h>

#include "attention/tokenizer/unicode.h"

namespace pqcache::attention {
namespace {

TEST(ByteSpellingTest, KnownSpellings) {
  EXPECT_EQ(SpellBytes(" a\n"), "ĠaĊ");
  EXPECT_EQ(SpellBytes("é"), "Ã©");
  EXPECT_EQ(SpellBytes(std::string("\0\x7F\x80\xA0\xAD", 5)), "ĀġĢłŃ");
  EXPECT_EQ(UnspellBytes("ĠworldĊ"), " world\n");
}

TEST(ByteSpellingTest, EveryByteIsOneCharacterAndComesBack) {
  for (int byte = 0; byte < 256; ++byte) {
    const std::string bytes(1, static_cast<char>(byte));
    const std::string spelled = SpellBytes(bytes);
    EXPECT_EQ(ReadUtf8(spelled, 0).length, spelled.size());
    EXPECT_EQ(UnspellBytes(spelled), bytes);
  }
}

TEST(ByteSpellingTest, TokensOutsideTheAlphabetStayAsTheyAre) {
  EXPECT_EQ(UnspellBytes("a b"), "a b");        // a plain space
  EXPECT_EQ(UnspellBytes("Ġ中"), "Ġ中");        // and none of it is translated
  EXPECT_EQ(UnspellBytes("\u0144"), "\u0144");  // the code point after the last one
  EXPECT_EQ(UnspellBytes("\u00AD"), "\u00AD");
  EXPECT_EQ(UnspellBytes(""), "");
}

TEST(ByteSpellingTest, ByteTokensAreStrict) {
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(ParseByteToken(ByteToken(static_cast<uint8_t>(byte))), byte);
  }
  EXPECT_EQ(ByteToken(0x0A), "<0x0A>");
  for (const char* bad : {"<0x0a>", "<0x+A>", "<0x 1>", "<0xG0>", "<0x1>", "<0x012>", "<0X41>",
                          "<0x41", "0x41", "", "<0x41>>"}) {
    EXPECT_FALSE(ParseByteToken(bad).has_value()) << bad;
  }
}

}  // namespace
}  // namespace pqcache::attention
