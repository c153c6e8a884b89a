#include "storage/resp_tls.h"

#include <arpa/inet.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <limits>
#include <utility>

#include "pqcache/base/check.h"

namespace pqcache::storage {
namespace {

// OpenSSL's own socket BIO writes with write(), which raises SIGPIPE.
int BioWrite(BIO* bio, const char* data, int size) {
  const int fd = static_cast<int>(reinterpret_cast<intptr_t>(BIO_get_data(bio)));
  const ssize_t n = ::send(fd, data, static_cast<size_t>(size), MSG_NOSIGNAL);
  BIO_clear_retry_flags(bio);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) BIO_set_retry_write(bio);
  return static_cast<int>(n);
}

int BioRead(BIO* bio, char* data, int size) {
  const int fd = static_cast<int>(reinterpret_cast<intptr_t>(BIO_get_data(bio)));
  const ssize_t n = ::recv(fd, data, static_cast<size_t>(size), 0);
  BIO_clear_retry_flags(bio);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) BIO_set_retry_read(bio);
  return static_cast<int>(n);
}

long BioControl(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

BIO* NewSocketBio(int fd) {
  static BIO_METHOD* const method = [] {
    BIO_METHOD* m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "socket, no SIGPIPE");
    PQCACHE_CHECK(m != nullptr, "OpenSSL: no memory");
    BIO_meth_set_write(m, BioWrite);
    BIO_meth_set_read(m, BioRead);
    BIO_meth_set_ctrl(m, BioControl);
    return m;
  }();
  BIO* bio = BIO_new(method);
  PQCACHE_CHECK(bio != nullptr, "OpenSSL: no memory");
  BIO_set_data(bio, reinterpret_cast<void*>(static_cast<intptr_t>(fd)));
  BIO_set_init(bio, 1);
  return bio;
}

std::string LastTlsError() {
  const unsigned long code = ERR_get_error();
  if (code == 0) return "the server closed the connection";
  char text[256];
  ERR_error_string_n(code, text, sizeof(text));
  return text;
}

int Clamp(size_t size) {
  return static_cast<int>(std::min<size_t>(size, std::numeric_limits<int>::max()));
}

class TlsTransport final : public RespTransport {
 public:
  TlsTransport(std::unique_ptr<RespTransport> tcp, SSL* ssl) : tcp_(std::move(tcp)), ssl_(ssl) {}
  // Without a closing handshake: the protocol's replies carry their own length.
  ~TlsTransport() override { SSL_free(ssl_); }
  TlsTransport(const TlsTransport&) = delete;
  TlsTransport& operator=(const TlsTransport&) = delete;

  Status Handshake(RespDeadline deadline) {
    while (true) {
      short wait = 0;
      ERR_clear_error();
      const int n = SSL_connect(ssl_);
      if (n == 1) return Status::Ok();
      const Status failed = Progress(n, &wait).status();
      if (const long verified = SSL_get_verify_result(ssl_);
          !failed.ok() && verified != X509_V_OK) {
        return Status::IoError(std::string("TLS: the server's certificate is refused: ") +
                               X509_verify_cert_error_string(verified));
      }
      PQCACHE_RETURN_IF_ERROR(failed);
      PQCACHE_RETURN_IF_ERROR(tcp_->Wait(wait, deadline).Annotate("TLS handshake"));
    }
  }

  Result<size_t> TryRead(std::span<char> into, short* wait) override {
    ERR_clear_error();
    return Progress(SSL_read(ssl_, into.data(), Clamp(into.size())), wait);
  }
  Result<size_t> TryWrite(std::string_view bytes, short* wait) override {
    ERR_clear_error();
    return Progress(SSL_write(ssl_, bytes.data(), Clamp(bytes.size())), wait);
  }
  Status Wait(short events, RespDeadline deadline) override { return tcp_->Wait(events, deadline); }

 private:
  Result<size_t> Progress(int n, short* wait) {
    if (n > 0) return static_cast<size_t>(n);
    switch (SSL_get_error(ssl_, n)) {
      case SSL_ERROR_WANT_READ:
        *wait = static_cast<short>(*wait | POLLIN);
        return size_t{0};
      case SSL_ERROR_WANT_WRITE:
        *wait = static_cast<short>(*wait | POLLOUT);
        return size_t{0};
      default:
        return Status::IoError("TLS: " + LastTlsError());
    }
  }

  const std::unique_ptr<RespTransport> tcp_;
  SSL* const ssl_;
};

using ContextOwner = std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)>;

Result<ContextOwner> NewContext(const std::string& ca_file) {
  ContextOwner context(SSL_CTX_new(TLS_client_method()), SSL_CTX_free);
  PQCACHE_CHECK(context != nullptr, "OpenSSL: no memory");
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  SSL_CTX_set_mode(context.get(),
                   SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  ERR_clear_error();
  const int loaded = ca_file.empty()
                         ? SSL_CTX_set_default_verify_paths(context.get())
                         : SSL_CTX_load_verify_locations(context.get(), ca_file.c_str(), nullptr);
  if (loaded == 1) return context;
  return Status::InvalidArgument("CA file '" + ca_file + "': " + LastTlsError() +
                                 ", expected certificates in PEM form");
}

// The name is checked by OpenSSL as part of the handshake; without this any valid certificate of
// any host would do.
bool ExpectHost(SSL* ssl, const std::string& host) {
  unsigned char address[sizeof(in6_addr)];
  const bool numeric = ::inet_pton(AF_INET, host.c_str(), address) == 1 ||
                       ::inet_pton(AF_INET6, host.c_str(), address) == 1;
  if (numeric) return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host.c_str()) == 1;
  return SSL_set1_host(ssl, host.c_str()) == 1 && SSL_set_tlsext_host_name(ssl, host.c_str()) == 1;
}

}  // namespace

Result<std::unique_ptr<RespTransport>> ConnectTls(std::unique_ptr<RespTransport> tcp, int fd,
                                                  const TlsPeer& peer, RespDeadline deadline) {
  PQCACHE_ASSIGN_OR_RETURN(const ContextOwner context, NewContext(peer.ca_file));
  SSL* ssl = SSL_new(context.get());
  PQCACHE_CHECK(ssl != nullptr, "OpenSSL: no memory");
  auto transport = std::make_unique<TlsTransport>(std::move(tcp), ssl);
  BIO* bio = NewSocketBio(fd);
  SSL_set_bio(ssl, bio, bio);
  if (!ExpectHost(ssl, peer.host)) {
    return Status::InvalidArgument("host '" + peer.host + "' is no name that TLS can check");
  }
  PQCACHE_RETURN_IF_ERROR(transport->Handshake(deadline));
  return std::unique_ptr<RespTransport>(std::move(transport));
}

}  // namespace pqcache::storage
