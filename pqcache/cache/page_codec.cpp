#include "pqcache/cache/page_codec.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <string>

#include "pqcache/base/check.h"
#include "pqcache/base/coding.h"

namespace pqcache {
namespace {

constexpr uint32_t kMaxDim = 4096;
constexpr uint32_t kMaxInt = std::numeric_limits<int32_t>::max();

// Offsets of the header's fields, as in page_format.md.
enum Offset : size_t {
  kVersionAt = 8,
  kLayoutAt = 12,
  kDTypeAt = 16,
  kTokensAt = 20,
  kPageTokensAt = 24,
  kDimAt = 28,
  kLayerAt = 32,
  kHeadAt = 36,
  kFirstTokenAt = 40,
  kTenantAt = 48,
  kModelAt = 64,
  kContextAt = 80,
  kBodyLengthAt = 96,
  kReservedAt = 104,
  kChecksumAt = 120,
};

Status Bad(std::string_view field, const std::string& found, const std::string& expected) {
  return Status::Corruption("page header: " + std::string(field) + " is " + found + ", expected " +
                            expected);
}

std::string HexBytes(const uint8_t* data, size_t size) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (size_t i = 0; i < size; ++i) {
    out.push_back(kDigits[data[i] >> 4]);
    out.push_back(kDigits[data[i] & 15]);
  }
  return out;
}

Status CheckRange(std::string_view field, uint64_t found, uint64_t low, uint64_t high) {
  if (found >= low && found <= high) return Status::Ok();
  return Bad(field, std::to_string(found), std::to_string(low) + " to " + std::to_string(high));
}

Fingerprint GetFingerprint(const uint8_t* p) {
  Fingerprint f;
  std::memcpy(f.bytes.data(), p, f.bytes.size());
  return f;
}

void PutFingerprint(std::string* out, const Fingerprint& f) {
  out->append(reinterpret_cast<const char*>(f.bytes.data()), f.bytes.size());
}

// The stored checksum counts as zero; fed in parts because the bytes are read-only here.
uint64_t PageChecksum(std::span<const uint8_t> page) {
  static constexpr uint8_t kZero[kPageHeaderBytes - kChecksumAt] = {};
  return Checksum64({page.first(kChecksumAt), kZero, page.subspan(kPageHeaderBytes)});
}

bool IsKnown(PageLayout layout) {
  return layout >= PageLayout::kKeyValue && layout <= PageLayout::kTokens;
}

// Which dtypes the rows of a layout may have, for people.
const char* AllowedDTypes(PageLayout layout) {
  switch (layout) {
    case PageLayout::kCodes:
      return "7 (u8)";
    case PageLayout::kValueSums:
      return "1 (f32)";
    case PageLayout::kTokens:
      return "6 (i32)";
    default:
      return "1 (f32) or 2 (bf16)";
  }
}

bool Allows(PageLayout layout, DType dtype) {
  switch (layout) {
    case PageLayout::kCodes:
      return dtype == DType::kU8;
    case PageLayout::kValueSums:
      return dtype == DType::kF32;
    case PageLayout::kTokens:
      return dtype == DType::kI32;
    default:
      return dtype == DType::kF32 || dtype == DType::kBF16;
  }
}

Status CheckFormat(std::span<const uint8_t> bytes) {
  if (bytes.size() < kPageHeaderBytes) {
    return Status::Corruption("page: has " + std::to_string(bytes.size()) +
                              " bytes, expected a header of " + std::to_string(kPageHeaderBytes));
  }
  const uint8_t* p = bytes.data();
  if (std::memcmp(p, kPageMagic.data(), kPageMagic.size()) != 0) {
    return Bad("magic", HexBytes(p, kPageMagic.size()),
               HexBytes(reinterpret_cast<const uint8_t*>(kPageMagic.data()), kPageMagic.size()));
  }
  PQCACHE_RETURN_IF_ERROR(
      CheckRange("version", GetFixed32(p + kVersionAt), kPageVersion, kPageVersion));
  PQCACHE_RETURN_IF_ERROR(CheckRange("layout", GetFixed32(p + kLayoutAt), 1, 5));
  const uint32_t dtype = GetFixed32(p + kDTypeAt);
  const auto layout = static_cast<PageLayout>(GetFixed32(p + kLayoutAt));
  if (!Allows(layout, static_cast<DType>(dtype))) {
    return Bad("dtype", std::to_string(dtype), AllowedDTypes(layout));
  }
  const uint8_t* reserved = p + kReservedAt;
  if (std::any_of(reserved, p + kChecksumAt, [](uint8_t b) { return b != 0; })) {
    return Bad("reserved", HexBytes(reserved, kChecksumAt - kReservedAt), "zeros");
  }
  return Status::Ok();
}

Status CheckNumbers(const uint8_t* p) {
  const uint32_t page_tokens = GetFixed32(p + kPageTokensAt);
  PQCACHE_RETURN_IF_ERROR(CheckRange("page_tokens", page_tokens, 1, kMaxPageTokens));
  PQCACHE_RETURN_IF_ERROR(CheckRange("tokens", GetFixed32(p + kTokensAt), 1, page_tokens));
  PQCACHE_RETURN_IF_ERROR(CheckRange("dim", GetFixed32(p + kDimAt), 1, kMaxDim));
  PQCACHE_RETURN_IF_ERROR(CheckRange("layer", GetFixed32(p + kLayerAt), 0, kMaxInt));
  PQCACHE_RETURN_IF_ERROR(CheckRange("head", GetFixed32(p + kHeadAt), 0, kMaxInt));
  const uint64_t first_token = GetFixed64(p + kFirstTokenAt);
  PQCACHE_RETURN_IF_ERROR(
      CheckRange("first_token", first_token, 0, std::numeric_limits<int64_t>::max()));
  if (first_token % page_tokens != 0) {
    return Bad("first_token", std::to_string(first_token),
               "a multiple of page_tokens " + std::to_string(page_tokens));
  }
  return Status::Ok();
}

// Only after CheckFormat and CheckNumbers.
PageHeader ReadFields(const uint8_t* p) {
  PageHeader h;
  h.shape = {.layout = static_cast<PageLayout>(GetFixed32(p + kLayoutAt)),
             .dtype = static_cast<DType>(GetFixed32(p + kDTypeAt)),
             .dim = static_cast<int>(GetFixed32(p + kDimAt)),
             .page_tokens = static_cast<int>(GetFixed32(p + kPageTokensAt))};
  h.key.context = {.tenant = GetFingerprint(p + kTenantAt),
                   .model = GetFingerprint(p + kModelAt),
                   .context = GetFingerprint(p + kContextAt)};
  h.key.layer = static_cast<int32_t>(GetFixed32(p + kLayerAt));
  h.key.head = static_cast<int32_t>(GetFixed32(p + kHeadAt));
  h.first_token = static_cast<int64_t>(GetFixed64(p + kFirstTokenAt));
  h.key.page = h.first_token / h.shape.page_tokens;
  h.key.kind = KindOf(h.shape.layout);
  h.tokens = static_cast<int>(GetFixed32(p + kTokensAt));
  h.checksum = GetFixed64(p + kChecksumAt);
  return h;
}

Status CheckIdentity(std::string_view field, const Fingerprint& found, const Fingerprint& wanted) {
  return found == wanted ? Status::Ok() : Bad(field, found.Hex(), wanted.Hex());
}

}  // namespace

PageKind KindOf(PageLayout layout) {
  switch (layout) {
    case PageLayout::kCodes:
      return PageKind::kCodes;
    case PageLayout::kValueSums:
      return PageKind::kValueSums;
    case PageLayout::kTokens:
      return PageKind::kTokens;
    default:
      return PageKind::kRows;
  }
}

PageRef EncodePage(const PageKey& key, const PageShape& shape, int tokens,
                   std::span<const uint8_t> rows) {
  PQCACHE_CHECK(IsKnown(shape.layout), "unknown page layout");
  PQCACHE_CHECK(KindOf(shape.layout) == key.kind, "kind and layout do not fit");
  PQCACHE_CHECK(Allows(shape.layout, shape.dtype), "dtype does not fit the layout");
  PQCACHE_CHECK(shape.dim >= 1 && static_cast<uint32_t>(shape.dim) <= kMaxDim, "dim out of range");
  PQCACHE_CHECK(shape.page_tokens >= 1 && shape.page_tokens <= kMaxPageTokens,
                "page_tokens out of range");
  PQCACHE_CHECK(tokens >= 1 && tokens <= shape.page_tokens, "tokens out of range");
  PQCACHE_CHECK(rows.size() == tokens * shape.row_bytes(), "rows do not fit the shape");
  PQCACHE_CHECK(key.layer >= 0 && key.head >= 0 && key.page >= 0, "negative part of a page key");
  PQCACHE_CHECK(key.page <= std::numeric_limits<int64_t>::max() / shape.page_tokens,
                "page number out of range");

  std::string header(kPageMagic);
  header.reserve(kPageHeaderBytes);
  PutFixed32(&header, kPageVersion);
  PutFixed32(&header, static_cast<uint32_t>(shape.layout));
  PutFixed32(&header, static_cast<uint32_t>(shape.dtype));
  PutFixed32(&header, static_cast<uint32_t>(tokens));
  PutFixed32(&header, static_cast<uint32_t>(shape.page_tokens));
  PutFixed32(&header, static_cast<uint32_t>(shape.dim));
  PutFixed32(&header, static_cast<uint32_t>(key.layer));
  PutFixed32(&header, static_cast<uint32_t>(key.head));
  PutFixed64(&header, static_cast<uint64_t>(key.page * shape.page_tokens));
  PutFingerprint(&header, key.context.tenant);
  PutFingerprint(&header, key.context.model);
  PutFingerprint(&header, key.context.context);
  PutFixed64(&header, rows.size());
  header.append(kChecksumAt - kReservedAt, '\0');

  auto page = std::make_shared<PageBytes>(kPageHeaderBytes + rows.size());
  std::memcpy(page->data() + kPageHeaderBytes, rows.data(), rows.size());
  std::memcpy(page->data(), header.data(), header.size());
  PutFixed64(&header, PageChecksum(page->span()));
  std::memcpy(page->data() + kChecksumAt, header.data() + kChecksumAt, sizeof(uint64_t));
  return page;
}

Result<PageHeader> DecodePageHeader(std::span<const uint8_t> bytes) {
  PQCACHE_RETURN_IF_ERROR(CheckFormat(bytes));
  PQCACHE_RETURN_IF_ERROR(CheckNumbers(bytes.data()));
  return ReadFields(bytes.data());
}

Result<PageHeader> DecodePage(std::span<const uint8_t> bytes) {
  PQCACHE_ASSIGN_OR_RETURN(const PageHeader header, DecodePageHeader(bytes));
  // The limits above keep the product below 2^28.
  const uint64_t body = header.tokens * header.shape.row_bytes();
  PQCACHE_RETURN_IF_ERROR(
      CheckRange("body_length", GetFixed64(bytes.data() + kBodyLengthAt), body, body));
  if (bytes.size() != kPageHeaderBytes + body) {
    return Status::Corruption("page: has " + std::to_string(bytes.size()) + " bytes, expected " +
                              std::to_string(kPageHeaderBytes + body));
  }
  const uint64_t computed = PageChecksum(bytes);
  if (header.checksum != computed) {
    return Bad("checksum", std::to_string(header.checksum),
               std::to_string(computed) + " as computed from the bytes");
  }
  return header;
}

Status VerifyPage(std::span<const uint8_t> bytes, const PageKey& expected) {
  PQCACHE_ASSIGN_OR_RETURN(const PageHeader header, DecodePage(bytes));
  const PageKey& found = header.key;
  if (found == expected) return Status::Ok();
  PQCACHE_RETURN_IF_ERROR(CheckIdentity("tenant", found.context.tenant, expected.context.tenant));
  PQCACHE_RETURN_IF_ERROR(CheckIdentity("model", found.context.model, expected.context.model));
  PQCACHE_RETURN_IF_ERROR(
      CheckIdentity("context", found.context.context, expected.context.context));
  if (found.layer != expected.layer) {
    return Bad("layer", std::to_string(found.layer), std::to_string(expected.layer));
  }
  if (found.head != expected.head) {
    return Bad("head", std::to_string(found.head), std::to_string(expected.head));
  }
  if (found.kind != expected.kind) {
    return Bad("kind", std::to_string(static_cast<int>(found.kind)),
               std::to_string(static_cast<int>(expected.kind)));
  }
  return Bad("page number", std::to_string(found.page), std::to_string(expected.page));
}

PageRef CopyPage(const void* bytes, size_t size) {
  auto page = std::make_shared<PageBytes>(PageBytes::ForOverwrite(size));
  if (size > 0) std::memcpy(page->data(), bytes, size);
  return page;
}

}  // namespace pqcache
