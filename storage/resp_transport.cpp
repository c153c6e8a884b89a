#include "storage/resp_transport.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "storage/resp_tls.h"

namespace pqcache::storage {
namespace {

Status SystemError(std::string_view action, int error) {
  return Status::IoError(std::string(action) + ": " + std::strerror(error));
}

bool WouldBlock(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

class TcpTransport final : public RespTransport {
 public:
  explicit TcpTransport(int fd) : fd_(fd) {}
  ~TcpTransport() override { ::close(fd_); }
  TcpTransport(const TcpTransport&) = delete;
  TcpTransport& operator=(const TcpTransport&) = delete;

  int fd() const { return fd_; }

  Result<size_t> TryRead(std::span<char> into, short* wait) override {
    const ssize_t n = ::recv(fd_, into.data(), into.size(), 0);
    if (n > 0) return static_cast<size_t>(n);
    if (n == 0) return Status::IoError("the server closed the connection");
    if (!WouldBlock(errno)) return SystemError("read", errno);
    *wait = static_cast<short>(*wait | POLLIN);
    return size_t{0};
  }

  Result<size_t> TryWrite(std::string_view bytes, short* wait) override {
    const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n >= 0) return static_cast<size_t>(n);
    if (!WouldBlock(errno)) return SystemError("write", errno);
    *wait = static_cast<short>(*wait | POLLOUT);
    return size_t{0};
  }

  Status Wait(short events, RespDeadline deadline) override {
    using std::chrono::milliseconds;
    while (true) {
      const auto left = std::chrono::ceil<milliseconds>(deadline - RespClock::now()).count();
      if (left <= 0) return Status::IoError("the time limit passed, expected an answer before");
      constexpr int64_t kMost = std::numeric_limits<int>::max();
      pollfd poll_fd = {.fd = fd_, .events = events, .revents = 0};
      const int ready = ::poll(&poll_fd, 1, static_cast<int>(std::min<int64_t>(left, kMost)));
      if (ready > 0) return Status::Ok();
      if (ready < 0 && errno != EINTR) return SystemError("poll", errno);
    }
  }

 private:
  const int fd_;
};

Result<std::unique_ptr<TcpTransport>> ConnectTo(const addrinfo& at, RespDeadline deadline) {
  const int fd =
      ::socket(at.ai_family, at.ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, at.ai_protocol);
  if (fd < 0) return SystemError("socket", errno);
  auto transport = std::make_unique<TcpTransport>(fd);
  const int on = 1;
  // Hints; the stream is right without them.
  (void)::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  (void)::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
  if (::connect(fd, at.ai_addr, at.ai_addrlen) == 0) return transport;
  if (errno != EINPROGRESS) return SystemError("connect", errno);
  PQCACHE_RETURN_IF_ERROR(transport->Wait(POLLOUT, deadline).Annotate("connect"));
  int error = 0;
  socklen_t size = sizeof(error);
  if (::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
  if (error != 0) return SystemError("connect", error);
  return transport;
}

Result<std::unique_ptr<TcpTransport>> ConnectTcp(const RespAddress& address,
                                                 RespDeadline deadline) {
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error =
      ::getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found);
  if (error != 0) return Status::IoError(std::string("look up host: ") + ::gai_strerror(error));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, ::freeaddrinfo);
  Status failure = Status::IoError("look up host: has no address");
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    Result<std::unique_ptr<TcpTransport>> transport = ConnectTo(*at, deadline);
    if (transport.ok()) return transport;
    failure = transport.status();
  }
  return failure;
}

}  // namespace

Result<std::unique_ptr<RespTransport>> RespTransport::Connect(const RespAddress& address,
                                                              const RespOptions& options,
                                                              RespDeadline deadline) {
  PQCACHE_ASSIGN_OR_RETURN(std::unique_ptr<TcpTransport> tcp, ConnectTcp(address, deadline));
  if (!options.tls) return std::unique_ptr<RespTransport>(std::move(tcp));
  const int fd = tcp->fd();
  return ConnectTls(std::move(tcp), fd, {address.host, options.ca_file}, deadline);
}

}  // namespace pqcache::storage
