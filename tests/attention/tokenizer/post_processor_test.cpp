#include "attention/tokenizer/post_processor.h"

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace pqcache::attention {
namespace {

Result<PostTemplate> FromText(const std::string& json) {
  return ParsePostProcessor(Json::Parse(json).value());
}

std::string Template(const std::string& single,
                     const std::string& special = R"("X": {"id": "X", "ids": [7, 8],
                                                           "tokens": ["x", "y"]})") {
  return R"({"type": "TemplateProcessing", "single": [)" + single +
         R"(], "pair": [], "special_tokens": {)" + special + "}}";
}

constexpr char kText[] = R"({"Sequence": {"id": "A", "type_id": 0}})";
constexpr char kSpecial[] = R"({"SpecialToken": {"id": "X", "type_id": 0}})";
constexpr char kByteLevel[] = R"({"type": "ByteLevel", "add_prefix_space": true,
                                  "trim_offsets": false, "use_regex": true})";

std::vector<int64_t> IdsOf(const std::vector<PostTemplate::Token>& tokens) {
  std::vector<int64_t> ids;
  for (const auto& token : tokens) ids.push_back(token.id);
  return ids;
}

TEST(PostProcessorTest, NullAndByteLevelAddNothing) {
  for (const std::string json : {"null", kByteLevel}) {
    const auto result = FromText(json);
    ASSERT_OK(result);
    EXPECT_TRUE(result->prefix.empty());
    EXPECT_TRUE(result->suffix.empty());
  }
}

TEST(PostProcessorTest, TemplateSurroundsTheText) {
  const std::string json = R"({"type": "Sequence", "processors": [)" + std::string(kByteLevel) +
                           "," + Template(std::string(kSpecial) + "," + kText + "," + kSpecial) +
                           "]}";
  const auto result = FromText(json);
  ASSERT_OK(result);
  EXPECT_EQ(IdsOf(result->prefix), (std::vector<int64_t>{7, 8}));
  EXPECT_EQ(IdsOf(result->suffix), (std::vector<int64_t>{7, 8}));
  EXPECT_EQ(result->prefix[1].content, "y");
}

TEST(PostProcessorTest, OtherTemplatesAreRefused) {
  const std::string text = kText;
  const auto expect_unsupported = [](const std::string& json, const std::string& piece) {
    testing::ExpectError(FromText(json), StatusCode::kUnsupported, piece);
  };
  expect_unsupported(R"({"type": "BertProcessing"})", "BertProcessing");
  expect_unsupported(Template(""), "no sequence");
  expect_unsupported(Template(text + "," + text), "after another one");
  expect_unsupported(Template(R"({"Sequence": {"id": "B", "type_id": 0}})"), "\"B\"");
  expect_unsupported(Template(R"({"Gap": {}})"), "Gap");
  expect_unsupported(
      R"({"type": "Sequence", "processors": [)" + Template(text) + "," + Template(text) + "]}",
      "twice");
  const auto expect_corrupt = [&](const std::string& special) {
    testing::ExpectError(FromText(Template(text + "," + kSpecial, special)),
                         StatusCode::kCorruption, "\"X\"");
  };
  expect_corrupt("");
  expect_corrupt(R"("X": 3)");
  expect_corrupt(R"("X": {"ids": [1, 2], "tokens": ["x"]})");
  expect_corrupt(R"("X": {"ids": ["1"], "tokens": ["x"]})");
}

TEST(PostProcessorTest, ATemplateMayNotRepeatItsTokensWithoutEnd) {
  const auto repeated = [](int pieces, const char* special) {
    std::string single = kText;
    for (int i = 0; i < pieces; ++i) single += "," + std::string(kSpecial);
    return FromText(Template(single, special));
  };
  const char* two = R"("X": {"ids": [7, 8], "tokens": ["x", "y"]})";
  ASSERT_OK(repeated(32, two));
  EXPECT_EQ(repeated(32, two)->suffix.size(), 64u);
  testing::ExpectError(repeated(33, two), StatusCode::kUnsupported, "66 tokens");
  const char* none = R"("X": {"ids": [], "tokens": []})";
  testing::ExpectError(repeated(64, none), StatusCode::kUnsupported, "65 pieces");
}

}  // namespace
}  // namespace pqcache::attention
