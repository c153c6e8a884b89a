#include "attention/tokenizer/normalizer.h"

#include <gtest/gtest.h>

#include "tests/attention/tokenizer/mini_tokenizer.h"
#include "tests/support/status_matchers.h"

namespace pqcache::attention {
namespace {

Result<Normalizer> FromText(std::string_view json) {
  return Normalizer::FromJson(Json::Parse(json).value());
}

std::string Normalized(std::string_view json, std::string_view text) {
  const auto normalizer = FromText(json);
  EXPECT_OK(normalizer);
  const auto result = normalizer->Normalize(text);
  EXPECT_OK(result);
  return *result;
}

TEST(NormalizerTest, NullChangesNothing) {
  EXPECT_EQ(Normalized("null", "e\u0301 ﬁ"), "e\u0301 ﬁ");
}

TEST(NormalizerTest, UnicodeForms) {
  const std::string text = "é e\u0301 ﬁ \u212B 가";
  EXPECT_EQ(Normalized(R"({"type": "NFC"})", text), "é é ﬁ Å 가");
  EXPECT_EQ(Normalized(R"({"type": "NFD"})", text), "e\u0301 e\u0301 ﬁ A\u030A \u1100\u1161");
  EXPECT_EQ(Normalized(R"({"type": "NFKC"})", text), "é é fi Å 가");
  EXPECT_EQ(Normalized(R"({"type": "NFKD"})", text), "e\u0301 e\u0301 fi A\u030A \u1100\u1161");
  const std::string with_zero("é\0e\u0301", 6);
  EXPECT_EQ(Normalized(R"({"type": "NFC"})", with_zero), std::string("é\0é", 5));
}

TEST(NormalizerTest, MarksAreSortedByClassAndKeepTheirOrderWithin) {
  // U+0327 is of class 202, U+0301 and U+0300 of class 230.
  EXPECT_EQ(Normalized(R"({"type": "NFD"})", "x\u0301\u0300\u0327"), "x\u0327\u0301\u0300");
  EXPECT_EQ(Normalized(R"({"type": "NFC"})", "c\u0301\u0327"), "\u1E09");
  std::string marks;
  std::string below;
  std::string above;
  for (int i = 0; i < 1 << 16; ++i) {
    marks += "\u0301\u0327\u0300";
    below += "\u0327";
    above += "\u0301\u0300";
  }
  EXPECT_TRUE(Normalized(R"({"type": "NFD"})", marks) == below + above);
}

TEST(NormalizerTest, StepsOfASequenceFollowEachOther) {
  const char* json = R"({"type": "Sequence", "normalizers": [
      {"type": "Prepend", "prepend": "▁"},
      {"type": "Sequence", "normalizers": [
          {"type": "Replace", "pattern": {"String": "  "}, "content": "-"},
          {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}]})";
  EXPECT_EQ(Normalized(json, "a b   c"), "▁a▁b-▁c");
  EXPECT_EQ(Normalized(json, ""), "");
}

TEST(NormalizerTest, UnknownIsRefusedByName) {
  const auto expect_unsupported = [](std::string_view json, const std::string& piece) {
    testing::ExpectError(FromText(json), StatusCode::kUnsupported, piece);
  };
  expect_unsupported(R"({"type": "BertNormalizer"})", "BertNormalizer");
  expect_unsupported(R"({"type": "NFC", "strict": true})", "strict");
  expect_unsupported(R"({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": ""})",
                     " {2,}");
  expect_unsupported(R"({"type": "Sequence", "normalizers": [{"type": "Lowercase"}]})",
                     "Lowercase");
  const auto expect_invalid = [](std::string_view json, const std::string& piece) {
    testing::ExpectError(FromText(json), StatusCode::kInvalidArgument, piece);
  };
  expect_invalid(R"({"type": "Replace", "pattern": {"String": ""}, "content": "x"})", "pattern");
  expect_invalid(R"({"type": "Prepend"})", "prepend");
  expect_invalid(R"({"type": "Sequence", "normalizers": 3})", "normalizers");
  expect_invalid(R"("NFC")", "type");
  expect_invalid(R"({"type": "Sequence", "normalizers": [null]})", "type");
}

TEST(NormalizerTest, StepsThatTogetherGrowATextTooMuchAreRefused) {
  const auto doubled = [](int steps) {
    return R"({"type": "Sequence", "normalizers": [)" + DoublingSteps(steps) + "]}";
  };
  EXPECT_EQ(Normalized(doubled(6), "ab"), std::string(64, 'a') + "b");
  for (const int steps : {7, 40, 2000}) {
    testing::ExpectError(FromText(doubled(steps)), StatusCode::kUnsupported,
                         "Replace: could make a text 128");
  }
  EXPECT_OK(FromText(R"({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, {"type": "NFKC"}]})"));
  EXPECT_EQ(Normalized(R"({"type": "NFKC"})", "\uFDFA").size(), 33u);
}

}  // namespace
}  // namespace pqcache::attention
