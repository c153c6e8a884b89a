// Damaged files: Parse gives an error or a tokenizer that works, and never more than that.

#include <gtest/gtest.h>

#include <algorithm>

#include "attention/tokenizer/tokenizer.h"
#include "attention/tokenizer/unicode.h"
#include "pqcache/base/file_io.h"
#include "pqcache/base/random.h"
#include "tests/attention/tokenizer/mini_tokenizer.h"
#include "tests/support/status_matchers.h"

namespace pqcache::attention {
namespace {

constexpr char kText[] = "Hello  wörld <s>123<|endoftext|>\r\n\tab'LL 中😀 e\u0301 abc";

// How often Parse succeeded.
class Damage {
 public:
  void Try(const std::string& json) {
    const auto tokenizer = Tokenizer::Parse(json);
    if (!tokenizer.ok()) {
      EXPECT_FALSE(tokenizer.status().message().empty());
      return;
    }
    ++parsed_;
    const auto ids = tokenizer->Encode(kText, true);
    ASSERT_OK(ids);
    for (const int64_t id : *ids) ASSERT_LT(id, tokenizer->vocab_size());
    const auto text = tokenizer->Decode(*ids, false);
    ASSERT_OK(text);
    EXPECT_EQ(FindInvalidUtf8(*text), std::string::npos);
    StreamDecoder stream(&*tokenizer, false);
    std::string streamed;
    for (const int64_t id : *ids) streamed += stream.Push(id).value();
    EXPECT_EQ(streamed + stream.Finish().value(), *text);
  }
  int parsed() const { return parsed_; }

 private:
  int parsed_ = 0;
};

// `json` with a few of its first `limit` bytes changed: a bit, any byte, or a digit, which often
// leaves it well-formed.
std::string Flipped(std::string json, size_t limit, Random* random) {
  const uint64_t changes = 1 + random->Below(3);
  for (uint64_t i = 0; i < changes; ++i) {
    const size_t at = random->Below(std::min(limit, json.size()));
    switch (random->Below(3)) {
      case 0:
        json[at] = static_cast<char>(json[at] ^ (1 << random->Below(8)));
        break;
      case 1:
        json[at] = static_cast<char>(random->Below(256));
        break;
      default:
        if (const size_t digit = json.find_first_of("0123456789", at); digit != json.npos) {
          json[digit] = static_cast<char>('0' + random->Below(10));
        }
    }
  }
  return json;
}

std::string Fixture(const std::string& name) {
  auto text = ReadFile(
      std::string(PQCACHE_SOURCE_DIR) + "/tests/fixtures/tokenizers/" + name + "/tokenizer.json",
      uint64_t{1} << 26);
  EXPECT_OK(text);
  return std::move(*text);
}

TEST(TokenizerDamageTest, FlippedBytes) {
  Random random(5);
  Damage damage;
  for (const char* name : {"gpt_neox", "llama2", "llama3", "qwen2"}) {
    const std::string json = Fixture(name);
    for (int i = 0; i < 60; ++i) damage.Try(Flipped(json, json.size(), &random));
    for (int i = 0; i < 60; ++i) damage.Try(Flipped(json, 4096, &random));
  }
  EXPECT_GT(damage.parsed(), 0);
}

TEST(TokenizerDamageTest, FlippedBytesOfASmallFile) {
  Random random(6);
  Damage damage;
  MiniTokenizer mini;
  mini.normalizer = R"({"type": "Sequence", "normalizers": [{"type": "NFC"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "b"}]})";
  mini.pre_tokenizer = R"({"type": "Sequence", "pretokenizers": [
      {"type": "Digits", "individual_digits": true}, {"type": "Metaspace", "replacement": "b"}]})";
  mini.decoder = R"({"type": "Sequence", "decoders": [{"type": "ByteFallback"},
      {"type": "Fuse"}, {"type": "Strip", "content": "b", "start": 1, "stop": 1}]})";
  const std::string json = mini.Json();
  ASSERT_OK(Tokenizer::Parse(json));
  for (int i = 0; i < 5000; ++i) damage.Try(Flipped(json, json.size(), &random));
  EXPECT_GT(damage.parsed(), 100);
}

TEST(TokenizerDamageTest, CutFilesAreErrors) {
  Random random(7);
  for (const char* name : {"gpt_neox", "llama2", "llama3", "qwen2"}) {
    const std::string json = Fixture(name);
    const size_t end = json.find_last_of('}');
    for (int i = 0; i < 30; ++i) {
      EXPECT_FALSE(Tokenizer::Parse(std::string_view(json).substr(0, random.Below(end))).ok());
    }
  }
  const std::string small = MiniTokenizer().Json();
  for (size_t size = 0; size < small.size(); ++size) {
    EXPECT_FALSE(Tokenizer::Parse(std::string_view(small).substr(0, size)).ok()) << size;
  }
}

}  // namespace
}  // namespace pqcache::attention
