#include "pqcache/base/status.h"

#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>
#include <string_view>

#include "tests/support/status_matchers.h"

namespace pqcache {
namespace {

using testing::ExpectError;

TEST(Status, IsOkByDefault) {
  EXPECT_TRUE(Status().ok());
  EXPECT_TRUE(Status::Ok().ok());
  EXPECT_EQ(Status().code(), StatusCode::kOk);
  EXPECT_EQ(Status().message(), "");
  EXPECT_TRUE(Status(StatusCode::kOk, "dropped").ok());
  EXPECT_EQ(Status(StatusCode::kOk, "dropped").message(), "");
}

TEST(Status, FactoriesGiveTheirCodes) {
  const struct {
    Status status;
    StatusCode code;
    std::string_view name;
  } rows[] = {
      {Status::InvalidArgument("m"), StatusCode::kInvalidArgument, "invalid argument"},
      {Status::NotFound("m"), StatusCode::kNotFound, "not found"},
      {Status::Corruption("m"), StatusCode::kCorruption, "corruption"},
      {Status::IoError("m"), StatusCode::kIoError, "io error"},
      {Status::OutOfMemory("m"), StatusCode::kOutOfMemory, "out of memory"},
      {Status::Unsupported("m"), StatusCode::kUnsupported, "unsupported"},
      {Status::Internal("m"), StatusCode::kInternal, "internal"},
  };
  std::set<std::string_view> names = {StatusCodeName(StatusCode::kOk)};
  for (const auto& row : rows) {
    EXPECT_FALSE(row.status.ok());
    EXPECT_EQ(row.status.code(), row.code);
    EXPECT_EQ(row.status.message(), "m");
    EXPECT_EQ(StatusCodeName(row.code), row.name);
    EXPECT_TRUE(names.insert(row.name).second) << row.name;
  }
}

TEST(Status, AnnotatePrefixesAndKeepsTheOriginal) {
  const Status inner = Status::Corruption("checksum differs");
  const Status outer = inner.Annotate("head 1").Annotate("layer 3");
  EXPECT_EQ(outer.code(), StatusCode::kCorruption);
  EXPECT_EQ(outer.message(), "layer 3: head 1: checksum differs");
  EXPECT_EQ(inner.message(), "checksum differs");
  EXPECT_TRUE(Status::Ok().Annotate("layer 3").ok());
}

TEST(Status, CopiesOutliveTheOriginal) {
  Status copy;
  {
    const Status original = Status::IoError("disk");
    copy = original;
  }
  EXPECT_EQ(copy.message(), "disk");
}

TEST(Result, HoldsAValueOrAnError) {
  Result<std::string> good = std::string("value");
  ASSERT_OK(good);
  EXPECT_EQ(*good, "value");
  EXPECT_EQ(good->size(), 5u);
  good.value() += "s";
  EXPECT_EQ(good.value(), "values");

  const Result<std::string> bad = Status::NotFound("no value");
  EXPECT_FALSE(bad.ok());
  ExpectError(bad, StatusCode::kNotFound, "no value");
}

TEST(Result, MovesOutWhatCannotBeCopied) {
  Result<std::unique_ptr<int>> result = std::make_unique<int>(7);
  const std::unique_ptr<int> taken = std::move(result).value();
  EXPECT_EQ(*taken, 7);
  Result<std::unique_ptr<int>> again = std::make_unique<int>(8);
  EXPECT_EQ(*std::unique_ptr<int>(*std::move(again)), 8);
}

TEST(ResultDeathTest, RefusesMisuse) {
  Result<int> bad = Status::NotFound("no such page");
  EXPECT_DEATH((void)bad.value(), "no such page");
  EXPECT_DEATH((void)*bad, "no such page");
  EXPECT_DEATH((void)Result<int>{Status::Ok()}, "needs a value or an error");
}

Result<int> Halve(int x) {
  if (x % 2 != 0) return Status::InvalidArgument(std::to_string(x) + " is odd, expected even");
  return x / 2;
}

Result<int> QuarterPlusOne(int x, int* reached) {
  PQCACHE_ASSIGN_OR_RETURN(const int half, Halve(x));
  ++*reached;
  int quarter = 0;
  PQCACHE_ASSIGN_OR_RETURN(quarter, Halve(half));
  ++*reached;
  return quarter + 1;
}

Status RequireEven(int x, int* reached) {
  PQCACHE_RETURN_IF_ERROR(Halve(x).status());
  ++*reached;
  return Status::Ok();
}

TEST(Macros, LeaveAtTheFirstError) {
  int reached = 0;
  EXPECT_EQ(*QuarterPlusOne(8, &reached), 3);
  EXPECT_EQ(reached, 2);
  reached = 0;
  ExpectError(QuarterPlusOne(6, &reached), StatusCode::kInvalidArgument, "3 is odd");
  EXPECT_EQ(reached, 1);
  reached = 0;
  ExpectError(RequireEven(5, &reached), StatusCode::kInvalidArgument, "5 is odd");
  EXPECT_EQ(reached, 0);
  EXPECT_OK(RequireEven(4, &reached));
  EXPECT_EQ(reached, 1);
}

}  // namespace
}  // namespace pqcache
