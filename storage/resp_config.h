#pragma once

// Where the servers of a `resp` store are and how to speak to them, from its spec and from the
// environment. A password is never part of a spec, which shows up in process lists and logs, and
// never part of a message. Plain values.

#include <chrono>
#include <compare>
#include <string>
#include <vector>

#include "pqcache/base/spec_string.h"
#include "pqcache/base/status.h"

namespace pqcache::storage {

inline constexpr const char* kRespPasswordVariable = "PQCACHE_RESP_PASSWORD";
inline constexpr const char* kRespUrlVariable = "PQCACHE_RESP_URL";

using RespClock = std::chrono::steady_clock;
// When an operation, of however many steps, has to be over.
using RespDeadline = RespClock::time_point;

struct RespAddress {
  std::string host;  // a name or an address, IPv6 without brackets
  int port = 6379;
  auto operator<=>(const RespAddress&) const = default;
  // "host:port" or "[host]:port"
  std::string ToString() const;
};

struct RespOptions {
  std::chrono::milliseconds timeout{2000};  // of one exchange with the servers
  bool tls = false;
  std::string ca_file;   // whom TLS trusts; empty: the system's authorities
  std::string user;      // empty: the default user
  std::string password;  // empty: no AUTH
};

struct RespConfig {
  std::vector<RespAddress> seeds;  // servers of the cluster; the first that answers is asked
  RespOptions options;
};

// host=H or H1:P1/H2:P2, port=P, timeout_ms=N, tls=true, ca=FILE, user=U, and the password from
// PQCACHE_RESP_PASSWORD; without a host, PQCACHE_RESP_URL holds the rest.
Result<RespConfig> ReadRespConfig(const SpecString& spec);

// redis://[user[:password]@]host[:port][,host[:port]...], rediss:// for TLS; user and password may
// be %-encoded.
Result<RespConfig> ParseRespUrl(const std::string& url);

}  // namespace pqcache::storage
