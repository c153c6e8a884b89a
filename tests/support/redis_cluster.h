#pragma once

// Real redis-server processes on free ports of 127.0.0.1, one by one or as a cluster of masters,
// without persistence, in scratch folders. They are killed with their owner, and with the test
// program should it die first. One thread.

#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "pqcache/base/check.h"
#include "pqcache/base/file_io.h"
#include "pqcache/base/status.h"
#include "storage/resp_config.h"
#include "storage/resp_connection.h"
#include "storage/resp_reply.h"
#include "storage/resp_slot.h"
#include "tests/support/temp_dir.h"

namespace pqcache::testing {

// A socket that listens on a free port of 127.0.0.1.
inline std::pair<int, int> ListenOnLoopback() {
  addrinfo hints = {};
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST;
  addrinfo* at = nullptr;
  PQCACHE_CHECK(::getaddrinfo("127.0.0.1", "0", &hints, &at) == 0, "no loopback");
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  PQCACHE_CHECK(::bind(fd, at->ai_addr, at->ai_addrlen) == 0, "bind");
  ::freeaddrinfo(at);
  PQCACHE_CHECK(::listen(fd, 16) == 0, "listen");
  sockaddr_storage bound = {};
  socklen_t size = sizeof(bound);
  PQCACHE_CHECK(::getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size) == 0, "getsockname");
  char port[16];
  PQCACHE_CHECK(::getnameinfo(reinterpret_cast<sockaddr*>(&bound), size, nullptr, 0, port,
                              sizeof(port), NI_NUMERICSERV) == 0,
                "getnameinfo");
  return {fd, std::stoi(port)};
}

inline int FreePort() {
  const auto [fd, port] = ListenOnLoopback();
  ::close(fd);
  return port;
}

// Calls `done` until it is true, at most for `seconds`.
template <typename F>
bool Eventually(F&& done, double seconds = 15) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!done()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return true;
}

class RedisServer {
 public:
  using Args = std::vector<std::string>;

  // `client` and `host` are how the server is spoken to; with TLS it listens on a TLS port only.
  static Result<std::unique_ptr<RedisServer>> Start(Args extra = {},
                                                    storage::RespOptions client = {},
                                                    const std::string& host = "127.0.0.1") {
    std::unique_ptr<RedisServer> server(new RedisServer(std::move(extra), std::move(client), host));
    PQCACHE_RETURN_IF_ERROR(server->Restart());
    return server;
  }
  ~RedisServer() { Kill(); }
  RedisServer(const RedisServer&) = delete;
  RedisServer& operator=(const RedisServer&) = delete;

  // Same port, same folder; what it held is lost.
  Status Restart() {
    Kill();
    Spawn();
    if (Eventually([&] { return Exited() || Ask({"PING"}).ok(); }) && pid_ > 0) return Status::Ok();
    const Result<std::string> output = ReadFile(dir_.File("output"), 1 << 20);
    return Status::IoError("redis-server does not start, expected it in PATH: " +
                           (output.ok() ? *output : ""));
  }
  void Kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }
  // It keeps its connections and answers nobody.
  void Pause() { ::kill(pid_, SIGSTOP); }
  void Resume() { ::kill(pid_, SIGCONT); }

  storage::RespAddress address() const { return {host_, port_}; }
  int bus_port() const { return bus_port_; }
  std::string spec() const { return "resp:host=127.0.0.1,port=" + std::to_string(port_); }

  // One command over a connection of its own.
  Result<storage::RespReply> Ask(std::initializer_list<std::string_view> args) {
    const auto deadline = storage::RespClock::now() + std::chrono::seconds(5);
    PQCACHE_ASSIGN_OR_RETURN(const auto connection,
                             storage::RespConnection::Connect(address(), client_, deadline));
    std::string request;
    storage::AppendCommand(args, &request);
    PQCACHE_ASSIGN_OR_RETURN(std::vector<storage::RespReply> replies,
                             connection->Exchange(request, 1, deadline));
    return std::move(replies.front());
  }
  // The same for commands that must work.
  storage::RespReply MustAsk(std::initializer_list<std::string_view> args) {
    Result<storage::RespReply> reply = Ask(args);
    PQCACHE_CHECK(reply.ok(), reply.status().message().c_str());
    PQCACHE_CHECK(!reply->is(storage::RespReply::Kind::kError), reply->text.c_str());
    return *std::move(reply);
  }

 private:
  RedisServer(Args extra, storage::RespOptions client, std::string host)
      : extra_(std::move(extra)), client_(std::move(client)), host_(std::move(host)) {}

  void Spawn() {
    Args args = {"redis-server",
                 "--bind",
                 "127.0.0.1",
                 "--port",
                 client_.tls ? "0" : Port(),
                 "--cluster-port",
                 std::to_string(bus_port_),
                 "--dir",
                 dir_.path(),
                 "--save",
                 "",
                 "--appendonly",
                 "no",
                 "--daemonize",
                 "no"};
    if (client_.tls) args.insert(args.end(), {"--tls-port", Port()});
    args.insert(args.end(), extra_.begin(), extra_.end());
    std::vector<char*> argv;
    for (std::string& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    const std::string output = dir_.File("output");
    pid_ = ::fork();
    PQCACHE_CHECK(pid_ >= 0, "fork");
    if (pid_ > 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int fd = ::open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ::dup2(fd, 1);
    ::dup2(fd, 2);
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  bool Exited() {
    if (::waitpid(pid_, nullptr, WNOHANG) != pid_) return false;
    pid_ = 0;
    return true;
  }
  std::string Port() const { return std::to_string(port_); }

  const Args extra_;
  const storage::RespOptions client_;
  const std::string host_;
  const int port_ = FreePort();
  const int bus_port_ = FreePort();
  TempDir dir_;
  pid_t pid_ = 0;
};

// Masters that hold equal parts of the slots, in order.
class RedisCluster {
 public:
  static Result<std::unique_ptr<RedisCluster>> Start(int nodes, RedisServer::Args extra = {}) {
    extra.insert(extra.end(), {"--cluster-enabled", "yes", "--cluster-node-timeout", "1000"});
    std::unique_ptr<RedisCluster> cluster(new RedisCluster);
    for (int i = 0; i < nodes; ++i) {
      PQCACHE_ASSIGN_OR_RETURN(auto server, RedisServer::Start(extra));
      cluster->nodes_.push_back(std::move(server));
    }
    cluster->Join();
    if (cluster->WaitUntilOk()) return cluster;
    return Status::IoError("the cluster does not become ready");
  }

  int size() const { return static_cast<int>(nodes_.size()); }
  RedisServer& node(int i) { return *nodes_[static_cast<size_t>(i)]; }
  // As the slots were given out at the start.
  int HomeOf(std::string_view key) const {
    for (int i = 0;; ++i) {
      if (storage::KeySlot(key) < FirstSlot(i + 1)) return i;
    }
  }
  std::string IdOf(int i) { return node(i).MustAsk({"CLUSTER", "MYID"}).text; }
  std::string spec() { return node(0).spec(); }

  bool WaitUntilOk() {
    return Eventually([&] {
      for (const auto& server : nodes_) {
        const auto info = server->Ask({"CLUSTER", "INFO"});
        const std::string known = "cluster_known_nodes:" + std::to_string(size());
        if (!info.ok() || info->text.find("cluster_state:ok") == std::string::npos ||
            info->text.find("cluster_slots_ok:16384") == std::string::npos ||
            info->text.find(known) == std::string::npos) {
          return false;
        }
      }
      return true;
    });
  }
  void FlushAll() {
    for (const auto& server : nodes_) server->MustAsk({"FLUSHALL"});
  }

 private:
  RedisCluster() = default;

  int FirstSlot(int i) const { return storage::kRespSlots * i / size(); }

  void Join() {
    for (int i = 0; i < size(); ++i) {
      node(i).MustAsk({"CLUSTER", "SET-CONFIG-EPOCH", std::to_string(i + 1)});
      node(i).MustAsk({"CLUSTER", "ADDSLOTSRANGE", std::to_string(FirstSlot(i)),
                       std::to_string(FirstSlot(i + 1) - 1)});
      if (i == 0) continue;
      node(0).MustAsk({"CLUSTER", "MEET", "127.0.0.1", std::to_string(node(i).address().port),
                       std::to_string(node(i).bus_port())});
    }
  }

  std::vector<std::unique_ptr<RedisServer>> nodes_;
};

// One for all tests of a program that leave it as they find it, but for its keys.
inline RedisCluster& SharedRedisCluster() {
  static const std::unique_ptr<RedisCluster> cluster = [] {
    Result<std::unique_ptr<RedisCluster>> started = RedisCluster::Start(3);
    PQCACHE_CHECK(started.ok(), started.status().message().c_str());
    return *std::move(started);
  }();
  return *cluster;
}

}  // namespace pqcache::testing
