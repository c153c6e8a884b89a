#pragma once

// One server: its idle connections and its circuit breaker. Calls from several threads at once take
// a connection each; up to kIdleConnections are kept for later calls.
//
// Every new connection asks first whether the server may drop our keys: a maxmemory-policy
// allkeys-* is refused.

#include <chrono>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

#include "pqcache/base/status.h"
#include "storage/resp_config.h"
#include "storage/resp_connection.h"

namespace pqcache::storage {

// Spares callers the wait for a server that does not answer: after kFailures in a row it lets
// nobody through for kPause, then one trial at a time. Not thread-safe.
class CircuitBreaker {
 public:
  static constexpr int kFailures = 3;
  static constexpr std::chrono::seconds kPause{2};

  // True if the caller may try; it must then report how that went.
  bool Allow(RespClock::time_point now);
  void Succeeded();
  void Failed(RespClock::time_point now);
  int failures() const { return failures_; }

 private:
  int failures_ = 0;  // in a row
  bool trying_ = false;
  RespClock::time_point open_until_{};  // open: no current flows
};

class RespNode {
 public:
  static constexpr size_t kIdleConnections = 8;

  // `options` outlives the node.
  RespNode(RespAddress address, const RespOptions* options);

  const RespAddress& address() const { return address_; }
  bool healthy() const;

  // RespConnection::Exchange over one of the connections. IoError at once while the breaker is
  // open; InvalidArgument if the server cannot be used as it is configured. Messages name the
  // server.
  Result<std::vector<RespReply>> Exchange(std::string_view request, size_t commands,
                                          RespDeadline deadline);

 private:
  Result<std::vector<RespReply>> ExchangeUnguarded(std::string_view request, size_t commands,
                                                   RespDeadline deadline);
  std::unique_ptr<RespConnection> TakeIdle();
  Result<std::unique_ptr<RespConnection>> Open(RespDeadline deadline);
  Status CheckEviction(const RespReply& reply);

  const RespAddress address_;
  const RespOptions* const options_;
  mutable std::mutex mutex_;  // guards everything below
  CircuitBreaker breaker_;
  std::vector<std::unique_ptr<RespConnection>> idle_;
  bool warned_ = false;
};

}  // namespace pqcache::storage
