#pragma once

// EXPECT_OK, ASSERT_OK for Status and Result; ExpectError checks code and a piece of the message.

#include <gtest/gtest.h>

#include <string>

#include "pqcache/base/status.h"

namespace pqcache::testing {

inline Status StatusOf(const Status& s) { return s; }
template <typename T>
Status StatusOf(const Result<T>& r) {
  return r.status();
}

template <typename T>
void ExpectError(const T& outcome, StatusCode code, const std::string& piece) {
  const Status s = StatusOf(outcome);
  EXPECT_EQ(StatusCodeName(s.code()), StatusCodeName(code)) << s.message();
  EXPECT_NE(s.message().find(piece), std::string::npos)
      << "message: " << s.message() << "\nexpected in it: " << piece;
}

}  // namespace pqcache::testing

#define EXPECT_OK(expr)                                                \
  do {                                                                 \
    const ::pqcache::Status pq_s = ::pqcache::testing::StatusOf(expr); \
    EXPECT_TRUE(pq_s.ok()) << pq_s.message();                          \
  } while (0)
#define ASSERT_OK(expr)                                                \
  do {                                                                 \
    const ::pqcache::Status pq_s = ::pqcache::testing::StatusOf(expr); \
    ASSERT_TRUE(pq_s.ok()) << pq_s.message();                          \
  } while (0)
