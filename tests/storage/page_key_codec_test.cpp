#include "storage/page_key_codec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/storage/page_samples.h"

namespace pqcache::storage {
namespace {

using namespace pqcache::testing;

TEST(PageKeyCodec, WritesTheDocumentedBytes) {
  const PageKey key = SampleKey("text", 0x0102030405060708, 0x11121314, 0x21222324);
  std::string identity;
  for (const char* name : {"tenant", "model", "text"}) {
    const Fingerprint f = FingerprintOf(name);
    identity.append(f.bytes.begin(), f.bytes.end());
  }
  const Fingerprint hash = FingerprintOf(identity);
  const std::string bytes = EncodePageKey(key);
  ASSERT_EQ(bytes.size(), kPageKeyBytes);
  EXPECT_EQ(bytes.substr(0, 16), std::string(hash.bytes.begin(), hash.bytes.end()));
  EXPECT_EQ(bytes.substr(16), "\x11\x12\x13\x14\x21\x22\x23\x24\x01\x02\x03\x04\x05\x06\x07\x08");
}

TEST(PageKeyCodec, OrdersByLayerThenHeadThenPage) {
  const int64_t values[] = {0, 1, 127, 128, 255, 256, 65535, 65536, INT32_MAX};
  std::vector<std::string> keys;
  for (const int64_t layer : values) {
    for (const int64_t head : values) {
      for (const int64_t page : values) {
        keys.push_back(EncodePageKey(
            SampleKey("a", page, static_cast<int32_t>(layer), static_cast<int32_t>(head))));
      }
      keys.push_back(EncodePageKey(
          SampleKey("a", INT64_MAX, static_cast<int32_t>(layer), static_cast<int32_t>(head))));
    }
  }
  EXPECT_TRUE(std::is_sorted(keys.begin(), keys.end()));
  EXPECT_EQ(std::adjacent_find(keys.begin(), keys.end()), keys.end());
}

TEST(PageKeyCodec, RangeHoldsExactlyTheContext) {
  for (int i = 0; i < 200; ++i) {
    const std::string name = std::to_string(i);
    const PageKeyRange range = ContextKeyRange(SampleContext(name));
    EXPECT_LE(range.begin, EncodePageKey(SampleKey(name, 0)));
    EXPECT_LT(EncodePageKey(SampleKey(name, INT64_MAX, INT32_MAX, INT32_MAX)), range.end);
    for (int j = 0; j < 200; ++j) {
      if (i == j) continue;
      const std::string other = EncodePageKey(SampleKey(std::to_string(j), 3, 3, 3));
      EXPECT_TRUE(other < range.begin || other >= range.end);
    }
  }
}

}  // namespace
}  // namespace pqcache::storage
