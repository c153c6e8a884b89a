#include "attention/model/safetensors_header.h"

#include <gtest/gtest.h>

#include <string>

#include "pqcache/base/coding.h"
#include "pqcache/base/random.h"
#include "tests/attention/model/safetensors_bytes.h"
#include "tests/support/status_matchers.h"

namespace pqcache::attention {
namespace {

using ::pqcache::testing::ExpectError;

// All of a file's rules, on bytes in memory.
Result<SafetensorsHeader> ParseBytes(const std::string& bytes) {
  PQCACHE_ASSIGN_OR_RETURN(const uint64_t length,
                           ParseSafetensorsLength(bytes.substr(0, 64), bytes.size()));
  return ParseSafetensorsHeader(std::string_view(bytes).substr(8, length),
                                bytes.size() - 8 - length);
}

Result<SafetensorsHeader> ParseParts(const std::string& header, size_t data_bytes) {
  return ParseBytes(SafetensorsBytes(header, std::string(data_bytes, 'd')));
}

std::string Tensor(const std::string& name, const std::string& dtype, const std::string& shape,
                   const std::string& offsets) {
  return "\"" + name + R"(": {"dtype": ")" + dtype + R"(", "shape": )" + shape +
         R"(, "data_offsets": )" + offsets + "}";
}

TEST(SafetensorsHeader, ReadsTensorsAndMetadata) {
  const Result<SafetensorsHeader> header = ParseParts(
      "{\"__metadata__\": {\"format\": \"pt\"}, " + Tensor("b", "BF16", "[2, 3]", "[4, 16]") +
          ", " + Tensor("a", "F32", "[1]", "[0, 4]") + "}   ",
      16);
  ASSERT_OK(header);
  EXPECT_EQ(header->metadata, (std::map<std::string, std::string>{{"format", "pt"}}));
  ASSERT_EQ(header->tensors.size(), 2u);
  const TensorInfo& b = header->tensors.at("b");
  EXPECT_EQ(b.dtype_name, "BF16");
  EXPECT_EQ(b.dtype, DType::kBF16);
  EXPECT_TRUE(b.readable);
  EXPECT_EQ(b.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(b.bytes, 12u);
  EXPECT_EQ(b.offset, 4u);
}

TEST(SafetensorsHeader, EmptyScalarAndZeroSizeTensorsAreLegal) {
  EXPECT_OK(ParseParts("{}", 0));
  const Result<SafetensorsHeader> header = ParseParts(
      "{" + Tensor("z", "F32", "[0, 4611686018427387904]", "[4, 4]") + ", " +
          Tensor("scalar", "F32", "[]", "[0, 4]") + ", " + Tensor("after", "U8", "[1]", "[4, 5]") +
          ", " + Tensor("y", "F64", "[3, 0]", "[0, 0]") + "}",
      5);
  ASSERT_OK(header);
  EXPECT_EQ(header->tensors.at("scalar").bytes, 4u);
  EXPECT_EQ(header->tensors.at("z").bytes, 0u);
}

TEST(SafetensorsHeader, KnowsEveryDtypeOfTheFormat) {
  struct Row {
    const char* name;
    int bits;
    bool readable;
  };
  const Row rows[] = {
      {"F32", 32, true},     {"BF16", 16, true},        {"F16", 16, true},
      {"F64", 64, true},     {"I64", 64, true},         {"I32", 32, true},
      {"U8", 8, true},       {"BOOL", 8, false},        {"I8", 8, false},
      {"I16", 16, false},    {"U16", 16, false},        {"U32", 32, false},
      {"U64", 64, false},    {"C64", 64, false},        {"F8_E4M3", 8, false},
      {"F8_E5M2", 8, false}, {"F8_E8M0", 8, false},     {"F8_E4M3FNUZ", 8, false},
      {"F4", 4, false},      {"F8_E5M2FNUZ", 8, false}, {"F6_E2M3", 6, false},
      {"F6_E3M2", 6, false},
  };
  for (const Row& row : rows) {
    const int bytes = row.bits * 4 / 8;
    const Result<SafetensorsHeader> header = ParseParts(
        "{" + Tensor("t", row.name, "[4]", "[0, " + std::to_string(bytes) + "]") + "}", bytes);
    ASSERT_OK(header);
    EXPECT_EQ(header->tensors.at("t").readable, row.readable) << row.name;
  }
}

TEST(SafetensorsHeader, LengthLimits) {
  const auto length = [](uint64_t n, uint64_t file_bytes) {
    std::string start;
    PutFixed64(&start, n);
    return ParseSafetensorsLength(start, file_bytes);
  };
  EXPECT_OK(length(100'000'000, uint64_t{1} << 40));
  for (const uint64_t n : {uint64_t{100'000'001}, uint64_t{1} << 63, ~uint64_t{0}}) {
    ExpectError(length(n, ~uint64_t{0}), StatusCode::kCorruption,
                "header length is " + std::to_string(n) + ", expected at most 100000000");
  }
  EXPECT_OK(length(92, 100));
  ExpectError(length(93, 100), StatusCode::kCorruption, "93, expected at most the 92 bytes");
  ExpectError(ParseSafetensorsLength("1234567", 7), StatusCode::kCorruption, "has 7 bytes");
  ExpectError(ParseSafetensorsLength("", 0), StatusCode::kCorruption, "has 0 bytes");
  ExpectError(
      ParseSafetensorsLength("version https://git-lfs.github.com/spec/v1\noid sha256:0", 130),
      StatusCode::kCorruption, "is a git-lfs pointer");
}

struct Malformed {
  std::string header;
  size_t data_bytes;
  const char* message;
};

std::string One(const std::string& shape, const std::string& offsets) {
  return "{" + Tensor("t", "F32", shape, offsets) + "}";
}

const Malformed kMalformed[] = {
    {"", 0, "does not begin with '{'"},
    {" {}", 0, "does not begin with '{'"},
    {"\xef\xbb\xbf{}", 0, "does not begin with '{'"},
    {"[]", 0, "does not begin with '{'"},
    {"{}\n", 0, "does not end with '}'"},
    {std::string("{}\0", 3), 0, "does not end with '}'"},
    {std::string("{}\0 }", 5), 0, "does not end with '}'"},
    {"{} }", 0, "not valid JSON"},
    {"{}{}", 0, "not valid JSON"},
    {"{\"\xff\": 1}", 0, "not valid JSON"},
    {"{\"__metadata__\": {\"a\": \"\xc0\x80\"}}", 0, "not valid JSON"},
    {"{" + Tensor("t", "U8", "[0]", "[0, 0]") + "," + Tensor("t", "U8", "[0]", "[0, 0]") + "}", 0,
     "\"t\" occurs twice"},
    {R"({"__metadata__": {"a": "1", "a": "2"}})", 0, "\"a\" occurs twice"},
    {R"({"t": {"dtype": "U8", "dtype": "U8", "shape": [0], "data_offsets": [0, 0]}})", 0,
     "\"dtype\" occurs twice"},
    {R"({"t": {"x": [[[0]]]}})", 0, "nesting is deeper than 4"},
    {R"({"__metadata__": {"a": 1}})", 0, "an integer under \"a\", expected a string"},
    {R"({"__metadata__": ["a"]})", 0, "\"__metadata__\" is an array"},
    {R"({"__metadata__": null})", 0, "\"__metadata__\" is null"},
    {R"({"t": 5})", 0, "tensor \"t\": is an integer, expected an object"},
    {R"({"t": {"shape": [0], "data_offsets": [0, 0]}})", 0, "\"dtype\" is absent"},
    {R"({"t": {"dtype": 5, "shape": [0], "data_offsets": [0, 0]}})", 0, "\"dtype\" is an integer"},
    {"{" + Tensor("t", "F33", "[0]", "[0, 0]") + "}", 0, "\"dtype\" is \"F33\""},
    {"{" + Tensor("t", "f32", "[0]", "[0, 0]") + "}", 0, "\"dtype\" is \"f32\""},
    {"{" + Tensor("t", "F4", "[3]", "[0, 2]") + "}", 2, "has 12 bits, expected whole bytes"},
    {R"({"t": {"dtype": "U8", "data_offsets": [0, 0]}})", 0, "\"shape\" is absent"},
    {One("4", "[0, 4]"), 4, "\"shape\" is an integer, expected an array"},
    {One("[-1]", "[0, 4]"), 4, "\"shape\" has -1"},
    {One("[1.0]", "[0, 4]"), 4, "\"shape\" has 1"},
    {One("[\"1\"]", "[0, 4]"), 4, "\"shape\" has \"1\""},
    {One("[true]", "[0, 4]"), 4, "\"shape\" has true"},
    {One("[9223372036854775807]", "[0, 4]"), 4, "more elements than 64 bits"},
    {One("[9223372036854775808]", "[0, 4]"), 4, "\"shape\" has 9"},
    {One("[18446744073709551616]", "[0, 4]"), 4, "\"shape\" has 1"},
    {One("[4611686018427387904, 4]", "[0, 0]"), 0, "more elements than 64 bits"},
    {One("[2147483648, 2147483648, 2]", "[0, 0]"), 0, "more elements than 64 bits"},
    {R"({"t": {"dtype": "F32", "shape": [1]}})", 4, "\"data_offsets\" is absent"},
    {One("[1]", "[0]"), 4, "\"data_offsets\" has 1 numbers, expected 2"},
    {One("[1]", "[0, 4, 8]"), 4, "\"data_offsets\" has 3 numbers"},
    {One("[1]", "[-4, 0]"), 4, "\"data_offsets\" has -4"},
    {One("[1]", "[0.0, 4]"), 4, "\"data_offsets\" has 0"},
    {One("[1]", "[4, 0]"), 4, "are 4 and 0, expected the begin before the end"},
    {One("[1]", "[0, 5]"), 5, "are 0 and 5, expected 4 bytes"},
    {One("[2]", "[0, 4]"), 4, "are 0 and 4, expected 8 bytes"},
    {One("[1]", "[0, 9223372036854775807]"), 4, "expected 4 bytes"},
    {One("[1]", "[9223372036854775803, 9223372036854775807]"), 4, "expected 0, the end"},
    {One("[1]", "[0, 9223372036854775808]"), 4, "\"data_offsets\" has 9"},
    {One("[1]", "[1, 5]"), 5, "begins at 1, expected 0"},
    {One("[1]", "[0, 4]"), 5, "has 5 bytes of data, expected 4, the end of the last tensor"},
    {One("[1]", "[0, 4]"), 3, "is the file truncated?"},
    {"{}", 1, "has 1 bytes of data, expected 0"},
    {"{" + Tensor("a", "U8", "[4]", "[0, 4]") + "," + Tensor("b", "U8", "[4]", "[3, 7]") + "}", 7,
     "tensor \"b\" begins at 3, expected 4"},
    {"{" + Tensor("a", "U8", "[4]", "[0, 4]") + "," + Tensor("b", "U8", "[4]", "[5, 9]") + "}", 9,
     "tensor \"b\" begins at 5, expected 4"},
    {"{" + Tensor("a", "U8", "[4]", "[0, 4]") + "," + Tensor("b", "U8", "[4]", "[0, 4]") + "}", 4,
     "begins at 0, expected 4"},
    {"{" + Tensor("a", "U8", "[4]", "[0, 4]") + "," + Tensor("b", "U8", "[0]", "[2, 2]") + "}", 4,
     "tensor \"b\" begins at 2, expected 4"},
};

TEST(SafetensorsHeader, RefusesEveryBrokenRule) {
  for (const Malformed& c : kMalformed) {
    SCOPED_TRACE(c.header);
    ExpectError(ParseParts(c.header, c.data_bytes), StatusCode::kCorruption, c.message);
  }
}

TEST(SafetensorsHeader, DepthFourIsAllowed) {
  // Members that the format does not name are ignored.
  EXPECT_OK(
      ParseParts(R"({"t": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0], "x": [[0]]}})", 0));
}

TEST(SafetensorsHeader, MutatedFilesAreConsistentOrRefused) {
  const std::string good = SafetensorsBytes("{\"__metadata__\": {\"format\": \"pt\"}, " +
                                                Tensor("a", "F32", "[2, 2]", "[0, 16]") + ", " +
                                                Tensor("b", "BF16", "[3]", "[16, 22]") + ", " +
                                                Tensor("c", "I64", "[]", "[22, 30]") + "}",
                                            std::string(30, 'd'));
  ASSERT_OK(ParseBytes(good));
  Random random(17);
  int accepted = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string bytes = good;
    for (uint64_t flips = random.Below(3); flips > 0; --flips) {
      bytes[random.Below(bytes.size())] ^= static_cast<char>(1u << random.Below(8));
    }
    if (random.Below(4) == 0) bytes.resize(random.Below(bytes.size() + 1));
    const Result<SafetensorsHeader> header = ParseBytes(bytes);
    if (!header.ok()) continue;
    ++accepted;
    uint64_t total = 0;
    for (const auto& [name, info] : header->tensors) total += info.bytes;
    EXPECT_EQ(total, bytes.size() - 8 - GetFixed64(bytes.data()));
  }
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, 3500);
}

}  // namespace
}  // namespace pqcache::attention
