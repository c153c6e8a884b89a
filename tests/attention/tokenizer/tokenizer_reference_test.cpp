// Every recorded case of the reference implementation: ids with and without special tokens, text
// with and without them, and the same text from a stream.

#include <gtest/gtest.h>

#include "attention/tokenizer/tokenizer.h"
#include "attention/tokenizer/unicode.h"
#include "pqcache/base/file_io.h"
#include "pqcache/base/json.h"
#include "tests/support/status_matchers.h"

namespace pqcache::attention {
namespace {

using Ids = std::vector<int64_t>;

struct Reference {
  std::string name;
  std::string tokenizer;
  std::string cases;
};

std::vector<Reference> References() {
  std::vector<Reference> list;
  for (const std::string name : {"gpt_neox", "llama2", "llama3", "qwen2"}) {
    const std::string folder = "/tests/fixtures/tokenizers/" + name;
    list.push_back({name, folder + "/tokenizer.json", folder + "/cases.json"});
  }
  const std::string demo = "/tools/demo/model";
  list.push_back({"demo", demo + "/tokenizer.json", demo + "/reference/tokenizer_cases.json"});
  return list;
}

Ids ReadIds(const Json& array) {
  Ids ids;
  for (const Json& id : array.AsArray()) ids.push_back(id.AsInt());
  return ids;
}

class TokenizerReferenceTest : public ::testing::TestWithParam<Reference> {
 protected:
  void SetUp() override {
    const std::string root = PQCACHE_SOURCE_DIR;
    auto tokenizer = Tokenizer::Load(root + GetParam().tokenizer);
    ASSERT_OK(tokenizer);
    tokenizer_ = std::make_unique<Tokenizer>(std::move(*tokenizer));
    const auto text = ReadFile(root + GetParam().cases, uint64_t{1} << 26);
    ASSERT_OK(text);
    auto cases = Json::Parse(*text);
    ASSERT_OK(cases);
    cases_ = std::move(*cases);
    ASSERT_GE(cases_.AsArray().size(), 10u);
  }

  std::string Stream(const Ids& ids, bool skip_special) const {
    StreamDecoder decoder(tokenizer_.get(), skip_special);
    std::string all;
    const auto add = [&](const Result<std::string>& piece) {
      EXPECT_OK(piece);
      EXPECT_EQ(FindInvalidUtf8(*piece), std::string::npos);
      all += *piece;
    };
    for (const int64_t id : ids) add(decoder.Push(id));
    add(decoder.Finish());
    return all;
  }

  void ExpectDecoding(const Ids& ids, bool skip_special, const Json* expected) const {
    const auto text = tokenizer_->Decode(ids, skip_special);
    ASSERT_OK(text);
    if (expected != nullptr) {
      EXPECT_EQ(*text, expected->AsString());
    }
    EXPECT_EQ(Stream(ids, skip_special), *text);
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  Json cases_;
};

TEST_P(TokenizerReferenceTest, EveryCase) {
  for (const Json& c : cases_.AsArray()) {
    const std::string text = c.GetString("text").value();
    SCOPED_TRACE(::testing::PrintToString(text));
    const Ids ids = ReadIds(*c.Find("ids"));
    const auto encoded = tokenizer_->Encode(text, true);
    ASSERT_OK(encoded);
    EXPECT_EQ(*encoded, ids);
    if (const Json* plain = c.Find("ids_no_special"); plain != nullptr) {
      const auto without = tokenizer_->Encode(text, false);
      ASSERT_OK(without);
      EXPECT_EQ(*without, ReadIds(*plain));
    }
    ExpectDecoding(ids, true, c.Find("decoded"));
    ExpectDecoding(ids, false, c.Find("decoded_keep_special"));
  }
}

// Any sequence of ids, broken characters included, streams to what Decode gives.
TEST_P(TokenizerReferenceTest, EveryIdStreams) {
  Ids ids;
  for (int64_t step : {1, 7}) {
    for (int64_t id = 0; id < tokenizer_->vocab_size(); id += step) {
      if (tokenizer_->Decode(Ids{id}, false).ok()) ids.push_back(id);
    }
  }
  ASSERT_GE(ids.size(), 1500u);
  ExpectDecoding(ids, false, nullptr);
  ExpectDecoding(ids, true, nullptr);
}

// All the texts as one, many times over: words come back, and a text without a pre-tokeniser is a
// single word of half a megabyte, which only an O(n log n) merge gets through.
TEST_P(TokenizerReferenceTest, LongTextComesBack) {
  std::string text = "x";
  while (text.size() < size_t{1} << 19) {
    for (const Json& c : cases_.AsArray()) {
      if (c.Find("text")->AsString().find('<') == std::string::npos) {
        text += c.Find("text")->AsString();
      }
    }
  }
  const auto ids = tokenizer_->Encode(text, false);
  ASSERT_OK(ids);
  const auto once = tokenizer_->Decode(*ids, true);
  ASSERT_OK(once);
  const auto again = tokenizer_->Encode(*once, false);
  ASSERT_OK(again);
  EXPECT_EQ(*again, *ids);
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerReferenceTest, ::testing::ValuesIn(References()),
                         [](const auto& param) { return param.param.name; });

}  // namespace
}  // namespace pqcache::attention
