#include "attention/tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include "pqcache/base/file_io.h"
#include "pqcache/base/json.h"
#include "tests/attention/tokenizer/mini_tokenizer.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace pqcache::attention {
namespace {

using Ids = std::vector<int64_t>;

constexpr char kTemplate[] = R"({"type": "TemplateProcessing", "pair": [], "single": [
    {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [9], "tokens": ["<s>"]}}})";

Tokenizer Mini(const MiniTokenizer& mini) {
  auto tokenizer = Tokenizer::Parse(mini.Json());
  EXPECT_OK(tokenizer);
  return std::move(*tokenizer);
}

TEST(TokenizerTest, PartsWorkTogether) {
  MiniTokenizer mini;
  mini.post_processor = kTemplate;
  const Tokenizer tokenizer = Mini(mini);
  EXPECT_EQ(tokenizer.Encode("abc<s>bc", true).value(), (Ids{9, 4, 3, 9, 5}));
  EXPECT_EQ(tokenizer.Encode("abc<s>bc", false).value(), (Ids{4, 3, 9, 5}));
  EXPECT_EQ(tokenizer.Encode("", true).value(), (Ids{9}));
  EXPECT_EQ(tokenizer.Encode("", false).value(), Ids());
  EXPECT_EQ(tokenizer.Decode(Ids{9, 4, 3}, true).value(), "abc");
  EXPECT_EQ(tokenizer.Decode(Ids{9, 4, 3}, false).value(), "<s>abc");
  EXPECT_EQ(tokenizer.Decode(Ids{}, false).value(), "");
}

TEST(TokenizerTest, Vocabulary) {
  const Tokenizer tokenizer = Mini({});
  EXPECT_EQ(tokenizer.vocab_size(), 10);
  EXPECT_EQ(tokenizer.TokenId("ab"), 4);
  EXPECT_EQ(tokenizer.TokenId("<s>"), 9);
  EXPECT_EQ(tokenizer.TokenId("x"), -1);
  // 7 and 8 are gaps.
  for (const int64_t id : {int64_t{-1}, int64_t{7}, int64_t{10}, INT64_MAX, INT64_MIN}) {
    testing::ExpectError(tokenizer.Decode(Ids{1, id}, true), StatusCode::kInvalidArgument,
                         "token id " + std::to_string(id));
  }
}

TEST(TokenizerTest, TextThatIsNotUtf8IsRefused) {
  const Tokenizer tokenizer = Mini({});
  testing::ExpectError(tokenizer.Encode("ab\xC3(", true), StatusCode::kInvalidArgument, "byte 2");
  testing::ExpectError(tokenizer.Encode("ab\xE2\x82", true), StatusCode::kInvalidArgument,
                       "byte 2");
}

TEST(TokenizerTest, ARefusedIdLeavesTheStreamAlone) {
  const Tokenizer tokenizer = Mini({});
  StreamDecoder decoder(&tokenizer, false);
  EXPECT_EQ(decoder.Push(4).value(), "ab");
  testing::ExpectError(decoder.Push(8), StatusCode::kInvalidArgument, "token id 8");
  EXPECT_EQ(decoder.Push(3).value(), "c");
  EXPECT_EQ(decoder.Finish().value(), "");
}

TEST(TokenizerTest, AStreamCanBeginAgain) {
  MiniTokenizer mini;
  mini.decoder = R"({"type": "Metaspace", "replacement": "b"})";
  const Tokenizer tokenizer = Mini(mini);
  StreamDecoder decoder(&tokenizer, false);
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(decoder.Push(4).value(), "a");
    EXPECT_EQ(decoder.Push(4).value(), "a ");
    EXPECT_EQ(decoder.Finish().value(), "");
  }
}

// The beginning of the text is the first part only when no added token is in front of it.
TEST(TokenizerTest, OnlyTheFirstPartIsTheBeginning) {
  MiniTokenizer mini;
  mini.pre_tokenizer =
      R"({"type": "Metaspace", "replacement": "c", "prepend_scheme": "first", "split": false})";
  const Tokenizer tokenizer = Mini(mini);
  EXPECT_EQ(tokenizer.Encode("a<s>a", false).value(), (Ids{3, 1, 9, 1}));
  EXPECT_EQ(tokenizer.Encode("<s>a", false).value(), (Ids{9, 1}));
}

TEST(TokenizerTest, TruncationAndPaddingAreNotApplied) {
  std::string json = MiniTokenizer().Json();
  const std::string truncation = R"("truncation": null)";
  json.replace(json.find(truncation), truncation.size(), R"("truncation": {"max_length": 1})");
  const auto tokenizer = Tokenizer::Parse(json);
  ASSERT_OK(tokenizer);
  EXPECT_EQ(tokenizer->Encode("abab", false).value(), (Ids{4, 4}));
}

TEST(TokenizerTest, PartsThatDisagreeAreRefused) {
  const auto expect_corrupt = [](auto&& change, const std::string& piece) {
    MiniTokenizer mini;
    change(mini);
    testing::ExpectError(Tokenizer::Parse(mini.Json()), StatusCode::kCorruption, piece);
  };
  const auto with_added = [](const std::string& id, const std::string& content) {
    return [=](MiniTokenizer& m) {
      m.added_tokens = R"([{"id": )" + id + R"(, "content": ")" + content +
                       R"(", "special": true, "normalized": false, "lstrip": false,
                          "rstrip": false, "single_word": false}])";
    };
  };
  expect_corrupt(with_added("4", "<s>"), "gives to \"ab\"");
  expect_corrupt(with_added("9", "ab"), "that token is 4");
  expect_corrupt(with_added("-1", "<s>"), "has id -1");
  expect_corrupt(with_added("2097152", "<s>"), "has id 2097152");
  const auto with_template = [](const std::string& from, const std::string& to) {
    return [=](MiniTokenizer& m) {
      m.post_processor = kTemplate;
      m.post_processor.replace(m.post_processor.find(from), from.size(), to);
    };
  };
  expect_corrupt(with_template("[9]", "[8]"), "\"<s>\" has id 8");
  expect_corrupt(with_template(R"(["<s>"])", R"(["<t>"])"), "\"<t>\"");
}

TEST(TokenizerTest, ErrorsNameTheComponent) {
  MiniTokenizer mini;
  mini.pre_tokenizer = R"({"type": "Sequence", "pretokenizers": [{"type": "Punctuation"}]})";
  testing::ExpectError(Tokenizer::Parse(mini.Json()), StatusCode::kUnsupported,
                       "pre_tokenizer: Punctuation: ");
  mini = {};
  mini.version = R"("2.0")";
  testing::ExpectError(Tokenizer::Parse(mini.Json()), StatusCode::kUnsupported, "\"2.0\"");
  mini = {};
  mini.version += R"(, "extra": 1)";
  testing::ExpectError(Tokenizer::Parse(mini.Json()), StatusCode::kUnsupported, "\"extra\"");
  testing::ExpectError(Tokenizer::Parse("{}"), StatusCode::kInvalidArgument, "version");
  testing::ExpectError(Tokenizer::Parse("[1]"), StatusCode::kInvalidArgument, "");
  testing::ExpectError(Tokenizer::Parse("{"), StatusCode::kCorruption, "JSON");
}

TEST(TokenizerTest, LoadNamesTheFile) {
  const testing::TempDir dir;
  testing::ExpectError(Tokenizer::Load(dir.File("absent.json")), StatusCode::kNotFound,
                       "absent.json");
  const std::string path = dir.File("tokenizer.json");
  ASSERT_OK(WriteFileAtomically(path, "{}"));
  testing::ExpectError(Tokenizer::Load(path), StatusCode::kInvalidArgument, path);
  ASSERT_OK(WriteFileAtomically(path, MiniTokenizer().Json()));
  EXPECT_OK(Tokenizer::Load(path));
}

TEST(TokenizerTest, FilesAboveTheLimitAreRefused) {
  const std::string too_long(JsonLimits().max_bytes + 1, ' ');
  testing::ExpectError(Tokenizer::Parse(too_long), StatusCode::kInvalidArgument, "bytes");
}

}  // namespace
}  // namespace pqcache::attention
