#pragma once

// Status and Result<T>: how every function reports a failure that depends on data, files, devices
// or a user's flag. Programmer faults use PQCACHE_CHECK (check.h) instead.
//
// A message says what was found, then what was expected, with the name of the thing. Each level
// may add a prefix with Annotate ("layer 3 head 1: ..."), none drops one.
// Values are immutable after construction and may be read from any thread.

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "pqcache/base/check.h"

namespace pqcache {

enum class StatusCode {
  kOk,
  kInvalidArgument,  // a flag, shape or option that cannot be used
  kNotFound,         // a file, page or name that is absent
  kCorruption,       // bytes that fail their checksum or break their format
  kIoError,          // the operating system or a store refused an operation
  kOutOfMemory,      // a memory budget does not suffice
  kUnsupported,      // well-formed, but not something this build can do
  kInternal,         // a library failed in a way that none of the above names
};

// Lower-case name of a code, e.g. "corruption".
std::string_view StatusCodeName(StatusCode code);

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message);

  static Status Ok() { return {}; }
  static Status InvalidArgument(std::string m) {
    return {StatusCode::kInvalidArgument, std::move(m)};
  }
  static Status NotFound(std::string m) { return {StatusCode::kNotFound, std::move(m)}; }
  static Status Corruption(std::string m) { return {StatusCode::kCorruption, std::move(m)}; }
  static Status IoError(std::string m) { return {StatusCode::kIoError, std::move(m)}; }
  static Status OutOfMemory(std::string m) { return {StatusCode::kOutOfMemory, std::move(m)}; }
  static Status Unsupported(std::string m) { return {StatusCode::kUnsupported, std::move(m)}; }
  static Status Internal(std::string m) { return {StatusCode::kInternal, std::move(m)}; }

  bool ok() const { return state_ == nullptr; }
  StatusCode code() const { return ok() ? StatusCode::kOk : state_->code; }
  // Empty when ok().
  const std::string& message() const;
  // The same status with `prefix` before its message; ok stays ok.
  Status Annotate(std::string_view prefix) const;

 private:
  struct State {
    StatusCode code;
    std::string message;
  };
  std::shared_ptr<const State> state_;
};

// A value or the Status that explains its absence. value() may only be called when ok().
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : data_(std::in_place_index<1>, std::move(value)) {}
  Result(Status status) : data_(std::in_place_index<0>, std::move(status)) {
    PQCACHE_CHECK(!std::get<0>(data_).ok(), "a Result needs a value or an error");
  }

  bool ok() const { return data_.index() == 1; }
  Status status() const { return ok() ? Status::Ok() : std::get<0>(data_); }

  T& value() & { return Checked(); }
  const T& value() const& { return const_cast<Result*>(this)->Checked(); }
  T&& value() && { return std::move(Checked()); }
  T& operator*() & { return Checked(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(Checked()); }
  T* operator->() { return &Checked(); }
  const T* operator->() const { return &value(); }

 private:
  T& Checked() {
    PQCACHE_CHECK(ok(), std::get<0>(data_).message().c_str());
    return std::get<1>(data_);
  }
  std::variant<Status, T> data_;
};

}  // namespace pqcache

// Leaves the enclosing function with the error, if there is one.
#define PQCACHE_RETURN_IF_ERROR(expr)                            \
  do {                                                           \
    if (::pqcache::Status pq_status = (expr); !pq_status.ok()) { \
      return pq_status;                                          \
    }                                                            \
  } while (0)

#define PQCACHE_CONCAT_INNER(a, b) a##b
#define PQCACHE_CONCAT(a, b) PQCACHE_CONCAT_INNER(a, b)
// PQCACHE_ASSIGN_OR_RETURN(auto x, MakeX()): declares or assigns x, or leaves with the error.
#define PQCACHE_ASSIGN_OR_RETURN(lhs, expr)               \
  auto PQCACHE_CONCAT(pq_result_, __LINE__) = (expr);     \
  if (!PQCACHE_CONCAT(pq_result_, __LINE__).ok()) {       \
    return PQCACHE_CONCAT(pq_result_, __LINE__).status(); \
  }                                                       \
  lhs = std::move(PQCACHE_CONCAT(pq_result_, __LINE__)).value()
