#include "storage/resp_reply.h"

#include <hiredis/hiredis.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "pqcache/base/check.h"

namespace pqcache::storage {
namespace {

// Of the reply being built.
struct Usage {
  uint64_t bytes = 0;
  uint64_t elements = 0;
  const char* fault = nullptr;  // why it is refused
};

// A place for the next value: in its parent array, or a new root, which the reader owns. Arrays
// grow as elements arrive and never to the size that was announced.
RespReply* NewReply(const redisReadTask* task, RespReply::Kind kind, uint64_t bytes) {
  auto* usage = static_cast<Usage*>(task->privdata);
  usage->bytes += bytes;
  ++usage->elements;
  if (bytes > kMaxBulkBytes) usage->fault = "a string is longer than the limit";
  if (usage->bytes > kMaxReplyBytes) usage->fault = "has more bytes than the limit";
  if (usage->elements > kMaxReplyElements) usage->fault = "has more elements than the limit";
  if (usage->fault != nullptr) return nullptr;
  RespReply* reply;
  if (task->parent == nullptr) {
    reply = new RespReply;
  } else {
    reply = &static_cast<RespReply*>(task->parent->obj)->elements.emplace_back();
  }
  reply->kind = kind;
  return reply;
}

void* CreateString(const redisReadTask* task, char* data, size_t size) {
  const RespReply::Kind kind = task->type == REDIS_REPLY_ERROR    ? RespReply::Kind::kError
                               : task->type == REDIS_REPLY_STATUS ? RespReply::Kind::kStatus
                                                                  : RespReply::Kind::kString;
  // hiredis skips what follows a string without a look.
  if (kind == RespReply::Kind::kString && (data[size] != '\r' || data[size + 1] != '\n')) {
    static_cast<Usage*>(task->privdata)->fault = "a string does not end where it should";
    return nullptr;
  }
  RespReply* reply = NewReply(task, kind, size);
  if (reply != nullptr) reply->text.assign(data, size);
  return reply;
}

void* CreateArray(const redisReadTask* task, int) {
  return NewReply(task, RespReply::Kind::kArray, 0);
}

void* CreateInteger(const redisReadTask* task, long long value) {
  RespReply* reply = NewReply(task, RespReply::Kind::kInteger, 0);
  if (reply != nullptr) reply->integer = value;
  return reply;
}

void* CreateNil(const redisReadTask* task) { return NewReply(task, RespReply::Kind::kNil, 0); }

// Called for roots only.
void FreeReply(void* reply) { delete static_cast<RespReply*>(reply); }

redisReplyObjectFunctions kFunctions = {CreateString, CreateArray, CreateInteger, CreateNil,
                                        FreeReply};

std::string Printable(std::string_view text) {
  constexpr size_t kShown = 160;
  std::string out;
  for (const char c : text.substr(0, kShown)) out.push_back(c >= ' ' && c <= '~' ? c : '?');
  return text.size() > kShown ? out + "..." : out;
}

// What waits in the reader is one value that has not come whole.
Status CheckWaiting(const redisReader& reader) {
  const std::string_view waiting(reader.buf + reader.pos, reader.len - reader.pos);
  const size_t line = waiting.substr(0, kMaxLineBytes).find("\r\n");
  if (line == std::string_view::npos) {
    if (waiting.size() < kMaxLineBytes) return Status::Ok();
    return Status::Corruption("reply: a line goes on after " + std::to_string(kMaxLineBytes) +
                              " bytes, expected its end");
  }
  if (reader.ridx < 0 || reader.rstack[reader.ridx].type != REDIS_REPLY_STRING) {
    return Status::Ok();
  }
  uint64_t announced = 0;
  const auto parsed = std::from_chars(waiting.data(), waiting.data() + line, announced);
  if (parsed.ec == std::errc() && announced <= kMaxBulkBytes) return Status::Ok();
  return Status::Corruption("reply: announces a string of " + Printable(waiting.substr(0, line)) +
                            " bytes, expected at most " + std::to_string(kMaxBulkBytes));
}

}  // namespace

bool RespReply::IsError(std::string_view code) const {
  return kind == Kind::kError && text.starts_with(code) &&
         (text.size() == code.size() || text[code.size()] == ' ');
}

std::string DescribeReply(const RespReply& reply) {
  switch (reply.kind) {
    case RespReply::Kind::kNil:
      return "nil";
    case RespReply::Kind::kInteger:
      return "integer " + std::to_string(reply.integer);
    case RespReply::Kind::kStatus:
      return "status '" + Printable(reply.text) + "'";
    case RespReply::Kind::kError:
      return "error '" + Printable(reply.text) + "'";
    case RespReply::Kind::kString:
      return "a string of " + std::to_string(reply.text.size()) + " bytes";
    case RespReply::Kind::kArray:
      return "an array of " + std::to_string(reply.elements.size());
  }
  return "unknown";
}

struct RespReader::Impl {
  redisReader* reader = redisReaderCreateWithFunctions(&kFunctions);
  Usage usage;

  Impl() {
    PQCACHE_CHECK(reader != nullptr, "no memory for a reader of replies");
    reader->privdata = &usage;
  }
  ~Impl() { redisReaderFree(reader); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
};

RespReader::RespReader() : impl_(std::make_unique<Impl>()) {}
RespReader::~RespReader() = default;
RespReader::RespReader(RespReader&&) noexcept = default;
RespReader& RespReader::operator=(RespReader&&) noexcept = default;

void RespReader::Feed(std::string_view bytes) {
  // Its failure stays in the reader, for Next.
  if (!bytes.empty()) (void)redisReaderFeed(impl_->reader, bytes.data(), bytes.size());
}

Result<std::optional<RespReply>> RespReader::Next() {
  void* root = nullptr;
  if (redisReaderGetReply(impl_->reader, &root) != REDIS_OK) {
    const char* fault = impl_->usage.fault;
    return Status::Corruption(
        "reply: " + (fault != nullptr ? fault : Printable(impl_->reader->errstr)) +
        ", expected RESP2");
  }
  if (root == nullptr) {
    PQCACHE_RETURN_IF_ERROR(CheckWaiting(*impl_->reader));
    return std::optional<RespReply>();
  }
  const std::unique_ptr<RespReply> owner(static_cast<RespReply*>(root));
  impl_->usage = {};
  return std::optional<RespReply>(std::move(*owner));
}

// Asked for a reply without bytes, hiredis has begun one of no type yet.
bool RespReader::idle() const {
  const redisReader& reader = *impl_->reader;
  const bool begun = reader.ridx > 0 || (reader.ridx == 0 && reader.rstack[0].type >= 0);
  return !begun && reader.pos == reader.len;
}

Result<std::vector<RespReply>> ParseReplies(std::string_view bytes) {
  RespReader reader;
  reader.Feed(bytes);
  std::vector<RespReply> replies;
  while (true) {
    PQCACHE_ASSIGN_OR_RETURN(std::optional<RespReply> reply, reader.Next());
    if (reply) {
      replies.push_back(*std::move(reply));
    } else if (reader.idle()) {
      return replies;
    } else {
      return Status::Corruption("reply: " + std::to_string(bytes.size()) +
                                " bytes end within a reply, expected whole ones");
    }
  }
}

void AppendCommand(std::span<const std::string_view> args, std::string* out) {
  *out += '*' + std::to_string(args.size()) + "\r\n";
  for (const std::string_view arg : args) {
    *out += '$' + std::to_string(arg.size()) + "\r\n";
    out->append(arg);
    *out += "\r\n";
  }
}

}  // namespace pqcache::storage
