#pragma once

// One connection to one server, logged in. Commands go out in one stream and their replies come
// back in order; a deadline is for the whole exchange, however slowly bytes trickle in.
// After a failure the connection is closed for good: replies may be outstanding, and the next
// command would get them. One thread at a time.

#include <memory>
#include <string_view>
#include <vector>

#include "pqcache/base/status.h"
#include "storage/resp_config.h"
#include "storage/resp_reply.h"
#include "storage/resp_transport.h"

namespace pqcache::storage {

class RespConnection {
 public:
  // With AUTH if the options have a password. InvalidArgument if the server refuses it; otherwise
  // errors as RespTransport::Connect's.
  static Result<std::unique_ptr<RespConnection>> Connect(const RespAddress& address,
                                                         const RespOptions& options,
                                                         RespDeadline deadline);

  // `request` is `commands` commands, one after the other (AppendCommand); one reply for each, of
  // which any may be an error of the server. IoError if the server does not answer whole and in
  // time, also where its answer is no RESP2.
  Result<std::vector<RespReply>> Exchange(std::string_view request, size_t commands,
                                          RespDeadline deadline);

  // False after a failure, and when the server has closed the connection or sent something unasked.
  bool Usable();

 private:
  explicit RespConnection(std::unique_ptr<RespTransport> transport);

  Status LogIn(const RespOptions& options, RespDeadline deadline);
  Result<std::vector<RespReply>> Run(std::string_view request, size_t commands,
                                     RespDeadline deadline);
  Status Collect(std::string_view bytes, std::vector<RespReply>* replies);

  std::unique_ptr<RespTransport> transport_;  // nullptr: closed
  RespReader reader_;
  std::vector<char> buffer_;
};

}  // namespace pqcache::storage
