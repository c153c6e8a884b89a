#pragma once

// The bytes of the Redis protocol (RESP2): replies as values, commands as bytes.
//
// A reply comes from another machine and may be hostile. What it takes here is bounded by what was
// received and by the limits below; anything beyond them, and anything that is no RESP2, is
// Corruption. Values are plain; a reader belongs to one thread at a time.

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pqcache/base/status.h"

namespace pqcache::storage {

inline constexpr uint64_t kMaxLineBytes = 64 << 10;              // a status, an error, a length
inline constexpr uint64_t kMaxBulkBytes = uint64_t{64} << 20;    // one string
inline constexpr uint64_t kMaxReplyBytes = uint64_t{256} << 20;  // all strings of a reply
inline constexpr uint64_t kMaxReplyElements = 1 << 20;  // of all arrays of a reply; 7 levels deep

struct RespReply {
  enum class Kind { kNil, kInteger, kStatus, kError, kString, kArray };

  Kind kind = Kind::kNil;
  int64_t integer = 0;
  std::string text;                 // of a status, an error or a string
  std::vector<RespReply> elements;  // of an array

  bool is(Kind k) const { return kind == k; }
  // An error whose first word is `code`.
  bool IsError(std::string_view code) const;
};

// "error 'OOM command not allowed'", "integer 5": for messages. At most some 200 bytes, printable.
std::string DescribeReply(const RespReply& reply);

// Takes bytes as they come and gives replies as they become complete.
class RespReader {
 public:
  RespReader();
  ~RespReader();
  RespReader(RespReader&&) noexcept;
  RespReader& operator=(RespReader&&) noexcept;

  // Next must be called until it has nothing before more is fed: it keeps the limits.
  void Feed(std::string_view bytes);
  // Nothing if the bytes end before the reply does. After an error the reader is of no more use.
  Result<std::optional<RespReply>> Next();
  // No byte has been fed that is not part of a reply handed out.
  bool idle() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// All replies in `bytes`; Corruption if they end within one.
Result<std::vector<RespReply>> ParseReplies(std::string_view bytes);

// Appends a command. Arguments may hold any bytes.
void AppendCommand(std::span<const std::string_view> args, std::string* out);
inline void AppendCommand(std::initializer_list<std::string_view> args, std::string* out) {
  AppendCommand(std::span(args.begin(), args.size()), out);
}

}  // namespace pqcache::storage
