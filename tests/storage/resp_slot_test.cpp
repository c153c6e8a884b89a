#include "storage/resp_slot.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "storage/resp_keys.h"
#include "storage/resp_slot_map.h"
#include "tests/storage/page_samples.h"
#include "tests/support/status_matchers.h"

namespace pqcache::storage {
namespace {

using namespace pqcache::testing;

TEST(RespSlot, KnowsThePublishedValues) {
  EXPECT_EQ(Crc16("123456789"), 0x31C3);
  EXPECT_EQ(Crc16(""), 0);
  EXPECT_EQ(KeySlot("123456789"), 0x31C3 % kRespSlots);
  EXPECT_EQ(KeySlot("foo"), 12182);
  EXPECT_EQ(KeySlot("bar"), 5061);
}

TEST(RespSlot, HashesWhatStandsInTheFirstBraces) {
  EXPECT_EQ(KeySlot("{user1000}.following"), KeySlot("user1000"));
  EXPECT_EQ(KeySlot("{user1000}.followers"), KeySlot("user1000"));
  EXPECT_EQ(KeySlot("foo{bar}{zap}"), KeySlot("bar"));
  EXPECT_EQ(KeySlot("foo{{bar}}zap"), KeySlot("{bar"));
  for (const char* whole : {"foo{}{bar}", "foo{bar", "foo}bar{", "{}"}) {
    EXPECT_EQ(KeySlot(whole), Crc16(whole) % kRespSlots) << whole;
  }
}

TEST(RespKeys, KeepALayerOnOneSlotAndAreDistinct) {
  const PageKey key = SampleKey("a", 7, 3, 1);
  const std::string name = RespContextName(key.context);
  EXPECT_EQ(name.size(), 32u);
  EXPECT_EQ(RespPageKey(key), "pq:{" + name + "/L3}:r1:7");
  PageKey codes = key;
  codes.kind = PageKind::kCodes;
  EXPECT_EQ(RespPageKey(codes), "pq:{" + name + "/L3}:c1:7");
  const std::string prefix = RespLayerPrefix(name, "3");
  EXPECT_EQ(KeySlot(RespPageKey(key)), KeySlot(RespPagesKey(prefix)));
  EXPECT_EQ(RespLayersKey(name), "pq:{" + name + "}:layers");
  EXPECT_NE(RespContextName(SampleContext("b")), name);
  EXPECT_NE(RespContextName(SampleContext("a", "other tenant")), name);
}

// ":7000" is what a server says that has not learned its own address yet.
std::string Node(const std::string& host, int port) {
  return "*3\r\n$" + std::to_string(host.size()) + "\r\n" + host + "\r\n:" + std::to_string(port) +
         "\r\n$2\r\nid\r\n";
}

Result<SlotMap> ParseMap(const std::string& bytes) {
  return ParseSlotMap(ParseReplies(bytes).value().front(), {"asked", 1});
}

TEST(RespSlotMap, ReadsClusterSlots) {
  const Result<SlotMap> map =
      ParseMap("*3\r\n*4\r\n:0\r\n:99\r\n" + Node("10.0.0.1", 7000) + Node("10.0.0.9", 7009) +
               "*3\r\n:100\r\n:100\r\n" + Node("", 7001) + "*3\r\n:200\r\n:16383\r\n" +
               Node("10.0.0.1", 7000));
  ASSERT_OK(map);
  ASSERT_EQ(map->nodes.size(), 2u);
  EXPECT_EQ(map->nodes[0].ToString(), "10.0.0.1:7000");
  EXPECT_EQ(map->nodes[1].ToString(), "asked:7001");
  EXPECT_EQ(map->owners[0], 0);
  EXPECT_EQ(map->owners[99], 0);
  EXPECT_EQ(map->owners[100], 1);
  EXPECT_EQ(map->owners[101], SlotMap::kNobody);
  EXPECT_EQ(map->owners[16383], 0);
}

TEST(RespSlotMap, GivesEverythingToAServerWithoutCluster) {
  for (const char* reply :
       {"-ERR This instance has cluster support disabled\r\n",
        "-ERR Cluster mode is not enabled\r\n", "-ERR unknown command 'CLUSTER'\r\n"}) {
    const Result<SlotMap> map = ParseMap(reply);
    ASSERT_OK(map);
    EXPECT_EQ(map->nodes.front().ToString(), "asked:1");
    EXPECT_EQ(std::count(map->owners.begin(), map->owners.end(), 0), kRespSlots);
  }
}

TEST(RespSlotMap, RefusesWhatIsNoMap) {
  ExpectError(ParseMap("-NOPERM no\r\n"), StatusCode::kIoError, "NOPERM");
  ExpectError(ParseMap("*0\r\n"), StatusCode::kIoError, "names no server");
  for (const std::string& range :
       {"*3\r\n:0\r\n:16384\r\n" + Node("a", 1), "*3\r\n:-1\r\n:5\r\n" + Node("a", 1),
        "*3\r\n:5\r\n:4\r\n" + Node("a", 1), "*3\r\n:0\r\n:5\r\n" + Node("a", 65536),
        "*3\r\n:0\r\n:5\r\n" + Node("a", 0), std::string("*2\r\n:0\r\n:5\r\n"),
        std::string("*3\r\n:0\r\n:5\r\n:7\r\n"), std::string(":1\r\n")}) {
    ExpectError(ParseMap("*1\r\n" + range), StatusCode::kIoError, "CLUSTER SLOTS");
  }
}

TEST(RespRedirection, ReadsMovedAndAsk) {
  const auto parse = [](const std::string& text) {
    return ParseRedirection({RespReply::Kind::kError, 0, text, {}}, {"asked", 1});
  };
  EXPECT_EQ(parse("MOVED 3999 127.0.0.1:6381")->to.ToString(), "127.0.0.1:6381");
  EXPECT_FALSE(parse("MOVED 3999 127.0.0.1:6381")->ask);
  EXPECT_TRUE(parse("ASK 3999 host:6381")->ask);
  EXPECT_EQ(parse("ASK 3999 :6381")->to.ToString(), "asked:6381");
  EXPECT_EQ(parse("MOVED 1 ::1:6381")->to.ToString(), "[::1]:6381");
  for (const char* other : {"MOVED", "MOVED 1 host", "MOVED 1 host:", "MOVED 1 host:0",
                            "MOVED 1 host:99999", "MOVED 1 host:12x", "MOVEDX 1 a:1", "ERR a:1"}) {
    EXPECT_FALSE(parse(other).has_value()) << other;
  }
}

}  // namespace
}  // namespace pqcache::storage
