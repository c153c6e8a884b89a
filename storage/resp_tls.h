#pragma once

// TLS (OpenSSL) over a connected stream. Threads and errors as in resp_transport.h.

#include <memory>
#include <string>

#include "pqcache/base/status.h"
#include "storage/resp_transport.h"

namespace pqcache::storage {

struct TlsPeer {
  std::string host;     // what the certificate must be for: a name or an address
  std::string ca_file;  // empty: the system's authorities
};

// `fd` is the socket of `tcp`; bytes go through it directly, waiting through `tcp`.
Result<std::unique_ptr<RespTransport>> ConnectTls(std::unique_ptr<RespTransport> tcp, int fd,
                                                  const TlsPeer& peer, RespDeadline deadline);

}  // namespace pqcache::storage
