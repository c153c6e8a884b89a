#include "pqcache/cache/page_codec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "pqcache/base/checksum.h"
#include "pqcache/base/coding.h"
#include "pqcache/base/file_io.h"
#include "pqcache/base/random.h"
#include "tests/support/status_matchers.h"

namespace pqcache {
namespace {

using testing::ExpectError;
using Bytes = std::vector<uint8_t>;

PageKey SomeKey() {
  return {.context = {FingerprintOf("tenant"), FingerprintOf("model"), FingerprintOf("text")},
          .layer = 5,
          .head = 6,
          .page = 7};
}

Bytes RandomRows(size_t size) {
  Random random(size);
  Bytes rows(size);
  for (uint8_t& b : rows) b = static_cast<uint8_t>(random.Next());
  return rows;
}

Bytes SmallPage() {
  const PageShape shape = {.dim = 3, .page_tokens = 4};
  const PageRef page = EncodePage(SomeKey(), shape, 2, RandomRows(2 * shape.row_bytes()));
  return Bytes(page->data(), page->data() + page->size());
}

void Store(Bytes* page, size_t offset, uint64_t value, size_t size) {
  std::string little;
  PutFixed64(&little, value);
  std::memcpy(page->data() + offset, little.data(), size);
}

// Makes the checksum right again, as a reader of page_format.md would compute it.
void Reseal(Bytes* page) {
  Store(page, 120, 0, 8);
  Store(page, 120, Checksum64(page->data(), page->size()), 8);
}

TEST(PageCodec, RoundTripsEveryShape) {
  for (const PageLayout layout : {PageLayout::kKeyValue, PageLayout::kValueOnly}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const int dim : {1, 7, 64, 128, 4096}) {
        for (const int page_tokens : {1, 16, 61}) {
          const PageShape shape = {layout, dtype, dim, page_tokens};
          for (const int tokens : {1, page_tokens}) {
            const Bytes rows = RandomRows(tokens * shape.row_bytes());
            const PageRef page = EncodePage(SomeKey(), shape, tokens, rows);
            ASSERT_EQ(page->size(), kPageHeaderBytes + rows.size());
            const Result<PageHeader> header = DecodePage(page->span());
            ASSERT_OK(header);
            EXPECT_EQ(header->key, SomeKey());
            EXPECT_EQ(header->shape.layout, layout);
            EXPECT_EQ(header->shape.dtype, dtype);
            EXPECT_EQ(header->shape.dim, dim);
            EXPECT_EQ(header->shape.page_tokens, page_tokens);
            EXPECT_EQ(header->tokens, tokens);
            EXPECT_EQ(header->first_token, 7 * page_tokens);
            EXPECT_EQ(0, std::memcmp(PageRows(*page), rows.data(), rows.size()));
            EXPECT_OK(VerifyPage(page->span(), SomeKey()));
          }
        }
      }
    }
  }
}

TEST(PageCodec, KeepsTheLargestLegalNumbers) {
  PageKey key = SomeKey();
  key.layer = key.head = INT32_MAX;
  key.page = INT64_MAX / 4096;
  const PageShape shape = {.dim = 1, .page_tokens = 4096};
  const PageRef page = EncodePage(key, shape, 1, RandomRows(shape.row_bytes()));
  EXPECT_OK(VerifyPage(page->span(), key));
}

// The file was made from page_format.md by other means than EncodePage.
TEST(PageCodec, ReadsAndWritesTheGoldenPage) {
  const Result<std::string> golden =
      ReadFile(std::string(PQCACHE_SOURCE_DIR) + "/tests/golden/page_v1.bin", 1 << 20);
  ASSERT_OK(golden);
  PageKey key = {.context = {}, .layer = 5, .head = 6, .page = 7};
  for (int i = 0; i < 16; ++i) {
    key.context.tenant.bytes[i] = static_cast<uint8_t>(i);
    key.context.model.bytes[i] = static_cast<uint8_t>(16 + i);
    key.context.context.bytes[i] = static_cast<uint8_t>(240 + i);
  }
  float rows[2 * 2 * 3];
  for (int i = 0; i < 12; ++i) rows[i] = static_cast<float>(i) - 5.5f;

  const std::span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(golden->data()),
                                       golden->size());
  ASSERT_OK(VerifyPage(bytes, key));
  EXPECT_EQ(0, std::memcmp(bytes.data() + kPageHeaderBytes, rows, sizeof(rows)));
  const PageRef page = EncodePage(key, {.dim = 3, .page_tokens = 4}, 2,
                                  std::span(reinterpret_cast<const uint8_t*>(rows), sizeof(rows)));
  EXPECT_TRUE(std::ranges::equal(page->span(), bytes));
}

TEST(PageCodec, RefusesEveryFlippedBit) {
  const Bytes page = SmallPage();
  ASSERT_OK(VerifyPage(page, SomeKey()));
  for (size_t i = 0; i < page.size() * 8; ++i) {
    Bytes damaged = page;
    damaged[i / 8] ^= static_cast<uint8_t>(1 << (i % 8));
    EXPECT_EQ(DecodePage(damaged).status().code(), StatusCode::kCorruption) << "bit " << i;
  }
}

TEST(PageCodec, RefusesEveryOtherLength) {
  const Bytes page = SmallPage();
  for (size_t size = 0; size < page.size(); ++size) {
    // A buffer of exactly this size, so that a sanitizer sees reads behind it.
    const Bytes cut(page.begin(), page.begin() + static_cast<ptrdiff_t>(size));
    ExpectError(DecodePage(cut), StatusCode::kCorruption,
                "has " + std::to_string(size) + " bytes, expected");
  }
  Bytes longer = page;
  longer.push_back(0);
  ExpectError(DecodePage(longer), StatusCode::kCorruption, "has 177 bytes, expected 176");
}

struct Damage {
  const char* field;
  size_t offset;
  size_t size;
  uint64_t value;
  const char* found;  // as the message gives it
};

TEST(PageCodec, NamesTheDamagedFieldEvenWhenTheChecksumIsRight) {
  const Damage damages[] = {
      {"magic", 0, 1, 'q', "715150414745"},
      {"version", 8, 4, 2, "2, expected 1"},
      {"version", 8, 4, 0, "0, expected 1"},
      {"layout", 12, 4, 0, "0, expected 1 to 5"},
      {"layout", 12, 4, 6, "6, expected 1 to 5"},
      {"dtype", 12, 4, 3, "1, expected 7 (u8)"},
      {"dtype", 12, 4, 5, "1, expected 6 (i32)"},
      {"dtype", 16, 4, 0, "0, expected 1 (f32) or 2 (bf16)"},
      {"dtype", 16, 4, 3, "3, expected 1 (f32) or 2 (bf16)"},
      {"tokens", 20, 4, 0, "0, expected 1 to 4"},
      {"tokens", 20, 4, 5, "5, expected 1 to 4"},
      {"page_tokens", 24, 4, 0, "0, expected 1 to 4096"},
      {"page_tokens", 24, 4, 4097, "4097, expected 1 to 4096"},
      {"dim", 28, 4, 0, "0, expected 1 to 4096"},
      {"dim", 28, 4, 4097, "4097, expected 1 to 4096"},
      {"dim", 28, 4, UINT32_MAX, "4294967295, expected 1 to 4096"},
      {"layer", 32, 4, 1u << 31, "2147483648, expected 0 to 2147483647"},
      {"head", 36, 4, 1u << 31, "2147483648, expected 0 to 2147483647"},
      {"first_token", 40, 8, 29, "29, expected a multiple of page_tokens 4"},
      {"first_token", 40, 8, 1ull << 63, "9223372036854775808, expected 0 to 9223372036854775807"},
      {"body_length", 96, 8, 47, "47, expected 48"},
      {"body_length", 96, 8, UINT64_MAX, "18446744073709551615, expected 48"},
      {"reserved", 104, 1, 1, "01000000000000000000000000000000, expected zeros"},
      {"reserved", 119, 1, 255, "000000000000000000000000000000ff, expected zeros"},
  };
  for (const Damage& damage : damages) {
    Bytes page = SmallPage();
    Store(&page, damage.offset, damage.value, damage.size);
    Reseal(&page);
    ExpectError(DecodePage(page), StatusCode::kCorruption,
                std::string("page header: ") + damage.field + " is " + damage.found);
  }
}

TEST(PageCodec, RefusesLengthsThatAgreeWithEachOtherButNotWithTheBytes) {
  Bytes page = SmallPage();
  Store(&page, 20, 4096, 4);
  Store(&page, 24, 4096, 4);
  Store(&page, 28, 4096, 4);
  Store(&page, 40, 0, 8);
  Store(&page, 96, 4096ull * 4096 * 8, 8);
  Reseal(&page);
  ExpectError(DecodePage(page), StatusCode::kCorruption, "has 176 bytes, expected 134217856");
}

TEST(PageCodec, RefusesRandomBytesBehindAValidStart) {
  Random random(1);
  const Bytes page = SmallPage();
  for (int i = 0; i < 20000; ++i) {
    Bytes hostile = page;
    const size_t from = 8 + random.Below(page.size() - 8);
    for (size_t at = from; at < page.size(); ++at)
      hostile[at] = static_cast<uint8_t>(random.Next());
    if (hostile == page) continue;
    EXPECT_FALSE(DecodePage(hostile).ok());
  }
}

TEST(PageCodec, RefusesAnotherIdentityPerField) {
  const std::pair<const char*, std::function<void(PageKey*)>> changes[] = {
      {"tenant", [](PageKey* k) { k->context.tenant = FingerprintOf("other"); }},
      {"model", [](PageKey* k) { k->context.model = FingerprintOf("other"); }},
      {"context", [](PageKey* k) { k->context.context = FingerprintOf("other"); }},
      {"layer is 5, expected 9", [](PageKey* k) { k->layer = 9; }},
      {"head is 6, expected 9", [](PageKey* k) { k->head = 9; }},
      {"page number is 7, expected 9", [](PageKey* k) { k->page = 9; }},
  };
  for (const auto& [field, change] : changes) {
    PageKey key = SomeKey();
    change(&key);
    ExpectError(VerifyPage(SmallPage(), key), StatusCode::kCorruption, field);
  }
}

}  // namespace
}  // namespace pqcache
