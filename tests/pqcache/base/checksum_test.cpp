#include "pqcache/base/checksum.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pqcache {
namespace {

uint64_t ChecksumOf(std::string_view text) { return Checksum64(text.data(), text.size()); }

TEST(Checksum64, MatchesKnownTexts) {
  EXPECT_EQ(ChecksumOf(""), 0x2d06800538d394c2u);
  EXPECT_EQ(ChecksumOf("a"), 0xe6c632b61e964e1fu);
  EXPECT_EQ(ChecksumOf("abc"), 0x78af5f94892f3950u);
}

// The published self-test of xxHash: prefixes of a generated buffer, one for every code path.
TEST(Checksum64, MatchesThePublishedVectors) {
  std::vector<uint8_t> buffer(2367);
  uint64_t generator = 2654435761u;
  for (uint8_t& byte : buffer) {
    byte = static_cast<uint8_t>(generator >> 56);
    generator *= 11400714785074694797u;
  }
  const struct {
    size_t size;
    uint64_t checksum;
  } rows[] = {{1, 0xc44bdff4074eecdb},    {6, 0x27b56a84cd2d7325},    {12, 0xa713daf0dfbb77e7},
              {24, 0xa3fe70bf9d3510eb},   {48, 0x397da259ecba1f11},   {80, 0xbcdefbbb2c47c90a},
              {195, 0xcd94217ee362ec3a},  {403, 0xcdeb804d65c6dea4},  {512, 0x617e49599013cb6b},
              {2048, 0xdd59e2c3a5f038e0}, {2240, 0x6e73a90539cf2948}, {2367, 0xcb37aeb9e5d361ed}};
  for (const auto& row : rows) {
    EXPECT_EQ(Checksum64(buffer.data(), row.size), row.checksum) << row.size << " bytes";
  }
}

TEST(Checksum64, PartsCountAsOneText) {
  std::vector<uint8_t> bytes(1000);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * i);
  const std::span<const uint8_t> all = bytes;
  const uint64_t expected = Checksum64(bytes.data(), bytes.size());
  EXPECT_EQ(Checksum64({all}), expected);
  for (const size_t cut : {0, 1, 256, 257, 999, 1000}) {
    EXPECT_EQ(Checksum64({all.first(cut), {}, all.subspan(cut)}), expected) << cut;
  }
  EXPECT_EQ(Checksum64({}), ChecksumOf(""));
}

TEST(Fingerprint, IsTheFirstHalfOfSha256) {
  EXPECT_EQ(FingerprintOf("").Hex(), "e3b0c44298fc1c149afbf4c8996fb924");
  EXPECT_EQ(FingerprintOf("abc").Hex(), "ba7816bf8f01cfea414140de5dae2223");
  EXPECT_EQ(FingerprintOf(std::string(1000000, 'a')).Hex(), "cdc76e5c9914fb9281a1c7e284d73e67");
  EXPECT_EQ(Fingerprint().Hex(), std::string(32, '0'));
}

TEST(Fingerprint, ComparesByBytes) {
  EXPECT_EQ(FingerprintOf("a"), FingerprintOf("a"));
  EXPECT_NE(FingerprintOf("a"), FingerprintOf(std::string_view("a\0", 2)));
}

}  // namespace
}  // namespace pqcache
