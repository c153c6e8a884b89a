#include "attention/tokenizer/unicode.h"

#include <gtest/gtest.h>

namespace pqcache::attention {
namespace {

std::string Lossy(std::string_view bytes, size_t* used) {
  std::string out;
  *used = AppendLossyUtf8(bytes, &out);
  return out;
}

TEST(UnicodeTest, EveryCodePointSurvivesWritingAndReading) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    std::string text;
    AppendUtf8(c, &text);
    const Utf8Char read = ReadUtf8(text, 0);
    const bool is_surrogate = c >= 0xD800 && c <= 0xDFFF;
    ASSERT_EQ(read.state == Utf8Char::State::kValid, !is_surrogate) << std::hex << uint32_t{c};
    if (is_surrogate) continue;
    ASSERT_EQ(read.code_point, c);
    ASSERT_EQ(read.length, text.size());
  }
}

TEST(UnicodeTest, InvalidSequencesAreFound) {
  EXPECT_EQ(FindInvalidUtf8("a\xC3\xA9"), std::string_view::npos);
  for (const char* bad : {"\x80", "\xC0\xAF", "\xC1\xBF", "\xE0\x80\xAF", "\xED\xA0\x80",
                          "\xF0\x80\x80\xAF", "\xF4\x90\x80\x80", "\xF5", "\xFF", "\xE2\x82"}) {
    EXPECT_EQ(FindInvalidUtf8(std::string("ab") + bad), 2u) << ::testing::PrintToString(bad);
  }
}

// The example of Unicode 15, table 3-8 (U+FFFD substitution of maximal subparts).
TEST(UnicodeTest, LossyTextHasOneReplacementForEachMaximalPart) {
  size_t used = 0;
  EXPECT_EQ(Lossy("\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64", &used),
            "a\uFFFD\uFFFD\uFFFDb\uFFFDc\uFFFD\uFFFD"
            "d");
  EXPECT_EQ(used, 13u);
}

TEST(UnicodeTest, LossyTextLeavesAnIncompleteEndOut) {
  size_t used = 0;
  EXPECT_EQ(Lossy("x\xF0\x9F\x98", &used), "x");
  EXPECT_EQ(used, 1u);
  EXPECT_EQ(Lossy("x\xED\xA0", &used), "x\uFFFD\uFFFD");  // never to become a character
  EXPECT_EQ(used, 3u);
}

TEST(UnicodeTest, ClassesFollowTheStandard) {
  for (const char32_t c : {U'a', U'Z', U'é', U'ǅ', U'ʰ', U'ª', U'中', U'ا', char32_t{0x10400}}) {
    EXPECT_EQ(ClassOf(c), CharClass::kLetter) << uint32_t{c};
  }
  for (const char32_t c : {U'0', U'٣', U'Ⅷ', U'½', U'²'}) {
    EXPECT_EQ(ClassOf(c), CharClass::kNumber) << uint32_t{c};
  }
  for (const char32_t c : {0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x20, 0x85, 0xA0, 0x1680, 0x2000, 0x200A,
                           0x2028, 0x2029, 0x202F, 0x205F, 0x3000}) {
    EXPECT_EQ(ClassOf(c), CharClass::kSpace) << uint32_t{c};
  }
  // Separators that are no white space, a mark, a symbol, an unassigned code point.
  for (const char32_t c : {0x08, 0x1C, 0x200B, 0x180E, 0xFEFF, 0x0301, 0x24B6, 0x0378, 0x5F}) {
    EXPECT_EQ(ClassOf(c), CharClass::kOther) << uint32_t{c};
  }
}

TEST(UnicodeTest, WordCharacters) {
  for (const char32_t c : {0x61, 0x39, 0x5F, 0x203F, 0x0301, 0x2167, 0x200D, 0x24B6, 0x1F170}) {
    EXPECT_TRUE(IsWordChar(c)) << uint32_t{c};
  }
  for (const char32_t c : {0x20, 0x2D, 0x27, 0xB2, 0xBD, 0x2460, 0x1F600}) {
    EXPECT_FALSE(IsWordChar(c)) << uint32_t{c};
  }
}

}  // namespace
}  // namespace pqcache::attention
