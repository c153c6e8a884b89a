// Passwords and TLS against real servers.

#include <gtest/gtest.h>
#include <stdlib.h>

#include <memory>
#include <string>
#include <vector>

#include "storage/resp_page_store.h"
#include "tests/storage/page_samples.h"
#include "tests/support/redis_cluster.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace pqcache::storage {
namespace {

using namespace pqcache::testing;

Result<std::unique_ptr<PageStore>> Open(const std::string& spec) {
  return RespPageStore::Open(ParseSpec(spec).value());
}

void ExpectWorks(const std::string& spec) {
  auto store = Open(spec);
  ASSERT_OK(store);
  std::vector<PageWrite> pages;
  for (int page = 0; page < 300; ++page) {
    const PageKey key = SampleKey("a", page, page % 3);
    pages.push_back({key, SamplePage(key, 0, 64)});  // 64 KiB each
  }
  ASSERT_OK((*store)->Put(pages));
  for (const PageWrite& write : pages) {
    const PageRead read = ReadPage(store->get(), write.key);
    ASSERT_OK(read.status);
    EXPECT_TRUE(SameBytes(read.page, write.page));
  }
}

class RespLoginTest : public ::testing::Test {
 protected:
  RespLoginTest() { Clear(); }
  ~RespLoginTest() override { Clear(); }
  static void Clear() {
    ::unsetenv(kRespPasswordVariable);
    ::unsetenv(kRespUrlVariable);
  }
};

TEST_F(RespLoginTest, LogsInWithAPassword) {
  RespOptions client;
  client.password = "open sesame";
  auto server = RedisServer::Start({"--requirepass", client.password}, client);
  ASSERT_OK(server);
  (*server)->MustAsk({"ACL", "SETUSER", "ann", "on", ">p@ss", "~pq:*", "+@all"});
  const std::string spec = (*server)->spec();
  ExpectError(Open(spec), StatusCode::kInvalidArgument, kRespPasswordVariable);
  ::setenv(kRespPasswordVariable, "close sesame", 1);
  const Status wrong = Open(spec).status();
  ExpectError(wrong, StatusCode::kInvalidArgument, "WRONGPASS");
  EXPECT_EQ(wrong.message().find("sesame"), std::string::npos);
  ::setenv(kRespPasswordVariable, "open sesame", 1);
  ExpectWorks(spec);
  ::setenv(kRespPasswordVariable, "p@ss", 1);
  ExpectWorks(spec + ",user=ann");
  Clear();
  const std::string at = (*server)->address().ToString();
  ::setenv(kRespUrlVariable, ("redis://ann:p%40ss@" + at).c_str(), 1);
  ExpectWorks("resp");
  ::setenv(kRespUrlVariable, ("redis://:open%20sesame@" + at).c_str(), 1);
  ExpectWorks("resp");
}

TEST_F(RespLoginTest, RefusesAPasswordThatTheServerDoesNotWant) {
  auto server = RedisServer::Start();
  ASSERT_OK(server);
  ::setenv(kRespPasswordVariable, "secret", 1);
  ExpectError(Open((*server)->spec()), StatusCode::kInvalidArgument, "AUTH is answered by ERR");
}

// A server whose certificate, its own authority, is for `names`.
class TlsServer {
 public:
  explicit TlsServer(const std::string& names) {
    const std::string command =
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        "-subj /CN=test -addext subjectAltName=" +
        names + " -keyout " + dir_.File("key.pem") + " -out " + ca() + " 2>" +
        dir_.File("openssl.log");
    made_ = std::system(command.c_str()) == 0;
  }
  // `host` is what it is called by.
  Status Start(const std::string& host = "127.0.0.1") {
    if (!made_) return Status::IoError("openssl makes no certificate");
    RespOptions client;
    client.tls = true;
    client.ca_file = ca();
    PQCACHE_ASSIGN_OR_RETURN(
        server_,
        RedisServer::Start({"--tls-cert-file", ca(), "--tls-key-file", dir_.File("key.pem"),
                            "--tls-auth-clients", "no", "--tls-ca-cert-file", ca()},
                           client, host));
    return Status::Ok();
  }
  std::string ca() const { return dir_.File("cert.pem"); }
  std::string port() const { return std::to_string(server_->address().port); }

 private:
  TempDir dir_;
  bool made_ = false;
  std::unique_ptr<RedisServer> server_;
};

// A redis-server built without TLS knows no such option.
#define SKIP_WITHOUT_TLS(status)                                               \
  if (!(status).ok() && (status).message().find("tls") != std::string::npos && \
      (status).message().find("FATAL CONFIG") != std::string::npos) {          \
    GTEST_SKIP() << "this redis-server has no TLS: " << (status).message();    \
  }

TEST_F(RespLoginTest, SpeaksTlsToAServerItCanTrust) {
  TlsServer server("IP:127.0.0.1,DNS:localhost");
  const Status started = server.Start();
  SKIP_WITHOUT_TLS(started);
  ASSERT_OK(started);
  const std::string at = ",port=" + server.port() + ",timeout_ms=1000";
  ExpectWorks("resp:host=127.0.0.1,tls=true,ca=" + server.ca() + at);
  ExpectWorks("resp:host=localhost,tls=true,ca=" + server.ca() + at);
  ::setenv(kRespUrlVariable, ("rediss://127.0.0.1:" + server.port()).c_str(), 1);
  ExpectWorks("resp:ca=" + server.ca());

  ExpectError(Open("resp:host=127.0.0.1,tls=true" + at), StatusCode::kIoError,
              "certificate is refused");
  ExpectError(Open("resp:host=127.0.0.1,tls=true,ca=/nowhere.pem" + at),
              StatusCode::kInvalidArgument, "/nowhere.pem");
  EXPECT_FALSE(Open("resp:host=127.0.0.1" + at).ok()) << "without TLS";
}

TEST_F(RespLoginTest, RefusesACertificateOfAnotherHost) {
  TlsServer server("DNS:localhost");
  const Status started = server.Start("localhost");
  SKIP_WITHOUT_TLS(started);
  ASSERT_OK(started);
  const std::string rest = ",tls=true,ca=" + server.ca() + ",port=" + server.port();
  ExpectWorks("resp:host=localhost" + rest);
  ExpectError(Open("resp:host=127.0.0.1" + rest), StatusCode::kIoError, "IP address mismatch");
}

TEST_F(RespLoginTest, GivesUpOnTlsToAServerWithout) {
  auto server = RedisServer::Start();
  ASSERT_OK(server);
  const auto start = RespClock::now();
  ExpectError(Open((*server)->spec() + ",tls=true,timeout_ms=500"), StatusCode::kIoError, "");
  EXPECT_LT(RespClock::now() - start, std::chrono::seconds(3));
}

}  // namespace
}  // namespace pqcache::storage
