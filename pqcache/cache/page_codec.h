#pragma once

// Bytes of a page: a 128-byte header with identity and checksum, then one row per token.
// The layout is described in page_format.md; golden files in tests keep it readable.
// Functions are pure and thread-safe.

#include <cstdint>
#include <span>
#include <string_view>

#include "pqcache/base/dtype.h"
#include "pqcache/cache/page_store.h"

namespace pqcache {

enum class PageLayout : uint32_t {
  kKeyValue = 1,   // row: K [D], then V [D]
  kValueOnly = 2,  // row: V [D]; keys exist only as codes
};

struct PageShape {
  PageLayout layout = PageLayout::kKeyValue;
  DType dtype = DType::kF32;  // kF32 or kBF16
  int dim = 0;                // D
  int page_tokens = 64;       // rows of a full page; 1 to 4096

  size_t row_bytes() const {
    return DTypeSize(dtype) * dim * (layout == PageLayout::kKeyValue ? 2 : 1);
  }
};

// What every page begins with.
inline constexpr std::string_view kPageMagic = "PQPAGE\r\n";
inline constexpr size_t kPageHeaderBytes = 128;
inline constexpr uint32_t kPageVersion = 1;

struct PageHeader {
  PageKey key;
  PageShape shape;
  int64_t first_token = 0;
  int tokens = 0;  // rows present, 1 to page_tokens
  uint64_t checksum = 0;
};

// Header of `key` and `tokens` rows of `shape`, then `rows` (tokens * row_bytes bytes),
// checksummed.
PageRef EncodePage(const PageKey& key, const PageShape& shape, int tokens,
                   std::span<const uint8_t> rows);

// Reads and checks the header and the checksum; says what is wrong, with found and expected.
Result<PageHeader> DecodePage(std::span<const uint8_t> bytes);
// The header alone, each field within its limits; body and checksum may be damaged.
Result<PageHeader> DecodePageHeader(std::span<const uint8_t> bytes);

// DecodePage, and the identity must be `expected`.
Status VerifyPage(std::span<const uint8_t> bytes, const PageKey& expected);

// The body; the bytes must have passed DecodePage.
inline const uint8_t* PageRows(const PageBytes& page) { return page.data() + kPageHeaderBytes; }

}  // namespace pqcache
