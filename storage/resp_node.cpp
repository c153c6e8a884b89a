#include "storage/resp_node.h"

#include <string>
#include <utility>

#include "pqcache/base/log.h"

namespace pqcache::storage {

bool CircuitBreaker::Allow(RespClock::time_point now) {
  if (failures_ < kFailures) return true;
  if (trying_ || now < open_until_) return false;
  trying_ = true;
  return true;
}

void CircuitBreaker::Succeeded() {
  failures_ = 0;
  trying_ = false;
}

void CircuitBreaker::Failed(RespClock::time_point now) {
  if (failures_ < kFailures) ++failures_;
  trying_ = false;
  open_until_ = now + kPause;
}

RespNode::RespNode(RespAddress address, const RespOptions* options)
    : address_(std::move(address)), options_(options) {}

bool RespNode::healthy() const {
  const std::lock_guard lock(mutex_);
  return breaker_.failures() == 0;
}

Result<std::vector<RespReply>> RespNode::Exchange(std::string_view request, size_t commands,
                                                  RespDeadline deadline) {
  const std::string name = "resp server " + address_.ToString();
  {
    const std::lock_guard lock(mutex_);
    if (!breaker_.Allow(RespClock::now())) {
      return Status::IoError(name + ": failed " + std::to_string(CircuitBreaker::kFailures) +
                             " times in a row, is left alone for " +
                             std::to_string(CircuitBreaker::kPause.count()) + " s");
    }
  }
  Result<std::vector<RespReply>> replies = ExchangeUnguarded(request, commands, deadline);
  const std::lock_guard lock(mutex_);
  if (replies.ok()) {
    breaker_.Succeeded();
    return replies;
  }
  breaker_.Failed(RespClock::now());
  return replies.status().Annotate(name);
}

Result<std::vector<RespReply>> RespNode::ExchangeUnguarded(std::string_view request,
                                                           size_t commands, RespDeadline deadline) {
  std::unique_ptr<RespConnection> connection = TakeIdle();
  if (connection == nullptr) {
    PQCACHE_ASSIGN_OR_RETURN(connection, Open(deadline));
  }
  Result<std::vector<RespReply>> replies = connection->Exchange(request, commands, deadline);
  if (replies.ok()) {
    const std::lock_guard lock(mutex_);
    if (idle_.size() < kIdleConnections) idle_.push_back(std::move(connection));
  }
  return replies;
}

// A server that was restarted has closed them; that is seen here and costs no failure.
std::unique_ptr<RespConnection> RespNode::TakeIdle() {
  const std::lock_guard lock(mutex_);
  while (!idle_.empty()) {
    std::unique_ptr<RespConnection> connection = std::move(idle_.back());
    idle_.pop_back();
    if (connection->Usable()) return connection;
  }
  return nullptr;
}

Result<std::unique_ptr<RespConnection>> RespNode::Open(RespDeadline deadline) {
  PQCACHE_ASSIGN_OR_RETURN(std::unique_ptr<RespConnection> connection,
                           RespConnection::Connect(address_, *options_, deadline));
  std::string request;
  AppendCommand({"PING"}, &request);
  AppendCommand({"CONFIG", "GET", "maxmemory-policy"}, &request);
  PQCACHE_ASSIGN_OR_RETURN(const std::vector<RespReply> replies,
                           connection->Exchange(request, 2, deadline));
  const RespReply& ping = replies[0];
  if (ping.IsError("NOAUTH")) {
    return Status::InvalidArgument(std::string("answers PING by NOAUTH, expected a password in ") +
                                   kRespPasswordVariable + " or " + kRespUrlVariable);
  }
  // A server that is loading its data answers by an error and is asked again later.
  if (!ping.is(RespReply::Kind::kStatus) || ping.text != "PONG") {
    return Status::IoError("answers PING by " + DescribeReply(ping) + ", expected PONG");
  }
  PQCACHE_RETURN_IF_ERROR(CheckEviction(replies[1]));
  return connection;
}

// With allkeys-* a full server drops any key: a page would go missing, or the record of a context
// whose pages are there.
Status RespNode::CheckEviction(const RespReply& reply) {
  const std::vector<RespReply>& pair = reply.elements;
  if (reply.is(RespReply::Kind::kArray) && pair.size() == 2) {
    if (!pair[1].text.starts_with("allkeys-")) return Status::Ok();
    return Status::InvalidArgument(
        "maxmemory-policy is " + DescribeReply({RespReply::Kind::kStatus, 0, pair[1].text, {}}) +
        ", which lets the server drop pages and records of contexts that count as stored; "
        "expected noeviction or volatile-*: CONFIG SET maxmemory-policy noeviction");
  }
  const std::lock_guard lock(mutex_);
  if (!std::exchange(warned_, true)) {
    Log(LogLevel::kWarning, "resp server " + address_.ToString() +
                                ": does not tell its maxmemory-policy (" + DescribeReply(reply) +
                                "); make sure that it is noeviction");
  }
  return Status::Ok();
}

}  // namespace pqcache::storage
