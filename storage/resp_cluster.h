#pragma once

// Commands to a Redis Cluster, or to one server without cluster mode: each goes to the server that
// holds its key's slot, all that go to one server in one stream, different servers at once.
//
// Redirections are followed (MOVED: the map of slots is read again; ASK), at most kMaxRedirections
// times. A server that fails is left alone for a while (CircuitBreaker); the others are served
// meanwhile. It is used again when it answers again, also at another address: after a failure the
// map is read again, at most once a kMapPause.
//
// All functions may be called from many threads; a call uses a connection per server, and a thread
// per server beyond the first.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pqcache/base/status.h"
#include "storage/resp_config.h"
#include "storage/resp_node.h"
#include "storage/resp_reply.h"
#include "storage/resp_slot_map.h"

namespace pqcache::storage {

// A command whose first argument is its key.
struct RespCommand {
  explicit RespCommand(std::span<const std::string_view> args);
  RespCommand(std::initializer_list<std::string_view> args)
      : RespCommand(std::span(args.begin(), args.size())) {}
  // For one whose key is another.
  RespCommand(std::string_view key, std::initializer_list<std::string_view> args);

  int slot;
  std::string bytes;
};

class RespCluster {
 public:
  static constexpr int kMaxRedirections = 5;
  static constexpr std::chrono::seconds kMapPause{1};

  // Reads the map from the first seed that answers and greets every server in it. The last seed's
  // error if none can be used;
  // InvalidArgument if any server refuses the password or may drop keys (RespNode). A server that
  // is down is none: a warning says so.
  static Result<std::unique_ptr<RespCluster>> Open(const RespConfig& config);

  RespDeadline NewDeadline() const { return RespClock::now() + config_.options.timeout; }

  // An outcome per command, in order: the reply, which may be an error of the server, or IoError
  // if none could be had in time or the server says that it cannot serve for now. Commands of one
  // slot run in their order. While a slot moves between servers, a command of several keys may get
  // the error TRYAGAIN; commands of one key do not.
  std::vector<Result<RespReply>> Execute(std::span<const RespCommand> commands,
                                         RespDeadline deadline);

 private:
  using NodeRef = std::shared_ptr<RespNode>;
  struct Routes {
    std::vector<int16_t> owners;
    std::vector<NodeRef> nodes;
  };
  // A command that has no outcome yet, and where it goes.
  struct Errand {
    size_t command;
    NodeRef node;  // nullptr: as the map says
    bool ask = false;
  };
  struct Group;
  using Outcomes = std::vector<Result<RespReply>>;

  explicit RespCluster(RespConfig config) : config_(std::move(config)) {}

  std::vector<Errand> RunRound(std::span<const RespCommand> commands, std::vector<Errand> errands,
                               RespDeadline deadline, Outcomes* outcomes);
  std::vector<Group> MakeGroups(std::span<const RespCommand> commands, std::vector<Errand> errands,
                                Outcomes* outcomes);
  bool TakeReplies(Group* group, std::vector<Errand>* again, Outcomes* outcomes);

  std::shared_ptr<const Routes> routes() const;
  NodeRef FindNode(const Routes& routes, const RespAddress& address) const;
  // Reads the map again unless somebody does, or has since `seen` was current.
  Status Refresh(const std::shared_ptr<const Routes>& seen, RespDeadline deadline);
  void RefreshIfDoubtful(RespDeadline deadline);
  Result<std::shared_ptr<const Routes>> AskForRoutes(RespNode* node, const Routes& before,
                                                     RespDeadline deadline) const;
  Status GreetAll(const Routes& routes);

  const RespConfig config_;
  std::vector<NodeRef> seeds_;
  std::mutex refresh_mutex_;           // held by the one reader of the map
  std::atomic<bool> doubtful_{false};  // a server failed since the map was read
  mutable std::mutex mutex_;           // guards everything below
  RespClock::time_point next_refresh_{};
  std::shared_ptr<const Routes> routes_;
};

}  // namespace pqcache::storage
