#include "storage/resp_connection.h"

#include <optional>
#include <string>
#include <utility>

namespace pqcache::storage {
namespace {

constexpr size_t kReadBytes = 256 << 10;

}  // namespace

RespConnection::RespConnection(std::unique_ptr<RespTransport> transport)
    : transport_(std::move(transport)), buffer_(kReadBytes) {}

Result<std::unique_ptr<RespConnection>> RespConnection::Connect(const RespAddress& address,
                                                                const RespOptions& options,
                                                                RespDeadline deadline) {
  PQCACHE_ASSIGN_OR_RETURN(std::unique_ptr<RespTransport> transport,
                           RespTransport::Connect(address, options, deadline));
  std::unique_ptr<RespConnection> connection(new RespConnection(std::move(transport)));
  PQCACHE_RETURN_IF_ERROR(connection->LogIn(options, deadline));
  return connection;
}

// Of a refusal only the first word is shown: a server may repeat the arguments of a command.
Status RespConnection::LogIn(const RespOptions& options, RespDeadline deadline) {
  if (options.password.empty()) return Status::Ok();
  std::string request;
  if (options.user.empty()) {
    AppendCommand({"AUTH", options.password}, &request);
  } else {
    AppendCommand({"AUTH", options.user, options.password}, &request);
  }
  PQCACHE_ASSIGN_OR_RETURN(const std::vector<RespReply> replies, Exchange(request, 1, deadline));
  const RespReply& reply = replies.front();
  if (!reply.is(RespReply::Kind::kError)) return Status::Ok();
  std::string word = reply.text.substr(0, reply.text.find(' '));
  if (word.find(options.password) != std::string::npos) word = "an error";
  return Status::InvalidArgument("AUTH is answered by " + word +
                                 ", expected OK: check user and password (" +
                                 kRespPasswordVariable + " or " + kRespUrlVariable + ")");
}

Result<std::vector<RespReply>> RespConnection::Exchange(std::string_view request, size_t commands,
                                                        RespDeadline deadline) {
  Result<std::vector<RespReply>> replies = Run(request, commands, deadline);
  if (!replies.ok()) transport_.reset();
  return replies;
}

// Reads while it writes: a server that has filled its side with replies may not take more commands.
Result<std::vector<RespReply>> RespConnection::Run(std::string_view request, size_t commands,
                                                   RespDeadline deadline) {
  if (transport_ == nullptr) return Status::IoError("the connection is closed");
  std::vector<RespReply> replies;
  while (replies.size() < commands) {
    short wait = 0;
    size_t moved = 0;
    if (!request.empty()) {
      PQCACHE_ASSIGN_OR_RETURN(moved, transport_->TryWrite(request, &wait));
      request.remove_prefix(moved);
    }
    PQCACHE_ASSIGN_OR_RETURN(const size_t read, transport_->TryRead(buffer_, &wait));
    PQCACHE_RETURN_IF_ERROR(Collect({buffer_.data(), read}, &replies));
    if (moved + read > 0 && RespClock::now() < deadline) continue;
    if (replies.size() < commands) PQCACHE_RETURN_IF_ERROR(transport_->Wait(wait, deadline));
  }
  if (replies.size() > commands || !request.empty() || !reader_.idle()) {
    return Status::IoError("the server answers more than it was asked, expected " +
                           std::to_string(commands) + " replies");
  }
  return replies;
}

Status RespConnection::Collect(std::string_view bytes, std::vector<RespReply>* replies) {
  reader_.Feed(bytes);
  while (!bytes.empty()) {
    Result<std::optional<RespReply>> reply = reader_.Next();
    if (!reply.ok()) return Status::IoError(reply.status().message());
    if (!reply->has_value()) break;
    replies->push_back(**std::move(reply));
  }
  return Status::Ok();
}

bool RespConnection::Usable() {
  if (transport_ == nullptr) return false;
  short wait = 0;
  const Result<size_t> unasked = transport_->TryRead({buffer_.data(), 1}, &wait);
  if (!unasked.ok() || *unasked != 0) transport_.reset();
  return transport_ != nullptr;
}

}  // namespace pqcache::storage
