#include "storage/resp_cluster.h"

#include <algorithm>
#include <optional>
#include <thread>
#include <utility>

#include "pqcache/base/check.h"
#include "pqcache/base/log.h"

namespace pqcache::storage {
namespace {

using Kind = RespReply::Kind;

// The server is there and says that it cannot serve the slot for now.
bool IsUnavailable(const RespReply& reply) {
  return reply.IsError("CLUSTERDOWN") || reply.IsError("LOADING") || reply.IsError("MASTERDOWN");
}

// To the reader of a store every failure to reach a server is one of input and output.
Status Unreachable(const Status& status) { return Status::IoError(status.message()); }

}  // namespace

RespCommand::RespCommand(std::span<const std::string_view> args) : slot(0) {
  PQCACHE_CHECK(args.size() >= 2, "a command needs a key");
  slot = KeySlot(args[1]);
  AppendCommand(args, &bytes);
}

RespCommand::RespCommand(std::string_view key, std::initializer_list<std::string_view> args)
    : slot(KeySlot(key)) {
  AppendCommand(std::span(args.begin(), args.size()), &bytes);
}

// What goes to one server in one round.
struct RespCluster::Group {
  NodeRef node;
  std::vector<Errand> errands;
  std::string request;
  size_t commands = 0;  // in the request; an ASK takes two
  Result<std::vector<RespReply>> replies = Status::Internal("not asked");

  void Add(Errand errand, const RespCommand& command) {
    if (errand.ask) AppendCommand({"ASKING"}, &request);
    commands += errand.ask ? 2 : 1;
    request += command.bytes;
    errands.push_back(std::move(errand));
  }
};

Result<std::unique_ptr<RespCluster>> RespCluster::Open(const RespConfig& config) {
  std::unique_ptr<RespCluster> cluster(new RespCluster(config));
  for (const RespAddress& seed : config.seeds) {
    cluster->seeds_.push_back(std::make_shared<RespNode>(seed, &cluster->config_.options));
  }
  Status failure = Status::InvalidArgument("resp: no server is named");
  for (const NodeRef& seed : cluster->seeds_) {
    auto read = cluster->AskForRoutes(seed.get(), Routes{}, cluster->NewDeadline());
    failure = read.status();
    if (!read.ok()) continue;
    cluster->routes_ = *std::move(read);
    break;
  }
  PQCACHE_RETURN_IF_ERROR(failure);
  PQCACHE_RETURN_IF_ERROR(cluster->GreetAll(*cluster->routes_));
  return cluster;
}

Status RespCluster::GreetAll(const Routes& routes) {
  for (const NodeRef& node : routes.nodes) {
    std::string request;
    AppendCommand({"PING"}, &request);
    const Status greeted = node->Exchange(request, 1, NewDeadline()).status();
    if (greeted.ok()) continue;
    if (greeted.code() != StatusCode::kIoError) return greeted;
    doubtful_ = true;
    Log(LogLevel::kWarning, greeted.message() + "; its pages are missing until it answers");
  }
  return Status::Ok();
}

std::vector<Result<RespReply>> RespCluster::Execute(std::span<const RespCommand> commands,
                                                    RespDeadline deadline) {
  Outcomes outcomes(commands.size(), Status::IoError("resp: was redirected more than " +
                                                     std::to_string(kMaxRedirections) + " times"));
  std::vector<Errand> errands;
  for (size_t i = 0; i < commands.size(); ++i) errands.push_back({i, nullptr});
  for (int round = 0; round <= kMaxRedirections && !errands.empty(); ++round) {
    RefreshIfDoubtful(deadline);
    errands = RunRound(commands, std::move(errands), deadline, &outcomes);
  }
  return outcomes;
}

// Gives outcomes to the errands, and returns those that were sent elsewhere.
std::vector<RespCluster::Errand> RespCluster::RunRound(std::span<const RespCommand> commands,
                                                       std::vector<Errand> errands,
                                                       RespDeadline deadline, Outcomes* outcomes) {
  const std::shared_ptr<const Routes> seen = routes();
  std::vector<Group> groups = MakeGroups(commands, std::move(errands), outcomes);
  const auto exchange = [&](Group& group) {
    group.replies = group.node->Exchange(group.request, group.commands, deadline);
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < groups.size(); ++i) threads.emplace_back(exchange, std::ref(groups[i]));
  if (!groups.empty()) exchange(groups[0]);
  for (std::thread& thread : threads) thread.join();

  std::vector<Errand> again;
  bool moved = false;
  for (Group& group : groups) moved = TakeReplies(&group, &again, outcomes) || moved;
  std::sort(again.begin(), again.end(),
            [](const Errand& a, const Errand& b) { return a.command < b.command; });
  // Without a new map the redirection itself still says where to go.
  if (moved && !Refresh(seen, deadline).ok()) doubtful_ = true;
  return again;
}

std::vector<RespCluster::Group> RespCluster::MakeGroups(std::span<const RespCommand> commands,
                                                        std::vector<Errand> errands,
                                                        Outcomes* outcomes) {
  const std::shared_ptr<const Routes> map = routes();
  std::vector<Group> groups;
  for (Errand& errand : errands) {
    const RespCommand& command = commands[errand.command];
    const int16_t owner = map->owners[static_cast<size_t>(command.slot)];
    if (errand.node == nullptr && owner != SlotMap::kNobody) {
      errand.node = map->nodes[static_cast<size_t>(owner)];
    }
    if (errand.node == nullptr) {
      (*outcomes)[errand.command] =
          Status::IoError("resp: no server holds slot " + std::to_string(command.slot));
      doubtful_ = true;
      continue;
    }
    // By address: of a server that the map does not know, every redirection makes its own node.
    auto group = std::find_if(groups.begin(), groups.end(), [&](const Group& g) {
      return g.node->address() == errand.node->address();
    });
    if (group == groups.end()) {
      group = groups.emplace(group);
      group->node = errand.node;
    }
    group->Add(std::move(errand), command);
  }
  return groups;
}

// True if a slot has moved.
bool RespCluster::TakeReplies(Group* group, std::vector<Errand>* again, Outcomes* outcomes) {
  if (!group->replies.ok()) {
    doubtful_ = true;
    for (const Errand& errand : group->errands) {
      (*outcomes)[errand.command] = Unreachable(group->replies.status());
    }
    return false;
  }
  const std::shared_ptr<const Routes> map = routes();
  const RespAddress& asked = group->node->address();
  bool moved = false;
  auto reply = group->replies->begin();
  for (const Errand& errand : group->errands) {
    if (errand.ask) ++reply;  // that of ASKING
    RespReply& answer = *reply++;
    if (const std::optional<Redirection> to = ParseRedirection(answer, asked)) {
      again->push_back({errand.command, FindNode(*map, to->to), to->ask});
      moved = moved || !to->ask;
    } else if (IsUnavailable(answer)) {
      doubtful_ = true;
      (*outcomes)[errand.command] =
          Status::IoError("resp server " + asked.ToString() + ": answers " + DescribeReply(answer));
    } else {
      (*outcomes)[errand.command] = std::move(answer);
    }
  }
  return moved;
}

std::shared_ptr<const RespCluster::Routes> RespCluster::routes() const {
  const std::lock_guard lock(mutex_);
  return routes_;
}

// Of a server that is new, nothing is kept before the map names it.
RespCluster::NodeRef RespCluster::FindNode(const Routes& routes, const RespAddress& address) const {
  for (const NodeRef& node : routes.nodes) {
    if (node->address() == address) return node;
  }
  for (const NodeRef& seed : seeds_) {
    if (seed->address() == address) return seed;
  }
  return std::make_shared<RespNode>(address, &config_.options);
}

Result<std::shared_ptr<const RespCluster::Routes>> RespCluster::AskForRoutes(
    RespNode* node, const Routes& before, RespDeadline deadline) const {
  std::string request;
  AppendCommand({"CLUSTER", "SLOTS"}, &request);
  PQCACHE_ASSIGN_OR_RETURN(const std::vector<RespReply> replies,
                           node->Exchange(request, 1, deadline));
  Result<SlotMap> map = ParseSlotMap(replies.front(), node->address());
  if (!map.ok()) return map.status().Annotate("resp server " + node->address().ToString());
  auto routes = std::make_shared<Routes>();
  routes->owners = std::move(map->owners);
  for (const RespAddress& address : map->nodes) {
    routes->nodes.push_back(FindNode(before, address));
  }
  return std::shared_ptr<const Routes>(std::move(routes));
}

// Servers that answered last come first, and none may take more than a part of the time: the ones
// that serve must not wait for the one that hangs.
Status RespCluster::Refresh(const std::shared_ptr<const Routes>& seen, RespDeadline deadline) {
  const std::unique_lock lock(refresh_mutex_, std::try_to_lock);
  if (!lock.owns_lock() || routes() != seen) return Status::Ok();
  {
    const std::lock_guard routes_lock(mutex_);
    next_refresh_ = RespClock::now() + kMapPause;
  }
  doubtful_ = false;
  std::vector<NodeRef> nodes = seen->nodes;
  for (const NodeRef& seed : seeds_) {
    if (std::find(nodes.begin(), nodes.end(), seed) == nodes.end()) nodes.push_back(seed);
  }
  std::stable_partition(nodes.begin(), nodes.end(), [](const NodeRef& n) { return n->healthy(); });
  Status failure;
  for (const NodeRef& node : nodes) {
    const RespDeadline part = std::min(deadline, RespClock::now() + config_.options.timeout / 4);
    Result<std::shared_ptr<const Routes>> read = AskForRoutes(node.get(), *seen, part);
    if (read.ok()) {
      const std::lock_guard routes_lock(mutex_);
      routes_ = *std::move(read);
      return Status::Ok();
    }
    failure = read.status();
  }
  return failure;
}

void RespCluster::RefreshIfDoubtful(RespDeadline deadline) {
  if (!doubtful_) return;
  {
    const std::lock_guard lock(mutex_);
    if (RespClock::now() < next_refresh_) return;
  }
  // What it cannot find out now is found out by a later call.
  if (!Refresh(routes(), deadline).ok()) doubtful_ = true;
}

}  // namespace pqcache::storage
