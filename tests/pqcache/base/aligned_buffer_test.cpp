#include "pqcache/base/aligned_buffer.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

namespace pqcache {
namespace {

static_assert(!std::is_copy_constructible_v<AlignedBuffer<float>>);
static_assert(std::is_nothrow_move_constructible_v<AlignedBuffer<float>>);

template <typename T>
bool IsAligned(const AlignedBuffer<T>& buffer) {
  return reinterpret_cast<uintptr_t>(buffer.data()) % AlignedBuffer<T>::kAlignment == 0;
}

TEST(AlignedBuffer, IsAlignedAndZeroed) {
  for (const size_t size : {1, 3, 16, 17, 1000}) {
    const AlignedBuffer<float> floats(size);
    const AlignedBuffer<uint8_t> bytes(size);
    EXPECT_TRUE(IsAligned(floats) && IsAligned(bytes)) << size;
    EXPECT_EQ(floats.size(), size);
    EXPECT_EQ(floats.span().size(), size);
    EXPECT_GE(floats.capacity_bytes(), size * sizeof(float));
    for (const float v : floats.span()) EXPECT_EQ(v, 0.0f);
    for (const uint8_t v : bytes.span()) EXPECT_EQ(v, 0);
  }
}

TEST(AlignedBuffer, ForOverwriteHasTheSizeAndGrowsWithZeroes) {
  AlignedBuffer<int> buffer = AlignedBuffer<int>::ForOverwrite(3);
  EXPECT_EQ(buffer.size(), 3u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
  for (int i = 0; i < 3; ++i) buffer[static_cast<size_t>(i)] = i + 1;
  buffer.Resize(5);
  EXPECT_EQ(std::vector<int>(buffer.data(), buffer.data() + 5), (std::vector<int>{1, 2, 3, 0, 0}));
  EXPECT_EQ(AlignedBuffer<int>::ForOverwrite(0).size(), 0u);
}

TEST(AlignedBuffer, StartsEmpty) {
  AlignedBuffer<int> buffer;
  EXPECT_EQ(buffer.size(), 0u);
  EXPECT_EQ(buffer.capacity_bytes(), 0u);
  EXPECT_TRUE(buffer.span().empty());
  buffer.Resize(0);
  EXPECT_EQ(buffer.size(), 0u);
}

TEST(AlignedBuffer, GrowingKeepsOldElementsAndZeroesNewOnes) {
  AlignedBuffer<int> buffer;
  for (size_t size = 1; size <= 3000; size += size / 3 + 1) {
    const size_t before = buffer.size();
    buffer.Resize(size);
    EXPECT_TRUE(IsAligned(buffer));
    for (size_t i = 0; i < size; ++i) {
      ASSERT_EQ(buffer[i], i < before ? static_cast<int>(i) + 1 : 0);
      buffer[i] = static_cast<int>(i) + 1;
    }
  }
}

TEST(AlignedBuffer, ShrinkingAndGrowingAgainZeroes) {
  AlignedBuffer<int> buffer(100);
  for (int& v : buffer.span()) v = 5;
  const int* memory = buffer.data();
  buffer.Resize(10);
  EXPECT_EQ(buffer.size(), 10u);
  buffer.Resize(100);
  EXPECT_EQ(buffer.data(), memory);
  for (size_t i = 0; i < 100; ++i) EXPECT_EQ(buffer[i], i < 10 ? 5 : 0);
}

TEST(AlignedBuffer, CapacityDoubles) {
  AlignedBuffer<uint8_t> buffer;
  int moves = 0;
  const uint8_t* last = nullptr;
  for (size_t size = 1; size <= 100000; ++size) {
    buffer.Resize(size);
    moves += buffer.data() != last ? 1 : 0;
    last = buffer.data();
  }
  EXPECT_LE(moves, 12);  // 64 bytes doubled until they exceed 100,000
}

TEST(AlignedBuffer, MovesItsMemoryAndLeavesAnEmptyBuffer) {
  AlignedBuffer<int> source(50);
  source[7] = 3;
  const int* memory = source.data();
  AlignedBuffer<int> target(std::move(source));
  EXPECT_EQ(target.data(), memory);
  EXPECT_EQ(target[7], 3);
  EXPECT_EQ(source.size(), 0u);
  source.Resize(20);  // usable again
  EXPECT_EQ(source[19], 0);

  AlignedBuffer<int> other(5);
  other = std::move(target);
  EXPECT_EQ(other.data(), memory);
  EXPECT_EQ(other.size(), 50u);
  EXPECT_EQ(target.size(), 0u);
}

}  // namespace
}  // namespace pqcache
