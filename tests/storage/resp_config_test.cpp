#include "storage/resp_config.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <string>

#include "tests/support/status_matchers.h"

namespace pqcache::storage {
namespace {

using namespace pqcache::testing;

class RespConfigTest : public ::testing::Test {
 protected:
  RespConfigTest() { Clear(); }
  ~RespConfigTest() override { Clear(); }
  static void Clear() {
    ::unsetenv(kRespPasswordVariable);
    ::unsetenv(kRespUrlVariable);
  }
  static Result<RespConfig> Read(const std::string& spec) {
    return ReadRespConfig(ParseSpec(spec).value());
  }
};

TEST_F(RespConfigTest, ReadsASpec) {
  const Result<RespConfig> plain = Read("resp:host=h,port=7000");
  ASSERT_OK(plain);
  EXPECT_EQ(plain->seeds.at(0).ToString(), "h:7000");
  EXPECT_EQ(plain->options.timeout.count(), 2000);
  EXPECT_FALSE(plain->options.tls);
  EXPECT_EQ(Read("resp:host=h")->seeds.at(0).port, 6379);
  EXPECT_EQ(Read("resp:host=::1")->seeds.at(0).ToString(), "[::1]:6379");
  const Result<RespConfig> several = Read("resp:host=a/b:7001/[::1]:7002/::2,port=7000");
  ASSERT_OK(several);
  std::string all;
  for (const RespAddress& seed : several->seeds) all += seed.ToString() + " ";
  EXPECT_EQ(all, "a:7000 b:7001 [::1]:7002 [::2]:7000 ");
  ::setenv(kRespPasswordVariable, "secret", 1);
  const Result<RespConfig> full = Read("resp:host=h,tls,ca=/x.pem,user=u,timeout_ms=50");
  ASSERT_OK(full);
  EXPECT_TRUE(full->options.tls);
  EXPECT_EQ(full->options.ca_file, "/x.pem");
  EXPECT_EQ(full->options.user, "u");
  EXPECT_EQ(full->options.password, "secret");
  EXPECT_EQ(full->options.timeout.count(), 50);
}

TEST_F(RespConfigTest, RefusesWhatCannotBeUsed) {
  const struct {
    const char* spec;
    const char* piece;
  } cases[] = {{"resp:host=h,password=secret", kRespPasswordVariable},
               {"resp:host=h,colour=red", "unknown parameter 'colour'"},
               {"resp:host=", "host is '' and has no host"},
               {"resp:host=a//b", "has no host"},
               {"resp:host=a:x", "port is 'x'"},
               {"resp:port=7000", "no host"},
               {"resp", kRespUrlVariable},
               {"resp:host=h,port=0", "port is '0'"},
               {"resp:host=h,port=65536", "port is '65536'"},
               {"resp:host=h,port=x", "port is 'x'"},
               {"resp:host=h,timeout_ms=0", "timeout_ms is 0"},
               {"resp:host=h,timeout_ms=1G", "timeout_ms"},
               {"resp:host=h,tls=perhaps", "tls is 'perhaps'"},
               {"resp:host=h,ca=/x.pem", "ca is set without TLS"},
               {"resp:host=h,user=u", "without a password"}};
  for (const auto& c : cases) {
    ExpectError(Read(c.spec), StatusCode::kInvalidArgument, c.piece);
    EXPECT_EQ(Read(c.spec).status().message().find("secret"), std::string::npos);
  }
}

TEST_F(RespConfigTest, ReadsAnAddressFromTheEnvironment) {
  const struct {
    const char* url;
    const char* address;
    bool tls;
    const char* user;
    const char* password;
  } cases[] = {{"redis://h", "h:6379", false, "", ""},
               {"redis://h:7000/", "h:7000", false, "", ""},
               {"rediss://u:p@h:7000/0", "h:7000", true, "u", "p"},
               {"redis://:p@[::1]:7000", "[::1]:7000", false, "", "p"},
               {"redis://u:p%40%3a@h", "h:6379", false, "u", "p@:"},
               {"redis://u:a@b/c@h:1", "h:1", false, "u", "a@b/c"}};
  for (const auto& c : cases) {
    ::setenv(kRespUrlVariable, c.url, 1);
    const Result<RespConfig> config = Read("resp");
    ASSERT_OK(config);
    EXPECT_EQ(config->seeds.at(0).ToString(), c.address);
    EXPECT_EQ(config->options.tls, c.tls);
    EXPECT_EQ(config->options.user, c.user);
    EXPECT_EQ(config->options.password, c.password);
  }
  ::setenv(kRespUrlVariable, "redis://u:p@a:1,b", 1);
  EXPECT_EQ(Read("resp")->seeds.at(1).ToString(), "b:6379");
  EXPECT_EQ(Read("resp:host=other")->seeds.at(0).host, "other");
  EXPECT_EQ(Read("resp:timeout_ms=7")->options.timeout.count(), 7);
}

TEST_F(RespConfigTest, NeverShowsTheAddressWithItsPassword) {
  for (const char* url :
       {"http://u:secret@h", "redis://u:secret@", "redis://u:secret@h:0", "redis://u:secret@h:x",
        "redis://u:secret%4@h", "redis://u:secret%zz@h", "redis://u:secret@h/3",
        "redis://u:secret@h?x=1", "redis://u:secret@[::1", "redis://u:secret@[::1]x", "secret"}) {
    ::setenv(kRespUrlVariable, url, 1);
    const Result<RespConfig> config = Read("resp");
    ExpectError(config, StatusCode::kInvalidArgument, kRespUrlVariable);
    EXPECT_EQ(config.status().message().find("secret"), std::string::npos) << url;
  }
}

}  // namespace
}  // namespace pqcache::storage
