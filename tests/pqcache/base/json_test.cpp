#include "pqcache/base/json.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include "tests/support/status_matchers.h"

namespace pqcache {
namespace {

using testing::ExpectError;

Json MustParse(std::string_view text) {
  Result<Json> json = Json::Parse(text);
  PQCACHE_CHECK(json.ok(), json.status().message().c_str());
  return *std::move(json);
}

std::string Nested(int depth) {
  return std::string(static_cast<size_t>(depth), '[') +
         std::string(static_cast<size_t>(depth), ']');
}

TEST(Json, ParsesEveryKind) {
  const Json json = MustParse(
      R"( {"n": null, "t": true, "i": -3, "d": 0.5, "s": "xéy\n", "a": [1, []], "o": {"": 2}} )");
  ASSERT_TRUE(json.is_object());
  EXPECT_TRUE(json.Find("n")->is_null());
  EXPECT_TRUE(json.Find("t")->AsBool());
  EXPECT_EQ(json.Find("i")->AsInt(), -3);
  EXPECT_EQ(json.Find("d")->AsDouble(), 0.5);
  EXPECT_FALSE(json.Find("d")->is_int());
  EXPECT_EQ(json.Find("s")->AsString(), "x\xc3\xa9y\n");
  ASSERT_EQ(json.Find("a")->AsArray().size(), 2u);
  EXPECT_TRUE(json.Find("a")->AsArray()[1].is_array());
  EXPECT_EQ(json.Find("o")->Find("")->AsInt(), 2);
  EXPECT_EQ(json.Find("absent"), nullptr);
  EXPECT_EQ(json.Find("a")->Find("x"), nullptr);  // an array has no members
}

TEST(Json, DumpsWhatItParsed) {
  for (const std::string_view text :
       {"null", "true", "false", "0", "-0.0", "-1", "0.1", "1e+300", "5e-324", "\"\"", "[]", "{}",
        R"({"b":1,"a":[true,null,"x"],"c":{"d":[]}})",  // order kept
        R"("\"\\\n\t\r\u0000\u001f/")"}) {
    EXPECT_EQ(MustParse(text).Dump(), text);
  }
}

TEST(Json, IndentedDumpParsesToTheSame) {
  const std::string_view text = R"({"a":[1,2.5,{"b":[]}],"c":{},"d":"x"})";
  const std::string indented = MustParse(text).Dump(2);
  EXPECT_NE(indented.find("\n  \"a\": "), std::string::npos) << indented;
  EXPECT_EQ(MustParse(indented).Dump(), text);
}

TEST(Json, DoublesKeepTheirValue) {
  for (const double v : {0.1, 1.0 / 3, 1e22, 1e-7, 123456789012345678.0, 1.7976931348623157e308,
                         2.2250738585072014e-308, -1.0, 1e19, -1e19}) {
    EXPECT_EQ(MustParse(Json(v).Dump()).AsDouble(), v) << Json(v).Dump();
  }
  EXPECT_EQ(Json(std::nan("")).Dump(), "null");
  EXPECT_EQ(Json(HUGE_VAL).Dump(), "null");
}

TEST(Json, WholeDoublesCanKeepTheirPoint) {
  const Json json = *Json::Parse(R"({"a": [0.0, 1, 1.0, -0.0, 0.3, 1e30], "b": 2.0})");
  EXPECT_EQ(json.Dump(), R"({"a":[0,1,1,-0.0,0.3,1e+30],"b":2})");
  const std::string kept = json.Dump(-1, Json::Doubles::kWithPoint);
  EXPECT_EQ(kept, R"({"a":[0.0,1,1.0,-0.0,0.3,1e+30],"b":2.0})");
  EXPECT_EQ(Json::Parse(kept)->Dump(-1, Json::Doubles::kWithPoint), kept);
}

TEST(Json, IntegersKeepTheirEdges) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
  EXPECT_EQ(MustParse("9223372036854775807").AsInt(), kMax);
  EXPECT_EQ(MustParse("-9223372036854775808").AsInt(), kMin);
  EXPECT_EQ(Json(kMin).Dump(), "-9223372036854775808");
  // One beyond is still a number, but no integer.
  for (const std::string_view text : {"9223372036854775808", "18446744073709551616"}) {
    const Json json = MustParse(text);
    EXPECT_TRUE(json.is_number() && !json.is_int()) << text;
    EXPECT_GE(json.AsDouble(), 0x1p63) << text;
  }
  EXPECT_FALSE(MustParse("-9223372036854775809").is_int());
}

TEST(Json, RefusesNumbersThatAreNotFinite) {
  for (const std::string_view text : {"1e400", "-1e400", "[1, 1e999]"}) {
    EXPECT_EQ(Json::Parse(text).status().code(), StatusCode::kCorruption) << text;
  }
  ExpectError(Json::Parse("1e400"), StatusCode::kCorruption, "1e400");
  for (const std::string_view text : {"NaN", "Infinity", "-Infinity", "inf"}) {
    EXPECT_FALSE(Json::Parse(text).ok()) << text;
  }
}

TEST(Json, RefusesDuplicateKeysAtAnyLevel) {
  ExpectError(Json::Parse(R"({"a":1,"b":2,"a":3})"), StatusCode::kCorruption, "\"a\" occurs twice");
  ExpectError(Json::Parse(R"([{"x":{"k":1,"k":1}}])"), StatusCode::kCorruption, "\"k\"");
  ExpectError(Json::Parse(R"({"a":1,"\u0061":2})"), StatusCode::kCorruption, "\"a\" occurs twice");
  EXPECT_OK(Json::Parse(R"({"a":{"a":1},"b":{"a":2}})"));  // other objects do not count
}

TEST(Json, RefusesNestingBeyondTheLimit) {
  EXPECT_OK(Json::Parse(Nested(64)));
  ExpectError(Json::Parse(Nested(65)), StatusCode::kCorruption, "deeper than 64");
  EXPECT_OK(Json::Parse(Nested(3), {.max_depth = 3}));
  EXPECT_OK(Json::Parse(R"([{"a":[1]},[[2]]])", {.max_depth = 3}));
  EXPECT_FALSE(Json::Parse(R"([{"a":[{}]}])", {.max_depth = 3}).ok());
  EXPECT_OK(Json::Parse("1", {.max_depth = 0}));
  EXPECT_FALSE(Json::Parse("[]", {.max_depth = 0}).ok());
  EXPECT_FALSE(Json::Parse(std::string(1 << 20, '[')).ok());  // a short stack must survive this
}

TEST(Json, RefusesTextBeyondTheSizeLimit) {
  EXPECT_OK(Json::Parse("[1,2]", {.max_bytes = 5}));
  ExpectError(Json::Parse("[1,2]", {.max_bytes = 4}), StatusCode::kInvalidArgument,
              "has 5 bytes, expected at most 4");
}

TEST(Json, RefusesMalformedText) {
  using std::string_view_literals::operator""sv;
  for (const std::string_view text :
       {"",       " ",           "{",        "[1,]",         "{\"a\":1,}", "{a:1}",     "'a'",
        "01",     "+1",          ".5",       "1.",           "0x10",       "tru",       "\"\\x\"",
        "\"\n\"", "\"\\ud800\"", "\"\xff\"", "\"\xc0\x80\"", "[1 2]",      "{\"a\" 1}", "// c\n1",
        "1 2",    "{} {}",       "[]]",      "null,",        "{1:2}"}) {
    EXPECT_EQ(Json::Parse(text).status().code(), StatusCode::kCorruption) << text;
  }
  for (const std::string_view text : {"1\0"sv, "\0"sv, "\"a\0b\""sv, "{}\0{}"sv}) {
    ExpectError(Json::Parse(text), StatusCode::kCorruption, "NUL at byte");
  }
  ExpectError(Json::Parse("{\"a\": tru}"), StatusCode::kCorruption, "byte 10");
}

TEST(Json, GettersNameTheKeyAndWhatWasFound) {
  const Json json = MustParse(R"({"i":1,"d":1.5,"b":true,"s":"x","n":null,"a":[]})");
  EXPECT_EQ(*json.GetInt("i"), 1);
  EXPECT_EQ(*json.GetDouble("d"), 1.5);
  EXPECT_EQ(*json.GetDouble("i"), 1.0);  // an integer is a number
  EXPECT_TRUE(*json.GetBool("b"));
  EXPECT_EQ(*json.GetString("s"), "x");
  ExpectError(json.GetInt("d"), StatusCode::kInvalidArgument,
              "\"d\" is a number, expected an integer");
  ExpectError(json.GetInt("b"), StatusCode::kInvalidArgument, "\"b\" is true/false");
  ExpectError(json.GetDouble("s"), StatusCode::kInvalidArgument, "\"s\" is a string");
  ExpectError(json.GetBool("a"), StatusCode::kInvalidArgument, "\"a\" is an array");
  ExpectError(json.GetString("n"), StatusCode::kInvalidArgument, "\"n\" is null");
  ExpectError(json.GetString("zz"), StatusCode::kInvalidArgument, "\"zz\" is absent");
  ExpectError(MustParse("[1]").GetInt("i"), StatusCode::kInvalidArgument, "absent");
}

TEST(Json, OptionalMembersTakeNullForAbsent) {
  const Json json = MustParse(R"({"n":null,"i":1,"d":1.5,"b":true,"s":"x"})");
  for (const char* key : {"n", "absent"}) {
    EXPECT_EQ(*json.IntOr(key, 7), 7);
    EXPECT_EQ(*json.DoubleOr(key, 0.5), 0.5);
    EXPECT_TRUE(*json.BoolOr(key, true));
    EXPECT_EQ(*json.StringOr(key, "y"), "y");
  }
  EXPECT_EQ(*json.IntOr("i", 7), 1);
  EXPECT_EQ(*json.DoubleOr("d", 0.5), 1.5);
  EXPECT_TRUE(*json.BoolOr("b", false));
  EXPECT_EQ(*json.StringOr("s", "y"), "x");
  EXPECT_FALSE(json.IntOr("d", 7).ok());
  EXPECT_FALSE(json.DoubleOr("s", 7).ok());
  EXPECT_FALSE(json.BoolOr("i", false).ok());
  EXPECT_FALSE(json.StringOr("b", "").ok());
}

TEST(Json, BuildsObjectsAndArrays) {
  Json json;
  json.Set("a", 1).Set("b", Json().Push(true).Push("x")).Set("a", size_t{2});
  EXPECT_EQ(json.Dump(), R"({"a":2,"b":[true,"x"]})");
  EXPECT_EQ(Json(std::string_view("v")).Dump(), "\"v\"");
  EXPECT_EQ(Json(Json::Array{1, 2.5}).Dump(), "[1,2.5]");
}

}  // namespace
}  // namespace pqcache
