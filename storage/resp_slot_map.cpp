#include "storage/resp_slot_map.h"

#include <algorithm>
#include <charconv>
#include <utility>

namespace pqcache::storage {
namespace {

using Kind = RespReply::Kind;

constexpr size_t kMaxNodes = 4096;

// Whether the server has no cluster mode, in the words of Redis and of Kvrocks, or knows no such
// command at all.
bool HasNoCluster(const RespReply& reply) {
  return reply.is(Kind::kError) && (reply.text.find("support disabled") != std::string::npos ||
                                    reply.text.find("not enabled") != std::string::npos ||
                                    reply.text.starts_with("ERR unknown command"));
}

bool IsPort(int64_t port) { return port >= 1 && port <= 65535; }

// [start, end, [host, port, ...], replicas...]; nothing if it is not that.
struct SlotRange {
  int64_t first = 0, last = 0;
  RespAddress node;
};
std::optional<SlotRange> ParseRange(const RespReply& reply, const RespAddress& asked) {
  const std::vector<RespReply>& e = reply.elements;
  if (e.size() < 3 || !e[0].is(Kind::kInteger) || !e[1].is(Kind::kInteger)) return std::nullopt;
  const std::vector<RespReply>& node = e[2].elements;
  if (node.size() < 2 || !node[1].is(Kind::kInteger) || !IsPort(node[1].integer)) {
    return std::nullopt;
  }
  SlotRange range{e[0].integer, e[1].integer, {node[0].text, static_cast<int>(node[1].integer)}};
  if (range.node.host.empty()) range.node.host = asked.host;
  if (range.first < 0 || range.last < range.first || range.last >= kRespSlots) return std::nullopt;
  return range;
}

}  // namespace

Result<SlotMap> ParseSlotMap(const RespReply& reply, const RespAddress& asked) {
  SlotMap map;
  if (HasNoCluster(reply)) {
    map.nodes.push_back(asked);
    std::fill(map.owners.begin(), map.owners.end(), int16_t{0});
    return map;
  }
  if (!reply.is(Kind::kArray)) {
    return Status::IoError("CLUSTER SLOTS is answered by " + DescribeReply(reply) +
                           ", expected an array of slot ranges");
  }
  for (const RespReply& element : reply.elements) {
    const std::optional<SlotRange> range = ParseRange(element, asked);
    if (!range) {
      return Status::IoError(
          "CLUSTER SLOTS has an element that is no [first slot, last slot, [host, port]]");
    }
    if (range->node.host == "?") continue;  // a server that does not know its name
    auto at = std::find(map.nodes.begin(), map.nodes.end(), range->node);
    if (at == map.nodes.end()) {
      if (map.nodes.size() >= kMaxNodes) {
        return Status::IoError("CLUSTER SLOTS names more than " + std::to_string(kMaxNodes) +
                               " servers");
      }
      at = map.nodes.insert(at, range->node);
    }
    std::fill(map.owners.begin() + range->first, map.owners.begin() + range->last + 1,
              static_cast<int16_t>(at - map.nodes.begin()));
  }
  if (map.nodes.empty()) {
    return Status::IoError(
        "CLUSTER SLOTS names no server, expected a cluster whose slots are held");
  }
  return map;
}

std::optional<Redirection> ParseRedirection(const RespReply& reply, const RespAddress& asked) {
  Redirection redirection;
  redirection.ask = reply.IsError("ASK");
  if (!redirection.ask && !reply.IsError("MOVED")) return std::nullopt;
  // "MOVED 3999 127.0.0.1:6381"; the host may be missing, and may hold colons.
  const std::string_view text = reply.text;
  const std::string_view target = text.substr(text.rfind(' ') + 1);
  const size_t colon = target.rfind(':');
  if (colon == std::string_view::npos) return std::nullopt;
  redirection.to.host = colon == 0 ? asked.host : std::string(target.substr(0, colon));
  const char* end = target.data() + target.size();
  const auto parsed = std::from_chars(target.data() + colon + 1, end, redirection.to.port);
  if (parsed.ec != std::errc() || parsed.ptr != end || !IsPort(redirection.to.port)) {
    return std::nullopt;
  }
  return redirection;
}

}  // namespace pqcache::storage
