#pragma once

// A byte stream to one server: TCP, or TLS over it. Nothing here blocks but Connect and Wait, and
// both only until their deadline; the one exception is the look-up of a host name, for which the
// system's resolver has its own limits (addresses need none). No signal is raised when the server
// goes away. One thread at a time.
// Errors are IoError, or InvalidArgument for a CA file that cannot be used.

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>

#include "pqcache/base/status.h"
#include "storage/resp_config.h"

namespace pqcache::storage {

class RespTransport {
 public:
  // With TLS the server's certificate must be signed by a trusted authority and be for this host.
  static Result<std::unique_ptr<RespTransport>> Connect(const RespAddress& address,
                                                        const RespOptions& options,
                                                        RespDeadline deadline);
  virtual ~RespTransport() = default;

  // Move what can be moved at once. 0 if nothing can; then the poll events that may change it are
  // added to *wait. IoError if the stream is at its end.
  virtual Result<size_t> TryRead(std::span<char> into, short* wait) = 0;
  virtual Result<size_t> TryWrite(std::string_view bytes, short* wait) = 0;

  // Until one of `events`, or of the end of the stream; IoError at the deadline.
  virtual Status Wait(short events, RespDeadline deadline) = 0;
};

}  // namespace pqcache::storage
