#include "attention/model/shard_index.h"

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace pqcache::attention {
namespace {

using ::pqcache::testing::ExpectError;

TEST(ShardIndex, MapsTensorsToFiles) {
  const auto shards = ParseShardIndex(
      R"({"metadata": {"total_size": 9}, "weight_map": {"a": "model-1_of.2.safetensors",
          "b": "x.safetensors"}})");
  ASSERT_OK(shards);
  EXPECT_EQ(*shards, (std::map<std::string, std::string>{{"a", "model-1_of.2.safetensors"},
                                                         {"b", "x.safetensors"}}));
}

TEST(ShardIndex, RefusesNamesThatAreNotPlain) {
  const char* const names[] = {
      "../x.safetensors",
      "/etc/x.safetensors",
      "a/x.safetensors",
      "a\\\\x.safetensors",
      "x.bin",
      ".safetensors",
      "",
      "x.safetensors ",
      "x.safetensors\\u0000",
      "x\\n.safetensors",
      "\\u00e9.safetensors",
      "x.safetensors/",
      "..",
      "x.SAFETENSORS",
      "file:x.safetensors",
      "~.safetensors",
      "x%2f..%2fy.safetensors",
      "x.safetensors.bin",
  };
  for (const std::string name : names) {
    SCOPED_TRACE(name);
    ExpectError(ParseShardIndex(R"({"weight_map": {"t": ")" + name + "\"}}"),
                StatusCode::kCorruption, "for tensor \"t\", expected a plain name");
  }
}

TEST(ShardIndex, RefusesOtherShapesOfFile) {
  ExpectError(ParseShardIndex("{"), StatusCode::kCorruption, "not valid JSON");
  ExpectError(ParseShardIndex("[]"), StatusCode::kCorruption, "\"weight_map\" is absent");
  ExpectError(ParseShardIndex(R"({"weight_map": 3})"), StatusCode::kCorruption, "an integer");
  ExpectError(ParseShardIndex(R"({"weight_map": {}})"), StatusCode::kCorruption, "is empty");
  ExpectError(ParseShardIndex(R"({"weight_map": {"t": 1}})"), StatusCode::kCorruption,
              "has 1 for tensor \"t\"");
  ExpectError(ParseShardIndex(R"({"weight_map": {"t": "a.safetensors", "t": "b.safetensors"}})"),
              StatusCode::kCorruption, "\"t\" occurs twice");
}

}  // namespace
}  // namespace pqcache::attention
