#include "pqcache/base/spec_string.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string_view>

#include "tests/support/status_matchers.h"

namespace pqcache {
namespace {

using testing::ExpectError;

TEST(ParseSpec, SplitsNameAndArguments) {
  EXPECT_EQ(ParseSpec("exact")->name, "exact");
  EXPECT_TRUE(ParseSpec("exact")->args.empty());
  const SpecString spec = *ParseSpec("tiered:hot=64M,path=/a=b:c,flag,empty=");
  EXPECT_EQ(spec.name, "tiered");
  ASSERT_EQ(spec.args.size(), 4u);
  EXPECT_EQ(spec.args.at("hot"), "64M");
  EXPECT_EQ(spec.args.at("path"), "/a=b:c");  // only the first ':' and '=' divide
  EXPECT_EQ(spec.args.at("flag"), "true");
  EXPECT_EQ(spec.args.at("empty"), "");
}

TEST(ParseSpec, RefusesWhatIsIncomplete) {
  for (const std::string_view text : {"", ":a=1"}) {
    ExpectError(ParseSpec(text), StatusCode::kInvalidArgument, "has no name");
  }
  for (const std::string_view text : {"x:", "x:=1", "x:a=1,", "x:,a=1", "x:a,,b"}) {
    ExpectError(ParseSpec(text), StatusCode::kInvalidArgument, "has an empty parameter");
  }
  ExpectError(ParseSpec("x:a=1,b,a=2"), StatusCode::kInvalidArgument, "gives 'a' twice");
}

TEST(SpecString, CheckKnownListsTheKnownOnes) {
  const SpecString spec = *ParseSpec("pq:codes=1,mode=2");
  constexpr std::string_view kKnown[] = {"mode", "codes"};
  EXPECT_OK(spec.CheckKnown(kKnown));
  constexpr std::string_view kOthers[] = {"mode", "code"};
  ExpectError(spec.CheckKnown(kOthers), StatusCode::kInvalidArgument,
              "pq: unknown parameter 'codes', expected one of: mode, code");
  ExpectError(spec.CheckKnown({}), StatusCode::kInvalidArgument, "expected none");
  EXPECT_OK(ParseSpec("pq")->CheckKnown({}));
}

TEST(SpecString, TypedArguments) {
  const SpecString spec = *ParseSpec("s:n=4k,yes,no=false,one=1,zero=0,word=maybe");
  EXPECT_EQ(*spec.IntOr("n", 7), 4096);
  EXPECT_EQ(*spec.IntOr("absent", -7), -7);
  ExpectError(spec.IntOr("word", 7), StatusCode::kInvalidArgument, "s:word is 'maybe'");
  EXPECT_TRUE(*spec.BoolOr("yes", false));
  EXPECT_FALSE(*spec.BoolOr("no", true));
  EXPECT_TRUE(*spec.BoolOr("one", false));
  EXPECT_FALSE(*spec.BoolOr("zero", true));
  EXPECT_TRUE(*spec.BoolOr("absent", true));
  ExpectError(ParseSpec("s:bare")->IntOr("bare", 7), StatusCode::kInvalidArgument,
              "s:bare has no number, expected a whole number");
  ExpectError(spec.BoolOr("word", true), StatusCode::kInvalidArgument,
              "s:word is 'maybe', expected true or false");
  EXPECT_EQ(spec.StringOr("word", "x"), "maybe");
  EXPECT_EQ(spec.StringOr("absent", "x"), "x");
}

TEST(ParseCount, AcceptsSuffixes) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  const struct {
    std::string_view text;
    int64_t value;
  } rows[] = {{"0", 0},
              {"7", 7},
              {"256", 256},
              {"16k", 16 << 10},
              {"16K", 16 << 10},
              {"512m", 512 << 20},
              {"512M", 512 << 20},
              {"3g", int64_t{3} << 30},
              {"3G", int64_t{3} << 30},
              {"9223372036854775807", kMax},
              {"9007199254740991k", int64_t{9007199254740991} << 10},
              {"8796093022207M", int64_t{8796093022207} << 20},
              {"8589934591G", int64_t{8589934591} << 30}};
  for (const auto& row : rows) {
    const Result<int64_t> value = ParseCount(row.text, "size");
    ASSERT_OK(value);
    EXPECT_EQ(*value, row.value) << row.text;
  }
}

TEST(ParseCount, RefusesEverythingElse) {
  for (const std::string_view text : {"",
                                      " ",
                                      "-1",
                                      "-1k",
                                      "+1",
                                      "1.5",
                                      "1.5k",
                                      "k",
                                      "1kk",
                                      "1kB",
                                      "1 k",
                                      " 1",
                                      "1 ",
                                      "0x10",
                                      "1e3",
                                      "1T",
                                      "nan",
                                      "9223372036854775808",
                                      "9007199254740992k",
                                      "8796093022208M",
                                      "8589934592G",
                                      "99999999999999999999"}) {
    const Result<int64_t> value = ParseCount(text, "budget");
    ExpectError(value, StatusCode::kInvalidArgument, "budget is '" + std::string(text) + "'");
  }
}

}  // namespace
}  // namespace pqcache
