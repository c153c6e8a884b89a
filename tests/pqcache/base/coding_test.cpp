#include "pqcache/base/coding.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

namespace pqcache {
namespace {

constexpr uint64_t kValues[] = {0,
                                1,
                                0x7f,
                                0x80,
                                0xff,
                                0x100,
                                0xfffe,
                                0x10000,
                                0x7fffffff,
                                0x80000000,
                                0xffffffff,
                                0x0123456789abcdef,
                                uint64_t{1} << 63,
                                ~uint64_t{0}};

TEST(Coding, LayoutIsFixed) {
  std::string out;
  PutFixed32(&out, 0x01020384);
  PutBigEndian32(&out, 0x01020384);
  EXPECT_EQ(out, "\x84\x03\x02\x01\x01\x02\x03\x84");
  out.clear();
  PutFixed64(&out, 0x0102030405060788);
  PutBigEndian64(&out, 0x0102030405060788);
  EXPECT_EQ(out, "\x88\x07\x06\x05\x04\x03\x02\x01\x01\x02\x03\x04\x05\x06\x07\x88");
}

TEST(Coding, LittleEndianRoundTripsAtAnyAlignment) {
  for (const uint64_t v : kValues) {
    for (size_t shift = 0; shift < 8; ++shift) {
      std::string out(shift, 'x');
      PutFixed64(&out, v);
      PutFixed32(&out, static_cast<uint32_t>(v));
      EXPECT_EQ(GetFixed64(out.data() + shift), v);
      EXPECT_EQ(GetFixed32(out.data() + shift + 8), static_cast<uint32_t>(v));
    }
  }
}

TEST(Coding, BigEndianBytesOrderLikeNumbers) {
  for (const uint64_t a : kValues) {
    for (const uint64_t b : kValues) {
      std::string x, y;
      PutBigEndian64(&x, a);
      PutBigEndian64(&y, b);
      EXPECT_EQ(x < y, a < b) << a << " " << b;
      x.clear();
      y.clear();
      PutBigEndian32(&x, static_cast<uint32_t>(a));
      PutBigEndian32(&y, static_cast<uint32_t>(b));
      EXPECT_EQ(x < y, static_cast<uint32_t>(a) < static_cast<uint32_t>(b)) << a << " " << b;
    }
  }
}

}  // namespace
}  // namespace pqcache
