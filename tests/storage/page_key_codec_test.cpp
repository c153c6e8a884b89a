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
  PageKey key = SampleKey("text", 0x0102030405060708, 0x11121314, 0x21222324);
  key.kind = PageKind::kTokens;
  std::string identity;
  for (const char* name : {"tenant", "model", "text"}) {
    const Fingerprint f = FingerprintOf(name);
    identity.append(f.bytes.begin(), f.bytes.end());
  }
  const Fingerprint hash = FingerprintOf(identity);
  const std::string bytes = EncodePageKey(key);
  ASSERT_EQ(bytes.size(), kPageKeyBytes);
  EXPECT_EQ(bytes.substr(0, 16), std::string(hash.bytes.begin(), hash.bytes.end()));
  EXPECT_EQ(bytes.substr(16),
            std::string("\x11\x12\x13\x14\x03\x01\x02\x03\x04\x05\x06\x07\x08\x21\x22\x23\x24"));
}

TEST(PageKeyCodec, OrdersByLayerThenPageThenHead) {
  const int64_t values[] = {0, 1, 127, 128, 255, 256, 65535, 65536, INT32_MAX};
  std::vector<std::string> keys;
  for (const int64_t layer : values) {
    for (const int64_t page : {0L, 1L, 127L, 128L, 255L, 256L, 65535L, 65536L, INT64_MAX}) {
      for (const int64_t head : values) {
        keys.push_back(EncodePageKey(
            SampleKey("a", page, static_cast<int32_t>(layer), static_cast<int32_t>(head))));
      }
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

TEST(PageKeyCodec, DecodesWhatItEncoded) {
  const PageKey key = {
      .context = SampleContext("a"), .layer = 3, .head = 0x01020304, .page = 1L << 40};
  const std::string bytes = EncodePageKey(key);
  const auto fields = DecodePageKey(bytes);
  ASSERT_TRUE(fields.has_value());
  EXPECT_EQ(fields->context, bytes.substr(0, 16));
  EXPECT_EQ(fields->layer, 3);
  EXPECT_EQ(fields->head, 0x01020304);
  EXPECT_EQ(fields->page, 1L << 40);
  EXPECT_EQ(EncodePageKey(*fields), bytes);
  EXPECT_FALSE(DecodePageKey(bytes.substr(1)).has_value());
  EXPECT_FALSE(DecodePageKey(bytes + "x").has_value());
  EXPECT_FALSE(DecodePageKey(std::string(32, '\xff')).has_value());  // negative numbers
}

TEST(PageKeyCodec, FindsTheFirstKeyThatHolds) {
  const std::string low = EncodePageKey(SampleKey("a", 5));
  for (const PageKey& key : {SampleKey("a", 6), SampleKey("a", 7), SampleKey("a", 1000),
                             SampleKey("a", 5, 0, 1), SampleKey("a", 3, 2, 1)}) {
    const std::string first = EncodePageKey(key);
    int calls = 0;
    EXPECT_EQ(FirstKeyAbove(low,
                            [&](const std::string& k) {
                              ++calls;
                              return k >= first;
                            }),
              first);
    EXPECT_LE(calls, 512);
  }
  EXPECT_EQ(FirstKeyAbove(low, [](const std::string&) { return false; }), "");
  // Names that differ behind the length of a page's key.
  const std::string record = EncodeRecordKey({Fingerprint{}, "wikipedia-article-number-0001"});
  const std::string next = EncodeRecordKey({Fingerprint{}, "wikipedia-article-number-0002"});
  const auto above = [&](const std::string& k) { return k >= next; };
  EXPECT_EQ(FirstKeyAbove(record, above, kMaxRecordKeyBytes).substr(0, next.size()), next);
  const std::string last(kPageKeyBytes, '\xff');
  EXPECT_EQ(FirstKeyAbove(low, [&](const std::string& k) { return k == last; }), last);
}

}  // namespace
}  // namespace pqcache::storage
