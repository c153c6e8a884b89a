#include "attention/tokenizer/pre_tokenizer.h"

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace pqcache::attention {
namespace {

using Words = std::vector<std::string>;

Result<PreTokenizer> FromText(const std::string& json) {
  return PreTokenizer::FromJson(Json::Parse(json).value());
}

Words Split(const std::string& json, std::string_view text, bool at_start = true) {
  const auto pre_tokenizer = FromText(json);
  EXPECT_OK(pre_tokenizer);
  return pre_tokenizer->Split(text, at_start);
}

TEST(PreTokenizerTest, NullKeepsTheTextWhole) {
  EXPECT_EQ(Split("null", "a b"), (Words{"a b"}));
  EXPECT_EQ(Split("null", ""), Words());
}

TEST(PreTokenizerTest, ByteLevel) {
  EXPECT_EQ(Split(R"({"type": "ByteLevel", "add_prefix_space": false})", "a é\n"),
            (Words{"a", "ĠÃ©", "Ċ"}));
  const char* whole = R"({"type": "ByteLevel", "add_prefix_space": true, "use_regex": false})";
  EXPECT_EQ(Split(whole, "a b"), (Words{"ĠaĠb"}));
  EXPECT_EQ(Split(whole, " a"), (Words{"Ġa"}));
}

TEST(PreTokenizerTest, MetaspacePutsTheReplacementInFront) {
  const auto metaspace = [](const std::string& options) {
    return R"({"type": "Metaspace", "replacement": "▁")" + options + "}";
  };
  EXPECT_EQ(Split(metaspace(""), "a  b "), (Words{"▁a", "▁", "▁b", "▁"}));
  EXPECT_EQ(Split(metaspace(""), " a"), (Words{"▁a"}));
  EXPECT_EQ(Split(metaspace(R"(, "split": false)"), "a b"), (Words{"▁a▁b"}));
  EXPECT_EQ(Split(metaspace(R"(, "prepend_scheme": "never")"), "a b"), (Words{"a", "▁b"}));
  EXPECT_EQ(Split(metaspace(R"(, "add_prefix_space": false)"), "a b"), (Words{"a", "▁b"}));
  const std::string first = metaspace(R"(, "prepend_scheme": "first")");
  EXPECT_EQ(Split(first, "a b", true), (Words{"▁a", "▁b"}));
  EXPECT_EQ(Split(first, "a b", false), (Words{"a", "▁b"}));
  // Only the first word of a text is its beginning.
  EXPECT_EQ(Split(R"({"type": "Sequence", "pretokenizers": [
                       {"type": "Digits", "individual_digits": false}, )" +
                      first + "]}",
                  "a1b"),
            (Words{"▁a", "1", "b"}));
}

TEST(PreTokenizerTest, Digits) {
  EXPECT_EQ(Split(R"({"type": "Digits", "individual_digits": true})", "ab12½c"),
            (Words{"ab", "1", "2", "½", "c"}));
  EXPECT_EQ(Split(R"({"type": "Digits", "individual_digits": false})", "ab12½c3"),
            (Words{"ab", "12½", "c", "3"}));
}

TEST(PreTokenizerTest, UnknownIsRefusedByName) {
  const auto expect_unsupported = [](const std::string& json, const std::string& piece) {
    testing::ExpectError(FromText(json), StatusCode::kUnsupported, piece);
  };
  const auto split = [](const std::string& options) {
    return R"({"type": "Split", )" + options + "}";
  };
  expect_unsupported(R"({"type": "Whitespace"})", "Whitespace");
  expect_unsupported(R"({"type": "ByteLevel", "add_prefix_space": false, "mode": 2})", "mode");
  expect_unsupported(split(R"("pattern": {"Regex": "[0-9]"}, "behavior": "Isolated")"),
                     R"("[0-9]")");
  expect_unsupported(split(R"("pattern": {"String": " "}, "behavior": "Isolated")"), "String");
  expect_unsupported(split(R"("pattern": {"Regex": "x"}, "behavior": "Removed")"), "Removed");
  expect_unsupported(split(R"("pattern": {"Regex": "x"}, "behavior": "Isolated", "invert": true)"),
                     "invert");
  expect_unsupported(R"({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "sometimes"})",
                     "sometimes");
  testing::ExpectError(FromText(R"({"type": "Metaspace", "replacement": "ab"})"),
                       StatusCode::kInvalidArgument, "one character");
  testing::ExpectError(FromText(R"({"type": "Metaspace", "replacement": "▁",
                                    "add_prefix_space": false, "prepend_scheme": "first"})"),
                       StatusCode::kInvalidArgument, "add_prefix_space");
}

TEST(PreTokenizerTest, StepsThatTogetherGrowAWordTooMuchAreRefused) {
  const auto spelled = [](int steps) {
    std::string list;
    for (int i = 0; i < steps; ++i) {
      list += R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},)";
    }
    list.pop_back();
    return R"({"type": "Sequence", "pretokenizers": [)" + list + "]}";
  };
  EXPECT_EQ(Split(spelled(6), "é")[0].size(), 128u);
  for (const int steps : {7, 40}) {
    testing::ExpectError(FromText(spelled(steps)), StatusCode::kUnsupported,
                         "ByteLevel: could make a text 128");
  }
}

}  // namespace
}  // namespace pqcache::attention
