#include "attention/tokenizer/split_patterns.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/support/status_matchers.h"

namespace pqcache::attention {
namespace {

using Words = std::vector<std::string>;

Words Split(SplitPattern pattern, const std::string& text) {
  Words words;
  for (size_t pos = 0; pos < text.size();) {
    const size_t end = FindWordEnd(pattern, text, pos);
    if (end <= pos || end > text.size()) {
      ADD_FAILURE() << "word [" << pos << ", " << end << ") of " << text.size() << " bytes";
      break;
    }
    words.push_back(text.substr(pos, end - pos));
    pos = end;
  }
  return words;
}

TEST(SplitPatternsTest, Gpt2) {
  const auto split = [](const std::string& text) { return Split(SplitPattern::kGpt2, text); };
  EXPECT_EQ(split("Hello, world!"), (Words{"Hello", ",", " world", "!"}));
  EXPECT_EQ(split("we've DON'T it's'll"),
            (Words{"we", "'ve", " DON", "'", "T", " it", "'s", "'ll"}));
  EXPECT_EQ(split("'really 'x"), (Words{"'re", "ally", " '", "x"}));
  EXPECT_EQ(split("abc1234½ 56"), (Words{"abc", "1234½", " 56"}));
  EXPECT_EQ(split("a   b"), (Words{"a", "  ", " b"}));
  EXPECT_EQ(split("a\n\nb"), (Words{"a", "\n", "\n", "b"}));
  EXPECT_EQ(split("a  "), (Words{"a", "  "}));
  EXPECT_EQ(split(" "), (Words{" "}));
  EXPECT_EQ(split("a\u00A0b"), (Words{"a", "\u00A0", "b"}));
  EXPECT_EQ(split("a \u2003b"), (Words{"a", " ", "\u2003", "b"}));
  EXPECT_EQ(split("e\u0301x ...\n"), (Words{"e", "\u0301", "x", " ...", "\n"}));
}

TEST(SplitPatternsTest, Llama3) {
  const auto split = [](const std::string& text) { return Split(SplitPattern::kLlama3, text); };
  EXPECT_EQ(split("Hello, world!"), (Words{"Hello", ",", " world", "!"}));
  EXPECT_EQ(split("I'LL DON't x'\u017Fy"), (Words{"I", "'LL", " DON", "'t", " x", "'\u017F", "y"}));
  EXPECT_EQ(split("12345678 9"), (Words{"123", "456", "78", " ", "9"}));
  EXPECT_EQ(split("\tif (x)"), (Words{"\tif", " (", "x", ")"}));
  EXPECT_EQ(split("(x) .y"), (Words{"(x", ")", " .", "y"}));
  EXPECT_EQ(split("end.\r\n\nnext"), (Words{"end", ".\r\n\n", "next"}));
  EXPECT_EQ(split("a \n \n  b"), (Words{"a", " \n \n", " ", " b"}));
  EXPECT_EQ(split("a   "), (Words{"a", "   "}));
  EXPECT_EQ(split("a  1"), (Words{"a", " ", " ", "1"}));
  EXPECT_EQ(split("\u0301\u0301a"), (Words{"\u0301\u0301", "a"}));
  EXPECT_EQ(split("\nabc"), (Words{"\n", "abc"}));
  EXPECT_EQ(split("'"), (Words{"'"}));
  EXPECT_EQ(split("'r"), (Words{"'r"}));
}

TEST(SplitPatternsTest, Qwen2TakesOneDigit) {
  EXPECT_EQ(Split(SplitPattern::kQwen2, "x123 4½"), (Words{"x", "1", "2", "3", " ", "4", "½"}));
  EXPECT_EQ(Split(SplitPattern::kQwen2, "I'm\n 1"), (Words{"I", "'m", "\n", " ", "1"}));
}

TEST(SplitPatternsTest, LongRunsTakeLinearTime) {
  for (const char* unit : {" ", "\n", "a", "1", ".", "'"}) {
    std::string text;
    for (int i = 0; i < 1 << 18; ++i) text += unit;
    text += "x";
    for (const SplitPattern p :
         {SplitPattern::kGpt2, SplitPattern::kLlama3, SplitPattern::kQwen2}) {
      size_t bytes = 0;
      for (const std::string& word : Split(p, text)) bytes += word.size();
      EXPECT_EQ(bytes, text.size());
    }
  }
}

TEST(SplitPatternsTest, OtherExpressionsAreQuoted) {
  testing::ExpectError(FindSplitPattern(R"(\p{L}+)"), StatusCode::kUnsupported, R"("\p{L}+")");
  testing::ExpectError(FindSplitPattern(""), StatusCode::kUnsupported, R"("")");
}

}  // namespace
}  // namespace pqcache::attention
