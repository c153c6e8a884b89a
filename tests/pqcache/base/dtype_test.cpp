#include "pqcache/base/dtype.h"

#include <gtest/gtest.h>

namespace pqcache {
namespace {

// Numbers and sizes are part of the file formats.
TEST(DType, NumbersSizesAndNamesAreFixed) {
  const struct {
    DType type;
    uint32_t number;
    size_t size;
    std::string_view name;
  } rows[] = {{DType::kF32, 1, 4, "f32"}, {DType::kBF16, 2, 2, "bf16"}, {DType::kF16, 3, 2, "f16"},
              {DType::kF64, 4, 8, "f64"}, {DType::kI64, 5, 8, "i64"},   {DType::kI32, 6, 4, "i32"},
              {DType::kU8, 7, 1, "u8"}};
  for (const auto& row : rows) {
    EXPECT_EQ(static_cast<uint32_t>(row.type), row.number);
    EXPECT_EQ(DTypeSize(row.type), row.size);
    EXPECT_EQ(DTypeName(row.type), row.name);
  }
  EXPECT_EQ(DTypeSize(static_cast<DType>(99)), 0u);
  EXPECT_EQ(DTypeName(static_cast<DType>(99)), "unknown");
}

}  // namespace
}  // namespace pqcache
