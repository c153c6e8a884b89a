#include "storage/resp_config.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <optional>
#include <string_view>
#include <utility>

namespace pqcache::storage {
namespace {

constexpr int64_t kMaxTimeoutMs = 3600 * 1000;

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// Never shows the URL, which may hold a password.
Status BadUrl(const std::string& what) {
  return Status::InvalidArgument(
      std::string(kRespUrlVariable) + " " + what +
      ", expected redis://[user[:password]@]host[:port][,host...] or rediss://...");
}

Result<int> ParsePort(std::string_view text, std::string_view what) {
  int port = 0;
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, port);
  if (parsed.ec == std::errc() && parsed.ptr == end && port >= 1 && port <= 65535) return port;
  return Status::InvalidArgument(std::string(what) + " is '" + std::string(text) +
                                 "', expected 1 to 65535");
}

std::optional<std::string> PercentDecode(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out.push_back(text[i]);
      continue;
    }
    unsigned value = 0;
    if (i + 2 >= text.size()) return std::nullopt;
    const char* digits = text.data() + i + 1;
    const auto parsed = std::from_chars(digits, digits + 2, value, 16);
    if (parsed.ec != std::errc() || parsed.ptr != digits + 2) return std::nullopt;
    out.push_back(static_cast<char>(value));
    i += 2;
  }
  return out;
}

Status ParseUser(std::string_view text, RespOptions* options) {
  const size_t colon = text.find(':');
  std::optional<std::string> user = PercentDecode(text.substr(0, colon));
  std::optional<std::string> password =
      PercentDecode(colon == std::string_view::npos ? "" : text.substr(colon + 1));
  if (!user || !password) {
    return BadUrl("has a user or password with a '%' that begins no two hexadecimal digits");
  }
  options->user = *std::move(user);
  options->password = *std::move(password);
  return Status::Ok();
}

// "host", "host:port", "[IPv6]:port", "[IPv6]" or an IPv6 address alone. `bad` makes the error of
// what is wrong with it.
template <typename Bad>
Result<RespAddress> ParseAddress(std::string_view text, int default_port, const Bad& bad) {
  RespAddress address;
  address.port = default_port;
  size_t host_end = text.size();
  if (text.starts_with('[')) {
    host_end = text.find(']');
    if (host_end == std::string_view::npos) return bad("has no ']' after '['");
    address.host = text.substr(1, host_end - 1);
    ++host_end;
  } else {
    if (std::count(text.begin(), text.end(), ':') == 1) host_end = text.find(':');
    address.host = text.substr(0, host_end);
  }
  if (address.host.empty()) return bad("has no host");
  if (host_end >= text.size()) return address;
  if (text[host_end] != ':') return bad("goes on after ']' without ':'");
  const Result<int> port = ParsePort(text.substr(host_end + 1), "port");
  if (!port.ok()) return bad("has a " + port.status().message());
  address.port = *port;
  return address;
}

// Several servers, any of which will do.
template <typename Bad>
Result<std::vector<RespAddress>> ParseAddresses(std::string_view text, char separator,
                                                int default_port, const Bad& bad) {
  std::vector<RespAddress> addresses;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    PQCACHE_ASSIGN_OR_RETURN(RespAddress address,
                             ParseAddress(text.substr(begin, end - begin), default_port, bad));
    addresses.push_back(std::move(address));
    begin = end + 1;
  }
  return addresses;
}

Result<RespConfig> ReadSeeds(const SpecString& spec) {
  if (spec.args.contains("host")) {
    RespConfig config;
    const std::string hosts = spec.StringOr("host", "");
    PQCACHE_ASSIGN_OR_RETURN(const int port,
                             ParsePort(spec.StringOr("port", "6379"), spec.name + ":port"));
    PQCACHE_ASSIGN_OR_RETURN(
        config.seeds, ParseAddresses(hosts, '/', port, [&](const std::string& what) {
          return Status::InvalidArgument(spec.name + ":host is '" + hosts + "' and " + what +
                                         ", expected HOST or HOST:PORT, several joined by '/'");
        }));
    return config;
  }
  if (spec.args.contains("port")) {
    return Status::InvalidArgument(spec.name + ": has a port but no host, expected " + spec.name +
                                   ":host=H,port=P");
  }
  const std::string url = Environment(kRespUrlVariable);
  if (url.empty()) {
    return Status::InvalidArgument(spec.name + ": has no host, expected " + spec.name +
                                   ":host=H,port=P or an address in the environment variable " +
                                   kRespUrlVariable);
  }
  return ParseRespUrl(url);
}

}  // namespace

std::string RespAddress::ToString() const {
  const bool brackets = host.find(':') != std::string::npos;
  return (brackets ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

Result<RespConfig> ParseRespUrl(const std::string& url) {
  RespConfig config;
  std::string_view rest = url;
  if (rest.starts_with("rediss://")) {
    config.options.tls = true;
  } else if (!rest.starts_with("redis://")) {
    return BadUrl("has another scheme");
  }
  rest.remove_prefix(rest.find("://") + 3);
  // An '@' or '/' that is not encoded belongs to the password if an '@' follows.
  if (const size_t at = rest.rfind('@'); at != std::string_view::npos) {
    PQCACHE_RETURN_IF_ERROR(ParseUser(rest.substr(0, at), &config.options));
    rest.remove_prefix(at + 1);
  }
  const size_t path = rest.find_first_of("/?#");
  const std::string_view tail = path == std::string_view::npos ? "" : rest.substr(path);
  if (!tail.empty() && tail != "/" && tail != "/0") {
    return BadUrl("names a database or options after the host");
  }
  PQCACHE_ASSIGN_OR_RETURN(config.seeds,
                           ParseAddresses(rest.substr(0, path), ',', RespAddress{}.port, BadUrl));
  return config;
}

Result<RespConfig> ReadRespConfig(const SpecString& spec) {
  if (spec.args.contains("password")) {
    return Status::InvalidArgument(spec.name +
                                   ": has a password in the spec, expected it in the "
                                   "environment variable " +
                                   kRespPasswordVariable + ", where no list of processes shows it");
  }
  static constexpr std::string_view kKnown[] = {"host", "port", "timeout_ms", "tls", "ca", "user"};
  PQCACHE_RETURN_IF_ERROR(spec.CheckKnown(kKnown));
  PQCACHE_ASSIGN_OR_RETURN(RespConfig config, ReadSeeds(spec));
  RespOptions& options = config.options;
  PQCACHE_ASSIGN_OR_RETURN(const int64_t timeout,
                           spec.IntOr("timeout_ms", options.timeout.count()));
  if (timeout < 1 || timeout > kMaxTimeoutMs) {
    return Status::InvalidArgument(spec.name + ":timeout_ms is " + std::to_string(timeout) +
                                   ", expected 1 to " + std::to_string(kMaxTimeoutMs));
  }
  options.timeout = std::chrono::milliseconds(timeout);
  PQCACHE_ASSIGN_OR_RETURN(options.tls, spec.BoolOr("tls", options.tls));
  options.ca_file = spec.StringOr("ca", "");
  options.user = spec.StringOr("user", options.user);
  if (options.password.empty()) options.password = Environment(kRespPasswordVariable);
  if (!options.ca_file.empty() && !options.tls) {
    return Status::InvalidArgument(spec.name + ":ca is set without TLS, expected tls=true as well");
  }
  if (!options.user.empty() && options.password.empty()) {
    return Status::InvalidArgument(spec.name + ":user is '" + options.user +
                                   "' without a password, expected one in " +
                                   kRespPasswordVariable);
  }
  return config;
}

}  // namespace pqcache::storage
