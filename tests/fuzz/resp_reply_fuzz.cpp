// The input is a stream of replies, read at once and in two pieces.

#include "pqcache/base/check.h"
#include "pqcache/base/checksum.h"
#include "storage/resp_reply.h"
#include "tests/fuzz/fuzz_bytes.h"

namespace pqcache::storage {
namespace {

using Kind = RespReply::Kind;

void Append(const RespReply& reply, std::string* out) {
  switch (reply.kind) {
    case Kind::kNil:
      *out += "$-1\r\n";
      return;
    case Kind::kInteger:
      *out += ':' + std::to_string(reply.integer) + "\r\n";
      return;
    case Kind::kStatus:
      *out += '+' + reply.text + "\r\n";
      return;
    case Kind::kError:
      *out += '-' + reply.text + "\r\n";
      return;
    case Kind::kString:
      *out += '$' + std::to_string(reply.text.size()) + "\r\n" + reply.text + "\r\n";
      return;
    case Kind::kArray:
      *out += '*' + std::to_string(reply.elements.size()) + "\r\n";
      for (const RespReply& element : reply.elements) Append(element, out);
  }
}

std::string BytesOf(const std::vector<RespReply>& replies) {
  std::string bytes;
  for (const RespReply& reply : replies) {
    PQCACHE_CHECK(DescribeReply(reply).size() <= 200, "a long description");
    Append(reply, &bytes);
  }
  return bytes;
}

Status TakeReplies(RespReader* reader, std::vector<RespReply>* replies) {
  while (true) {
    PQCACHE_ASSIGN_OR_RETURN(std::optional<RespReply> reply, reader->Next());
    if (!reply) return Status::Ok();
    replies->push_back(*std::move(reply));
  }
}

Result<std::vector<RespReply>> ParseInTwo(std::string_view bytes, size_t cut) {
  RespReader reader;
  std::vector<RespReply> replies;
  reader.Feed(bytes.substr(0, cut));
  PQCACHE_RETURN_IF_ERROR(TakeReplies(&reader, &replies));
  reader.Feed(bytes.substr(cut));
  PQCACHE_RETURN_IF_ERROR(TakeReplies(&reader, &replies));
  if (!reader.idle()) return Status::Corruption("ends within a reply");
  return replies;
}

void Try(std::string_view bytes) {
  const size_t cut = Checksum64(bytes.data(), bytes.size()) % (bytes.size() + 1);
  const auto whole = ParseReplies(bytes);
  const auto pieces = ParseInTwo(bytes, cut);
  PQCACHE_CHECK(whole.ok() == pieces.ok(), "the place of the cut matters");
  if (!whole.ok()) {
    PQCACHE_CHECK(whole.status().code() == StatusCode::kCorruption, "another error");
    return;
  }
  PQCACHE_CHECK(bytes.empty() || bytes.ends_with("\r\n"), "a reply without its end");
  const std::string written = BytesOf(*whole);
  PQCACHE_CHECK(written.size() <= bytes.size(), "more than sent");
  PQCACHE_CHECK(BytesOf(*pieces) == written, "the place of the cut matters");
  const auto again = ParseReplies(written);
  PQCACHE_CHECK(again.ok() && BytesOf(*again) == written, "writing changes what is read");
}

}  // namespace
}  // namespace pqcache::storage

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  pqcache::storage::Try(pqcache::testing::TextOf({data, size}));
  return 0;
}
