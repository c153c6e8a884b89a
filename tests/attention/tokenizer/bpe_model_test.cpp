#include "attention/tokenizer/bpe_model.h"

#include <gtest/gtest.h>

#include <map>

#include "attention/tokenizer/byte_spelling.h"
#include "attention/tokenizer/unicode.h"
#include "pqcache/base/file_io.h"
#include "pqcache/base/random.h"
#include "tests/attention/tokenizer/mini_tokenizer.h"
#include "tests/support/status_matchers.h"

namespace pqcache::attention {
namespace {

using Ids = std::vector<int64_t>;

Result<BpeModel> FromText(const std::string& json) {
  return BpeModel::FromJson(Json::Parse(json).value());
}

Ids Tokenize(const BpeModel& model, std::string_view word) {
  Ids ids;
  model.Tokenize(word, &ids);
  return ids;
}

Ids MiniIds(const std::string& model_options, std::string_view word) {
  MiniTokenizer mini;
  mini.model_options = model_options;
  const auto model = FromText(mini.Model());
  EXPECT_OK(model);
  return Tokenize(*model, word);
}

TEST(BpeModelTest, MergesGoByRankThenFromTheLeft) {
  EXPECT_EQ(MiniIds(R"("unk_token": null)", "abc"), (Ids{4, 3}));
  EXPECT_EQ(MiniIds(R"("unk_token": null)", "bcabb"), (Ids{5, 4, 2}));
  EXPECT_EQ(MiniIds(R"("unk_token": null)", ""), Ids());
}

TEST(BpeModelTest, UnknownCharacters) {
  EXPECT_EQ(MiniIds(R"("unk_token": "<unk>")", "aéüb"), (Ids{1, 0, 0, 2}));
  EXPECT_EQ(MiniIds(R"("unk_token": "<unk>", "fuse_unk": true)", "éüabéxü"), (Ids{0, 4, 0}));
  EXPECT_EQ(MiniIds(R"("unk_token": null)", "aéb"), (Ids{4}));
}

TEST(BpeModelTest, IgnoreMergesTakesWholeWords) {
  MiniTokenizer mini;
  mini.merges = "[]";
  mini.model_options = R"("ignore_merges": true)";
  const auto model = FromText(mini.Model());
  ASSERT_OK(model);
  EXPECT_EQ(Tokenize(*model, "ab"), (Ids{4}));
  EXPECT_EQ(Tokenize(*model, "abc"), (Ids{1, 2, 3}));
}

std::string VocabWithBytes(const std::string& extra, int left_out) {
  std::string vocab = R"({"a": 0)" + extra;
  for (int byte = 0; byte < 256; ++byte) {
    if (byte == left_out) continue;
    vocab += ", \"" + ByteToken(static_cast<uint8_t>(byte)) + "\": " + std::to_string(byte + 10);
  }
  return vocab + "}";
}

TEST(BpeModelTest, ByteFallback) {
  MiniTokenizer mini;
  mini.merges = "[]";
  mini.model_options = R"("byte_fallback": true)";
  mini.vocab = VocabWithBytes("", -1);
  const auto model = FromText(mini.Model());
  ASSERT_OK(model);
  EXPECT_EQ(Tokenize(*model, "aé"), (Ids{0, 0xC3 + 10, 0xA9 + 10}));
  mini.vocab = VocabWithBytes("", 0x41);
  testing::ExpectError(FromText(mini.Model()), StatusCode::kCorruption, "<0x41>");
  for (const char* bad : {"<0xab>", "<0x+1>"}) {
    mini.vocab = VocabWithBytes(std::string(", \"") + bad + "\": 1", -1);
    testing::ExpectError(FromText(mini.Model()), StatusCode::kCorruption, bad);
  }
}

TEST(BpeModelTest, DamageIsNamed) {
  const auto expect_corrupt = [](auto&& change, const std::string& piece) {
    MiniTokenizer mini;
    change(mini);
    testing::ExpectError(FromText(mini.Model()), StatusCode::kCorruption, piece);
  };
  const auto with_vocab = [](const char* text) {
    return [text](MiniTokenizer& m) {
      m.vocab = text;
      m.merges = "[]";
    };
  };
  const auto with_merges = [](const char* text) {
    return [text](MiniTokenizer& m) { m.merges = text; };
  };
  expect_corrupt(with_vocab(R"({"a": 0, "b": 0})"), "id 0 belongs to \"a\" and to \"b\"");
  expect_corrupt(with_vocab(R"({"a": -1})"), "id of \"a\" is -1");
  expect_corrupt(with_vocab(R"({"a": 2097152})"), "2097152");
  expect_corrupt(with_vocab(R"({"a": 9223372036854775808})"), "\"a\"");
  expect_corrupt(with_vocab(R"({"a": 1.5})"), "1.5");
  expect_corrupt(with_merges(R"(["a x"])"), "\"x\" is not in the vocabulary");
  expect_corrupt(with_merges(R"(["c a"])"), "\"ca\" is not in the vocabulary");
  expect_corrupt(with_merges(R"(["a b", ["a", "b"]])"), "occurs twice");
  for (const char* bad : {"[\"ab\"]", "[\"a b c\"]", "[[\"a\"]]", "[[\"a\", 1]]", "[3]"}) {
    expect_corrupt(with_merges(bad), "is not ");
  }
  expect_corrupt([](MiniTokenizer& m) { m.model_options = R"("unk_token": "?")"; },
                 "unk_token \"?\"");
  MiniTokenizer at_limit;
  at_limit.vocab = R"({"a": 2097151})";
  at_limit.merges = "[]";
  at_limit.model_options = R"("unk_token": null)";
  EXPECT_OK(FromText(at_limit.Model()));
}

TEST(BpeModelTest, UnknownOptionsAreRefusedByName) {
  for (const char* option : {R"("dropout": 0.1)", R"("continuing_subword_prefix": "##")",
                             R"("end_of_word_suffix": "</w>")", R"("sampling": true)"}) {
    MiniTokenizer mini;
    mini.model_options = option;
    const std::string name = std::string(option).substr(1, std::string(option).find(':') - 2);
    testing::ExpectError(FromText(mini.Model()), StatusCode::kUnsupported, name);
  }
  testing::ExpectError(FromText(R"({"type": "Unigram", "vocab": []})"), StatusCode::kUnsupported,
                       "Unigram");
  MiniTokenizer neutral;
  neutral.model_options =
      R"("dropout": null, "continuing_subword_prefix": "", "end_of_word_suffix": null)";
  EXPECT_OK(FromText(neutral.Model()));
}

// The textbook form: look for the best pair again after every merge.
class SlowBpe {
 public:
  explicit SlowBpe(const Json& model) : model_(model) {
    const Json::Array& merges = model.Find("merges")->AsArray();
    for (size_t i = 0; i < merges.size(); ++i) {
      ranks_[{merges[i].AsArray()[0].AsString(), merges[i].AsArray()[1].AsString()}] = i;
    }
  }
  Ids Tokenize(std::string_view word) const {
    std::vector<std::string> parts;
    for (size_t pos = 0; pos < word.size(); pos += parts.back().size()) {
      parts.emplace_back(word.substr(pos, ReadUtf8(word, pos).length));
    }
    while (true) {
      size_t best = parts.size();
      size_t best_rank = ranks_.size();
      for (size_t i = 0; i + 1 < parts.size(); ++i) {
        const auto it = ranks_.find({parts[i], parts[i + 1]});
        if (it == ranks_.end() || it->second >= best_rank) continue;
        best = i;
        best_rank = it->second;
      }
      if (best == parts.size()) break;
      parts[best] += parts[best + 1];
      parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    }
    Ids ids;
    for (const std::string& part : parts) ids.push_back(*model_.Find("vocab")->GetInt(part));
    return ids;
  }

 private:
  const Json& model_;
  std::map<std::pair<std::string, std::string>, size_t> ranks_;
};

TEST(BpeModelTest, AgreesWithTheTextbook) {
  const auto text =
      ReadFile(std::string(PQCACHE_SOURCE_DIR) + "/tests/fixtures/tokenizers/qwen2/tokenizer.json",
               uint64_t{1} << 26);
  ASSERT_OK(text);
  const Json json = Json::Parse(*text).value();
  const auto model = BpeModel::FromJson(*json.Find("model"));
  ASSERT_OK(model);
  const SlowBpe slow(*json.Find("model"));
  Random random(17);
  const std::string_view letters = "etaoinshrdlu ";
  for (int i = 0; i < 300; ++i) {
    std::string word;
    const uint64_t length = 1 + random.Below(40);
    for (uint64_t j = 0; j < length; ++j) word += letters[random.Below(letters.size())];
    const std::string spelled = SpellBytes(word);
    ASSERT_EQ(Tokenize(*model, spelled), slow.Tokenize(spelled)) << word;
  }
}

}  // namespace
}  // namespace pqcache::attention
