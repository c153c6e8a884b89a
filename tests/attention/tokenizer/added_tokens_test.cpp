#include "attention/tokenizer/added_tokens.h"

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace pqcache::attention {
namespace {

// One token with the flags that `flags` names.
std::string Token(int id, const std::string& content, const std::string& flags) {
  std::string json = R"({"id": )" + std::to_string(id) + R"(, "content": ")" + content + '"';
  for (const char* flag : {"special", "normalized", "lstrip", "rstrip", "single_word"}) {
    const bool set = flags.find(flag) != std::string::npos;
    json += std::string(", \"") + flag + "\": " + (set ? "true" : "false");
  }
  return json + "}";
}

Result<AddedTokens> FromText(const std::string& tokens, const std::string& normalizer = "null") {
  const auto n = Normalizer::FromJson(Json::Parse(normalizer).value());
  return AddedTokens::FromJson(Json::Parse("[" + tokens + "]").value(), *n);
}

// "text", or "<id>text" for a token, with bars between.
std::string Show(const std::vector<AddedTokens::Segment>& segments) {
  std::string out;
  for (const auto& s : segments) {
    if (!out.empty()) out += "|";
    if (s.id >= 0) out.append("<").append(std::to_string(s.id)).append(">");
    out += s.text;
  }
  return out;
}

std::string SplitRaw(const std::string& tokens, std::string_view text) {
  const auto added = FromText(tokens);
  EXPECT_OK(added);
  return Show(added->SplitRaw(text));
}

TEST(AddedTokensTest, TheLongestTokenWinsAtEachPlace) {
  const std::string tokens =
      Token(1, "<s>", "special") + "," + Token(2, "<s>x", "") + "," + Token(3, "s>xyz", "");
  EXPECT_EQ(SplitRaw(tokens, "a<s>b<s>xyz<s"), "a|<1><s>|b|<2><s>x|yz<s");
  EXPECT_EQ(SplitRaw(tokens, "<s><s>"), "<1><s>|<1><s>");
  EXPECT_EQ(SplitRaw(tokens, ""), "");
}

TEST(AddedTokensTest, StripTakesWhiteSpace) {
  EXPECT_EQ(SplitRaw(Token(1, "<m>", "lstrip"), "a \u2003<m> b"), "a|<1> \u2003<m>| b");
  EXPECT_EQ(SplitRaw(Token(1, "<m>", "rstrip"), "a <m> \nb"), "a |<1><m> \n|b");
  EXPECT_EQ(SplitRaw(Token(1, "<m>", "lstrip rstrip"), "<m>  <m>"), "<1><m>  |<1><m>");
}

TEST(AddedTokensTest, SingleWordStandsAlone) {
  const std::string token = Token(1, "ab", "single_word");
  EXPECT_EQ(SplitRaw(token, "ab abc (ab) éab ab_ ab"), "<1>ab| abc (|<1>ab|) éab ab_ |<1>ab");
}

TEST(AddedTokensTest, NormalizedTokensAreFoundInNormalizedText) {
  const auto added = FromText(Token(1, "e\u0301", "normalized") + "," + Token(2, "e\u0301!", ""),
                              R"({"type": "NFC"})");
  ASSERT_OK(added);
  EXPECT_EQ(Show(added->SplitRaw("e\u0301e\u0301!")), "e\u0301|<2>e\u0301!");
  EXPECT_EQ(Show(added->SplitNormalized("xé!")), "x|<1>é|!");
  EXPECT_EQ(added->IdOf("e\u0301"), 1);
  EXPECT_EQ(added->IdOf("é"), -1);
  EXPECT_EQ(added->Find(1)->pattern, "é");
  EXPECT_EQ(added->Find(3), nullptr);
}

TEST(AddedTokensTest, DamageIsNamed) {
  const auto expect_corrupt = [](const std::string& tokens, const std::string& piece,
                                 const std::string& normalizer = "null") {
    testing::ExpectError(FromText(tokens, normalizer), StatusCode::kCorruption, piece);
  };
  expect_corrupt(Token(1, "a", "") + "," + Token(1, "b", ""), "id 1 of \"b\"");
  expect_corrupt(Token(1, "a", "") + "," + Token(2, "a", ""), "\"a\" occurs twice");
  expect_corrupt(Token(1, "", ""), "empty");
  expect_corrupt(Token(1, "é", "normalized") + "," + Token(2, "e\u0301", "normalized"),
                 "token 1: ", R"({"type": "NFC"})");
  expect_corrupt(Token(1, "x", "normalized"), "empty",
                 R"({"type": "Replace", "pattern": {"String": "x"}, "content": ""})");
  testing::ExpectError(FromText(R"({"id": 1, "content": "a"})"), StatusCode::kInvalidArgument,
                       "special");
  testing::ExpectError(FromText("7"), StatusCode::kInvalidArgument, "id");
}

}  // namespace
}  // namespace pqcache::attention
