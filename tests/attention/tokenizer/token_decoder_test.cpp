#include "attention/tokenizer/token_decoder.h"

#include <gtest/gtest.h>

#include "attention/tokenizer/unicode.h"
#include "tests/attention/tokenizer/mini_tokenizer.h"
#include "tests/support/status_matchers.h"

namespace pqcache::attention {
namespace {

using Pieces = std::vector<std::string>;

Result<TokenDecoder> FromText(const std::string& json) {
  return TokenDecoder::FromJson(Json::Parse(json).value());
}

std::string Sequence(const std::string& steps) {
  return R"({"type": "Sequence", "decoders": [)" + steps + "]}";
}

// What each token made certain, and what came at the end.
Pieces RunAll(const std::string& json, const Pieces& tokens) {
  const auto decoder = FromText(json);
  EXPECT_OK(decoder);
  TokenDecoderRun run(*decoder);
  Pieces pieces;
  for (const std::string& token : tokens) pieces.push_back(run.Push(token));
  pieces.push_back(run.Finish());
  for (const std::string& p : pieces) EXPECT_EQ(FindInvalidUtf8(p), std::string::npos);
  return pieces;
}

constexpr char kByteLevel[] = R"({"type": "ByteLevel", "add_prefix_space": true,
                                  "trim_offsets": true, "use_regex": true})";
constexpr char kFallback[] = R"({"type": "ByteFallback"})";
constexpr char kFuse[] = R"({"type": "Fuse"})";
constexpr char kReplace[] = R"({"type": "Replace", "pattern": {"String": "▁"}, "content": " "})";

std::string Strip(const std::string& content, int start, int stop) {
  return R"({"type": "Strip", "content": ")" + content + R"(", "start": )" + std::to_string(start) +
         R"(, "stop": )" + std::to_string(stop) + "}";
}

TEST(DecoderTest, ByteLevelHoldsUnfinishedCharactersBack) {
  EXPECT_EQ(RunAll(kByteLevel, {"Ġa", "Ã", "©b", "ðŁĺ", "Ģ"}),
            (Pieces{" a", "", "éb", "", "😀", ""}));
  EXPECT_EQ(RunAll(kByteLevel, {"ðŁĺ", "a", "Ã"}), (Pieces{"", "\uFFFDa", "", "\uFFFD"}));
  EXPECT_EQ(RunAll(kByteLevel, {"  ", "<|x|>", "中"}), (Pieces{"  ", "<|x|>", "中", ""}));
}

TEST(DecoderTest, ByteFallbackRunsAreCertainWhenTheyEnd) {
  const std::string json = Sequence(kFallback);
  EXPECT_EQ(RunAll(json, {"a", "<0xC3>", "<0xA9>", "b", "<0x41>"}),
            (Pieces{"a", "", "", "éb", "", "A"}));
  // One byte that does not fit spoils its whole run.
  EXPECT_EQ(RunAll(json, {"<0xC3>", "<0xA9>", "<0xFF>", "x"}),
            (Pieces{"", "", "", "\uFFFD\uFFFD\uFFFDx", ""}));
  EXPECT_EQ(RunAll(json, {"<0xF0>", "<0x9F>"}), (Pieces{"", "", "\uFFFD\uFFFD"}));
}

TEST(DecoderTest, StripAfterFuseWorksOnTheWholeText) {
  const std::string steps = std::string(kReplace) + "," + kFallback + "," + kFuse + ",";
  const std::string llama = Sequence(steps + Strip(" ", 1, 0));
  EXPECT_EQ(RunAll(llama, {"▁▁a", "▁b"}), (Pieces{" a", " b", ""}));
  EXPECT_EQ(RunAll(llama, {"▁", "▁", "b"}), (Pieces{"", " ", "b", ""}));
  EXPECT_EQ(RunAll(llama, {"b", "▁"}), (Pieces{"b", " ", ""}));
  EXPECT_EQ(RunAll(llama, {"<0x20>", "▁a"}), (Pieces{"", " a", ""}));
  EXPECT_EQ(RunAll(llama, {}), (Pieces{""}));
  const std::string both = Sequence(steps + Strip(" ", 0, 2));
  EXPECT_EQ(RunAll(both, {"a▁", "▁", "▁b▁", "▁▁"}), (Pieces{"a", "", "   b", " ", ""}));
  const std::string end = Sequence(steps + Strip("é", 1, 1));
  EXPECT_EQ(RunAll(end, {"é", "xé"}), (Pieces{"", "x", ""}));
}

TEST(DecoderTest, StripBeforeFuseWorksOnEachToken) {
  EXPECT_EQ(RunAll(Strip("H", 1, 0), {"Hey", "HHH"}), (Pieces{"ey", "HH", ""}));
  EXPECT_EQ(RunAll(Strip("y", 0, 1), {"Hey", "y", "yes"}), (Pieces{"He", "", "yes", ""}));
}

TEST(DecoderTest, MetaspaceDropsTheReplacementsOfTheFirstToken) {
  const auto metaspace = [](const std::string& scheme) {
    return R"({"type": "Metaspace", "replacement": "▁", "prepend_scheme": ")" + scheme + "\"}";
  };
  EXPECT_EQ(RunAll(metaspace("always"), {"▁a▁b", "▁c"}), (Pieces{"ab", " c", ""}));
  EXPECT_EQ(RunAll(metaspace("first"), {"▁", "▁c"}), (Pieces{"", " c", ""}));
  EXPECT_EQ(RunAll(metaspace("never"), {"▁a", "▁c"}), (Pieces{" a", " c", ""}));
}

TEST(DecoderTest, UnknownIsRefusedByName) {
  const auto expect_unsupported = [](const std::string& json, const std::string& piece) {
    testing::ExpectError(FromText(json), StatusCode::kUnsupported, piece);
  };
  expect_unsupported("null", "null");
  expect_unsupported(R"({"type": "WordPiece", "prefix": "##"})", "WordPiece");
  expect_unsupported(Sequence(R"({"type": "CTC"})"), "CTC");
  expect_unsupported(Sequence(std::string(kFuse) + "," + kReplace), "Replace: found after Fuse");
  expect_unsupported(R"({"type": "Fuse", "with": "-"})", "with");
  expect_unsupported(R"({"type": "Replace", "pattern": {"Regex": "a+"}, "content": ""})", "a+");
  testing::ExpectError(FromText(Strip("ab", 1, 0)), StatusCode::kInvalidArgument, "content");
  testing::ExpectError(FromText(Strip("a", -1, 0)), StatusCode::kInvalidArgument, "start");
}

TEST(DecoderTest, StepsThatTogetherGrowATextTooMuchAreRefused) {
  const auto doubled = [](int steps) { return Sequence(DoublingSteps(steps)); };
  EXPECT_EQ(RunAll(doubled(6), {"a"})[0].size(), 64u);
  for (const int steps : {7, 40}) {
    testing::ExpectError(FromText(doubled(steps)), StatusCode::kUnsupported,
                         "Replace: could make a text 128");
  }
}

}  // namespace
}  // namespace pqcache::attention
