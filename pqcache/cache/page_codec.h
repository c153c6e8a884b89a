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

// Values are summed up over blocks of so many tokens, for estimates of what is not attended.
inline constexpr int kValueBlockTokens = 64;

// What a row is; of one token, except for kValueSums.
enum class PageLayout : uint32_t {
  kKeyValue = 1,   // K [D], then V [D]; f32 or bf16
  kValueOnly = 2,  // V [D]; f32 or bf16; keys exist only as codes
  kCodes = 3,      // code of a key: D = bytes of a code, u8
  kValueSums = 4,  // sum of the values of kValueBlockTokens tokens: D, f32
  kTokens = 5,     // token id: D = 1, i32
};

// The kind of pages that have this layout.
PageKind KindOf(PageLayout layout);

struct PageShape {
  PageLayout layout = PageLayout::kKeyValue;
  DType dtype = DType::kF32;  // as the layout allows
  int dim = 0;                // D
  int page_tokens = 64;       // rows of a full page; 1 to kMaxPageTokens

  size_t row_bytes() const {
    return DTypeSize(dtype) * dim * (layout == PageLayout::kKeyValue ? 2 : 1);
  }
  bool operator==(const PageShape&) const = default;
};

// What every page begins with.
inline constexpr std::string_view kPageMagic = "PQPAGE\r\n";
inline constexpr size_t kPageHeaderBytes = 128;
inline constexpr uint32_t kPageVersion = 1;
inline constexpr int kMaxPageTokens = 4096;

struct PageHeader {
  PageKey key;
  PageShape shape;
  int64_t first_token = 0;  // number of the first row
  int tokens = 0;           // rows present, 1 to page_tokens
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

// A page of its own with these bytes, which are not looked at.
PageRef CopyPage(const void* bytes, size_t size);

// The body; the bytes must have passed DecodePage.
inline const uint8_t* PageRows(const PageBytes& page) { return page.data() + kPageHeaderBytes; }

}  // namespace pqcache
