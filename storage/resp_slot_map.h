#pragma once

// What servers say about who holds which slot: the reply to CLUSTER SLOTS and the redirections
// MOVED and ASK. Both come from other machines and are checked. Pure and thread-safe.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pqcache/base/status.h"
#include "storage/resp_config.h"
#include "storage/resp_reply.h"
#include "storage/resp_slot.h"

namespace pqcache::storage {

struct SlotMap {
  static constexpr int16_t kNobody = -1;
  std::vector<RespAddress> nodes;  // the masters, each once
  std::vector<int16_t> owners = std::vector<int16_t>(kRespSlots, kNobody);  // indexes into nodes
};

// `asked` is the server that replied: it may leave out its own host, and without cluster mode it
// holds all slots. IoError if the reply says neither.
Result<SlotMap> ParseSlotMap(const RespReply& reply, const RespAddress& asked);

struct Redirection {
  bool ask = false;  // for this one command; otherwise the slot has moved for good
  RespAddress to;
};

// Nothing if the reply is no redirection.
std::optional<Redirection> ParseRedirection(const RespReply& reply, const RespAddress& asked);

}  // namespace pqcache::storage
