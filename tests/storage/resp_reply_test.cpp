#include "storage/resp_reply.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "pqcache/base/random.h"
#include "tests/support/status_matchers.h"

namespace pqcache::storage {
namespace {

using namespace pqcache::testing;
using namespace std::string_literals;
using Kind = RespReply::Kind;

const std::string kStream =
    "+OK\r\n-ERR no\r\n:-42\r\n$5\r\na\r\n\0b\r\n$0\r\n\r\n$-1\r\n*-1\r\n*0\r\n"
    "*3\r\n*2\r\n:1\r\n$1\r\nx\r\n$-1\r\n*1\r\n*1\r\n+deep\r\n"s;

void ExpectStream(const std::vector<RespReply>& r) {
  ASSERT_EQ(r.size(), 9u);
  EXPECT_TRUE(r[0].is(Kind::kStatus) && r[0].text == "OK");
  EXPECT_TRUE(r[1].IsError("ERR"));
  EXPECT_FALSE(r[1].IsError("ER"));
  EXPECT_TRUE(r[2].is(Kind::kInteger) && r[2].integer == -42);
  EXPECT_TRUE(r[3].is(Kind::kString));
  EXPECT_EQ(r[3].text, std::string("a\r\n\0b", 5));
  EXPECT_TRUE(r[4].is(Kind::kString) && r[4].text.empty());
  EXPECT_TRUE(r[5].is(Kind::kNil));
  EXPECT_TRUE(r[6].is(Kind::kNil));
  EXPECT_TRUE(r[7].is(Kind::kArray) && r[7].elements.empty());
  ASSERT_EQ(r[8].elements.size(), 3u);
  EXPECT_EQ(r[8].elements[0].elements[1].text, "x");
  EXPECT_TRUE(r[8].elements[1].is(Kind::kNil));
  EXPECT_EQ(r[8].elements[2].elements[0].elements[0].text, "deep");
}

TEST(RespReply, ReadsEveryKind) {
  const Result<std::vector<RespReply>> replies = ParseReplies(kStream);
  ASSERT_OK(replies);
  ExpectStream(*replies);
  EXPECT_EQ(ParseReplies("").value().size(), 0u);
}

TEST(RespReply, ReadsTheSameWhereverTheBytesAreCut) {
  for (size_t cut = 0; cut <= kStream.size(); ++cut) {
    RespReader reader;
    std::vector<RespReply> replies;
    for (const std::string& part : {kStream.substr(0, cut), kStream.substr(cut)}) {
      reader.Feed(part);
      while (true) {
        Result<std::optional<RespReply>> reply = reader.Next();
        ASSERT_OK(reply);
        if (!reply->has_value()) break;
        replies.push_back(**std::move(reply));
      }
    }
    ExpectStream(replies);
    EXPECT_TRUE(reader.idle());
  }
}

TEST(RespReply, TellsAHalfReplyFromNone) {
  const std::string reply = "*2\r\n$3\r\nabc\r\n:12\r\n";
  for (size_t cut = 1; cut < reply.size(); ++cut) {
    ExpectError(ParseReplies(reply.substr(0, cut)), StatusCode::kCorruption, "within a reply");
    RespReader reader;
    reader.Feed(reply.substr(0, cut));
    EXPECT_FALSE(reader.Next().value().has_value());
    EXPECT_FALSE(reader.idle());
  }
}

TEST(RespReply, RefusesWhatIsNoReply) {
  for (const char* bytes : {"HTTP/1.1 200 OK\r\n\r\n", "\r\n", "$x\r\n", "$-2\r\n", "*-2\r\n",
                            "*x\r\n", ":x\r\n", ":\r\n", "$1\r\n\r\n!"}) {
    ExpectError(ParseReplies(bytes), StatusCode::kCorruption, "reply: ");
  }
}

// Announced sizes take nothing; what has come is limited.
TEST(RespReply, RefusesHostileSizes) {
  for (const char* size : {"67108865", "2147483648", "9223372036854775807"}) {
    RespReader reader;
    reader.Feed("$" + std::string(size) + "\r\n");
    ExpectError(reader.Next(), StatusCode::kCorruption, "announces a string");
  }
  RespReader patient;
  patient.Feed("*3\r\n$67108864\r\n");
  EXPECT_OK(patient.Next());
  for (const char* size : {"2147483648", "9223372036854775807", "99999999999999999999"}) {
    ExpectError(ParseReplies("*" + std::string(size) + "\r\n"), StatusCode::kCorruption, "reply: ");
  }
  RespReader arrays;
  arrays.Feed("*2147483647\r\n*2147483647\r\n*2147483647\r\n*2147483647\r\n:1\r\n");
  EXPECT_FALSE(arrays.Next().value().has_value());
  std::string deep;
  for (int i = 0; i < 1000; ++i) deep += "*1\r\n";
  ExpectError(ParseReplies(deep), StatusCode::kCorruption, "depth");
  ExpectError(ParseReplies("+" + std::string(kMaxLineBytes, 'a')), StatusCode::kCorruption, "line");
}

TEST(RespReply, LimitsTheElementsOfAReply) {
  const auto reply = [](uint64_t elements) {
    std::string bytes = "*" + std::to_string(elements) + "\r\n";
    for (uint64_t i = 0; i < elements; ++i) bytes += ":1\r\n";
    return bytes;
  };
  EXPECT_OK(ParseReplies(reply(kMaxReplyElements - 1)));  // and the array itself
  ExpectError(ParseReplies(reply(kMaxReplyElements)), StatusCode::kCorruption, "elements");
  // A limit of a reply, not of a stream.
  EXPECT_OK(ParseReplies(reply(kMaxReplyElements / 2) + reply(kMaxReplyElements / 2) +
                         reply(kMaxReplyElements / 2)));
}

TEST(RespReply, SurvivesRandomDamage) {
  Random random(1);
  for (int round = 0; round < 20000; ++round) {
    std::string bytes = kStream;
    for (uint64_t i = 0; i <= random.Below(3); ++i) {
      bytes[random.Below(bytes.size())] = static_cast<char>(random.Next());
    }
    const Result<std::vector<RespReply>> replies = ParseReplies(bytes);
    if (!replies.ok()) {
      EXPECT_EQ(replies.status().code(), StatusCode::kCorruption);
    }
  }
}

TEST(RespReply, DescribesRepliesInPrintableWords) {
  EXPECT_EQ(DescribeReply({Kind::kError, 0, "ERR a\x1b[31m", {}}), "error 'ERR a?[31m'");
  EXPECT_EQ(DescribeReply({Kind::kInteger, 5, "", {}}), "integer 5");
  EXPECT_LT(DescribeReply({Kind::kError, 0, std::string(5000, 'x'), {}}).size(), 200u);
}

TEST(RespCommandBytes, HoldAnyBytes) {
  std::string bytes;
  AppendCommand({"SET", "k\r\n", std::string_view("\0\xff", 2), ""}, &bytes);
  EXPECT_EQ(bytes, "*4\r\n$3\r\nSET\r\n$3\r\nk\r\n\r\n$2\r\n\0\xff\r\n$0\r\n\r\n"s);
  EXPECT_EQ(ParseReplies(bytes).value()[0].elements[2].text, std::string("\0\xff", 2));
}

}  // namespace
}  // namespace pqcache::storage
