#pragma once

// A server on 127.0.0.1 that says what a test wants: each connection runs the script on a thread of
// its own. For what no real server can be made to do.

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "storage/resp_config.h"
#include "storage/resp_reply.h"
#include "tests/support/redis_cluster.h"

namespace pqcache::testing {

class ScriptedServer {
 public:
  class Peer {
   public:
    Peer(int fd, const std::atomic<bool>* stopping) : fd_(fd), stopping_(stopping) {}

    // The words of the next command; empty when there will be none.
    std::vector<std::string> NextCommand() {
      while (true) {
        Result<std::optional<storage::RespReply>> command = reader_.Next();
        if (!command.ok()) return {};
        if (command->has_value()) {
          std::vector<std::string> words;
          for (const storage::RespReply& word : (*command)->elements) words.push_back(word.text);
          return words;
        }
        char bytes[4096];
        if (!WaitReadable()) return {};
        const ssize_t n = ::recv(fd_, bytes, sizeof(bytes), 0);
        if (n <= 0) return {};
        reader_.Feed({bytes, static_cast<size_t>(n)});
      }
    }
    bool Send(std::string_view bytes) {
      return ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
             static_cast<ssize_t>(bytes.size());
    }
    // One byte after the other.
    void Trickle(std::string_view bytes, std::chrono::milliseconds pause) {
      for (size_t i = 0; i < bytes.size() && !*stopping_; ++i) {
        if (!Send(bytes.substr(i, 1))) return;
        std::this_thread::sleep_for(pause);
      }
    }
    // Until the test is over.
    void Stall() {
      while (!*stopping_) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }

   private:
    bool WaitReadable() {
      while (!*stopping_) {
        pollfd fd = {.fd = fd_, .events = POLLIN, .revents = 0};
        if (::poll(&fd, 1, 20) > 0) return true;
      }
      return false;
    }

    const int fd_;
    const std::atomic<bool>* stopping_;
    storage::RespReader reader_;
  };
  using Script = std::function<void(Peer&)>;
  using Answer = std::function<void(Peer&, const std::vector<std::string>&)>;

  // A server without cluster mode that greets as it should; the rest is up to `answer`.
  static Script Standalone(Answer answer) {
    return Greeting([] { return "-ERR This instance has cluster support disabled\r\n"; },
                    std::move(answer));
  }
  // `slots` gives its reply to CLUSTER SLOTS.
  static Script Greeting(std::function<std::string()> slots, Answer answer) {
    return [slots = std::move(slots), answer = std::move(answer)](Peer& peer) {
      while (true) {
        const std::vector<std::string> command = peer.NextCommand();
        if (command.empty()) return;
        if (command[0] == "PING") {
          peer.Send("+PONG\r\n");
        } else if (command[0] == "CONFIG") {
          peer.Send("*2\r\n$16\r\nmaxmemory-policy\r\n$10\r\nnoeviction\r\n");
        } else if (command[0] == "CLUSTER") {
          peer.Send(slots());
        } else {
          answer(peer, command);
        }
      }
    };
  }

  explicit ScriptedServer(Script script) : script_(std::move(script)) {
    std::tie(listener_, port_) = ListenOnLoopback();
    acceptor_ = std::thread([this] { Accept(); });
  }
  ~ScriptedServer() { Stop(); }
  ScriptedServer(const ScriptedServer&) = delete;
  ScriptedServer& operator=(const ScriptedServer&) = delete;

  void Stop() {
    if (stopping_.exchange(true)) return;
    acceptor_.join();
    for (std::thread& thread : peers_) thread.join();
    ::close(listener_);
  }
  storage::RespAddress address() const { return {"127.0.0.1", port_}; }
  std::string spec() const { return "resp:host=127.0.0.1,port=" + std::to_string(port_); }
  int connections() const { return connections_; }

 private:
  void Accept() {
    while (!stopping_) {
      pollfd fd = {.fd = listener_, .events = POLLIN, .revents = 0};
      if (::poll(&fd, 1, 20) <= 0) continue;
      const int peer_fd = ::accept(listener_, nullptr, nullptr);
      if (peer_fd < 0) continue;
      ++connections_;
      peers_.emplace_back([this, peer_fd] {
        Peer peer(peer_fd, &stopping_);
        script_(peer);
        ::close(peer_fd);
      });
    }
  }

  const Script script_;
  int listener_ = -1;
  int port_ = 0;
  std::atomic<bool> stopping_{false};
  std::atomic<int> connections_{0};
  std::vector<std::thread> peers_;  // the acceptor's, until it has ended
  std::thread acceptor_;
};

}  // namespace pqcache::testing
