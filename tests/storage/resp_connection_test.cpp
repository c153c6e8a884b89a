// What a connection and a breaker do with servers that misbehave.

#include "storage/resp_connection.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "storage/resp_node.h"
#include "storage/resp_transport.h"
#include "tests/support/scripted_server.h"
#include "tests/support/status_matchers.h"

namespace pqcache::storage {
namespace {

using namespace pqcache::testing;
using namespace std::chrono_literals;
using Peer = ScriptedServer::Peer;

// Less than any deadline of these tests plus what a busy machine adds.
constexpr auto kMargin = 1500ms;

struct Outcome {
  Status status;
  RespClock::duration took;
  bool usable;
};

// One exchange of `commands` PINGs with 300 ms to do it.
Outcome ExchangeWith(ScriptedServer::Script script, size_t commands = 1) {
  ScriptedServer server(std::move(script));
  const auto start = RespClock::now();
  const auto deadline = start + 300ms;
  auto connection = RespConnection::Connect(server.address(), {}, deadline).value();
  std::string request;
  for (size_t i = 0; i < commands; ++i) AppendCommand({"PING"}, &request);
  const Status status = connection->Exchange(request, commands, deadline).status();
  const auto took = RespClock::now() - start;
  return {status, took, connection->Usable()};
}

void ExpectFailure(const Outcome& outcome, const std::string& piece) {
  ExpectError(outcome.status, StatusCode::kIoError, piece);
  EXPECT_LT(outcome.took, kMargin);
  EXPECT_FALSE(outcome.usable) << "replies may be outstanding";
}

TEST(RespConnection, GivesRepliesInOrder) {
  const Outcome outcome = ExchangeWith(
      [](Peer& peer) {
        peer.NextCommand();
        peer.Send("+PONG\r\n$1\r");
        peer.Trickle("\nx\r\n", 1ms);
        peer.Stall();
      },
      2);
  EXPECT_OK(outcome.status);
  EXPECT_TRUE(outcome.usable);
}

TEST(RespConnection, GivesUpOnASilentServer) {
  ExpectFailure(ExchangeWith([](Peer& peer) { peer.Stall(); }), "time limit");
}

TEST(RespConnection, GivesUpOnHalfAReply) {
  ExpectFailure(ExchangeWith([](Peer& peer) {
                  peer.NextCommand();
                  peer.Send("$100\r\nhalf");
                  peer.Stall();
                }),
                "time limit");
}

TEST(RespConnection, GivesUpOnAServerThatTrickles) {
  ExpectFailure(ExchangeWith([](Peer& peer) {
                  peer.NextCommand();
                  peer.Trickle("$200\r\n" + std::string(200, 'x'), 50ms);
                }),
                "time limit");
}

TEST(RespConnection, ReportsAConnectionClosedInAReply) {
  const Outcome outcome = ExchangeWith([](Peer& peer) {
    peer.NextCommand();
    peer.Send("$100\r\nhalf");
  });
  ExpectFailure(outcome, "");
  EXPECT_LT(outcome.took, 300ms);
}

TEST(RespConnection, ReportsGarbage) {
  ExpectFailure(ExchangeWith([](Peer& peer) {
                  peer.NextCommand();
                  peer.Send("HTTP/1.1 400 Bad Request\r\n\r\n");
                  peer.Stall();
                }),
                "expected RESP2");
}

TEST(RespConnection, ReportsMoreThanWasAsked) {
  ExpectFailure(ExchangeWith([](Peer& peer) {
                  peer.NextCommand();
                  peer.Send("+PONG\r\n+PONG\r\n");
                  peer.Stall();
                }),
                "more than it was asked");
}

TEST(RespConnection, PassesOnErrorsOfTheServer) {
  const Outcome outcome = ExchangeWith([](Peer& peer) {
    peer.NextCommand();
    peer.Send("-ERR not today\r\n");
    peer.Stall();
  });
  EXPECT_OK(outcome.status);
  EXPECT_TRUE(outcome.usable);
}

// Both sides have far more to say than sockets hold, and this server speaks first.
TEST(RespConnection, ReadsWhileItWrites) {
  ScriptedServer server([](Peer& peer) {
    for (int i = 0; i < 64; ++i) peer.Send("$1048576\r\n" + std::string(1 << 20, 'x') + "\r\n");
    for (int i = 0; i < 65; ++i) peer.NextCommand();
    peer.Send("+PONG\r\n");
    peer.Stall();
  });
  const auto deadline = RespClock::now() + 20s;
  auto connection = RespConnection::Connect(server.address(), {}, deadline).value();
  std::string request;
  for (int i = 0; i < 64; ++i) AppendCommand({"SET", "k", std::string(1 << 20, 'y')}, &request);
  AppendCommand({"PING"}, &request);
  const auto replies = connection->Exchange(request, 65, deadline);
  ASSERT_OK(replies);
  EXPECT_EQ(replies->back().text, "PONG");
}

TEST(RespConnection, CannotConnectWhereNobodyListens) {
  const auto start = RespClock::now();
  ExpectError(RespConnection::Connect({"127.0.0.1", FreePort()}, {}, start + 300ms),
              StatusCode::kIoError, "connect");
  ExpectError(RespConnection::Connect({"no.such.host.invalid", 1}, {}, start + 300ms),
              StatusCode::kIoError, "look up host");
}

// A second write to a socket that the other side has closed raises SIGPIPE unless told not to.
TEST(RespConnection, WritesToAServerThatWentAwayWithoutASignal) {
  ScriptedServer server([](Peer&) {});
  auto transport = RespTransport::Connect(server.address(), {}, RespClock::now() + 1s).value();
  std::this_thread::sleep_for(100ms);
  short wait = 0;
  EXPECT_OK(transport->TryWrite("x", &wait));
  std::this_thread::sleep_for(50ms);
  ExpectError(transport->TryWrite("x", &wait), StatusCode::kIoError, "write");
}

TEST(RespConnection, KeepsThePasswordToItself) {
  RespOptions options;
  options.password = "secret";
  for (const char* answer : {"-ERR unknown command 'AUTH', with args beginning with: 'secret'\r\n",
                             "-secret\r\n", "-WRONGPASS invalid\r\n"}) {
    ScriptedServer server([&](Peer& peer) {
      peer.NextCommand();
      peer.Send(answer);
      peer.Stall();
    });
    const Status status =
        RespConnection::Connect(server.address(), options, RespClock::now() + 1s).status();
    ExpectError(status, StatusCode::kInvalidArgument, "AUTH is answered by");
    EXPECT_EQ(status.message().find("secret"), std::string::npos);
  }
}

TEST(CircuitBreaker, OpensAfterFailuresInARowAndTriesAgain) {
  CircuitBreaker breaker;
  const RespClock::time_point t{};
  for (int i = 0; i < 2; ++i) {
    EXPECT_TRUE(breaker.Allow(t));
    breaker.Failed(t);
  }
  breaker.Succeeded();
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(breaker.Allow(t));
    breaker.Failed(t);
  }
  EXPECT_FALSE(breaker.Allow(t));
  EXPECT_FALSE(breaker.Allow(t + 1999ms));
  EXPECT_TRUE(breaker.Allow(t + 2s));
  EXPECT_FALSE(breaker.Allow(t + 2s)) << "one trial at a time";
  breaker.Failed(t + 3s);
  EXPECT_FALSE(breaker.Allow(t + 4s));
  EXPECT_TRUE(breaker.Allow(t + 5s));
  breaker.Succeeded();
  EXPECT_TRUE(breaker.Allow(t + 5s));
  EXPECT_TRUE(breaker.Allow(t + 5s));
}

TEST(RespNode, SparesASilentServer) {
  ScriptedServer server([](Peer& peer) { peer.Stall(); });
  const RespOptions options;
  RespNode node(server.address(), &options);
  std::string request;
  AppendCommand({"PING"}, &request);
  for (int i = 0; i < 3; ++i) {
    ExpectError(node.Exchange(request, 1, RespClock::now() + 50ms), StatusCode::kIoError,
                server.address().ToString());
  }
  const auto start = RespClock::now();
  ExpectError(node.Exchange(request, 1, start + 5s), StatusCode::kIoError, "is left alone");
  EXPECT_LT(RespClock::now() - start, 1s);
  EXPECT_EQ(server.connections(), 3);
}

// As a server does that is restarted, or has a time limit for idle clients.
TEST(RespNode, ReplacesAConnectionThatWasClosed) {
  ScriptedServer server([](Peer& peer) {
    for (const char* answer : {"+PONG\r\n", "-ERR unknown command 'CONFIG'\r\n", "+PONG\r\n"}) {
      peer.NextCommand();
      peer.Send(answer);
    }
  });
  const RespOptions options;
  RespNode node(server.address(), &options);
  std::string request;
  AppendCommand({"PING"}, &request);
  for (int i = 0; i < 3; ++i) {
    EXPECT_OK(node.Exchange(request, 1, RespClock::now() + 1s));
    std::this_thread::sleep_for(50ms);
  }
  EXPECT_EQ(server.connections(), 3);
}

TEST(RespNode, UsesAConnectionAgain) {
  ScriptedServer server(ScriptedServer::Standalone([](Peer&, const std::vector<std::string>&) {}));
  const RespOptions options;
  RespNode node(server.address(), &options);
  std::string request;
  AppendCommand({"PING"}, &request);
  for (int i = 0; i < 5; ++i) EXPECT_OK(node.Exchange(request, 1, RespClock::now() + 1s));
  EXPECT_EQ(server.connections(), 1);
}

}  // namespace
}  // namespace pqcache::storage
