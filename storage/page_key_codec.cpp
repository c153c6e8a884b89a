#include "storage/page_key_codec.h"

#include <cstdint>
#include <cstring>

#include "pqcache/base/check.h"
#include "pqcache/base/coding.h"
#include "pqcache/base/random.h"

namespace pqcache::storage {
namespace {

static_assert(kContextPrefixBytes == sizeof(Fingerprint::bytes));

void AppendBytes(std::string* out, const Fingerprint& f) {
  out->append(reinterpret_cast<const char*>(f.bytes.data()), f.bytes.size());
}

std::string ContextPrefix(const ContextId& context) {
  std::string identity;
  AppendBytes(&identity, context.tenant);
  AppendBytes(&identity, context.model);
  AppendBytes(&identity, context.context);
  std::string prefix;
  AppendBytes(&prefix, FingerprintOf(identity));
  return prefix;
}

// key + 2^bit, both as numbers of `width` bytes; the largest number if that is too large.
std::string Plus(std::string key, int bit, size_t width) {
  key.resize(width);
  unsigned carry = 1u << (bit % 8);
  for (size_t i = width - static_cast<size_t>(bit / 8); carry != 0; carry >>= 8) {
    if (i-- == 0) return std::string(width, '\xff');
    carry += static_cast<uint8_t>(key[i]);
    key[i] = static_cast<char>(carry);
  }
  return key;
}

uint64_t FirstBytes(const Fingerprint& f) {
  uint64_t v;
  std::memcpy(&v, f.bytes.data(), sizeof(v));
  return v;
}

}  // namespace

std::string EncodePageKey(const PageKey& key) {
  return EncodePageKey({ContextPrefix(key.context), key.layer, key.head, key.page, key.kind});
}

std::string EncodePageKey(const PageKeyFields& fields) {
  PQCACHE_CHECK(fields.layer >= 0 && fields.head >= 0 && fields.page >= 0,
                "negative part of a page key");
  std::string out = fields.context;
  PutBigEndian32(&out, static_cast<uint32_t>(fields.layer));
  out.push_back(static_cast<char>(fields.kind));
  PutBigEndian64(&out, static_cast<uint64_t>(fields.page));
  PutBigEndian32(&out, static_cast<uint32_t>(fields.head));
  return out;
}

std::optional<PageKeyFields> DecodePageKey(std::string_view bytes) {
  if (bytes.size() != kPageKeyBytes) return std::nullopt;
  const char* p = bytes.data();
  PageKeyFields fields;
  fields.context = bytes.substr(0, kContextPrefixBytes);
  const auto kind = static_cast<uint8_t>(p[kContextPrefixBytes + 4]);
  if (kind > static_cast<uint8_t>(PageKind::kTokens)) return std::nullopt;
  fields.layer = static_cast<int32_t>(GetBigEndian32(p + kContextPrefixBytes));
  fields.kind = static_cast<PageKind>(kind);
  fields.page = static_cast<int64_t>(GetBigEndian64(p + kContextPrefixBytes + 5));
  fields.head = static_cast<int32_t>(GetBigEndian32(p + kContextPrefixBytes + 13));
  if (fields.layer < 0 || fields.head < 0 || fields.page < 0) return std::nullopt;
  return fields;
}

PageKeyRange ContextKeyRange(const ContextId& context) {
  PageKeyRange range;
  range.begin = ContextPrefix(context);
  // A layer is below 2^31, so no key of the context goes on with 0xff.
  range.end = range.begin + '\xff';
  return range;
}

std::string EncodeRecordKey(const RecordKey& key) {
  std::string out;
  AppendBytes(&out, key.tenant);
  return out + key.name;
}

std::optional<RecordKey> DecodeRecordKey(std::string_view bytes) {
  RecordKey key;
  if (bytes.size() < key.tenant.bytes.size()) return std::nullopt;
  std::memcpy(key.tenant.bytes.data(), bytes.data(), key.tenant.bytes.size());
  key.name = bytes.substr(key.tenant.bytes.size());
  return key;
}

Status CheckRecord(const RecordKey& key, std::string_view value) {
  if (!key.name.empty() && value.size() <= kMaxRecordBytes) return Status::Ok();
  return Status::InvalidArgument("record '" + key.name + "' of " + std::to_string(value.size()) +
                                 " bytes, expected a name and at most " +
                                 std::to_string(kMaxRecordBytes) + " bytes");
}

std::string FirstKeyAbove(std::string low, const std::function<bool(const std::string&)>& holds,
                          size_t width) {
  // Steps that double find a key that holds, steps that halve the first one.
  int bit = 0;
  while (!holds(Plus(low, bit, width))) {
    if (++bit > 8 * static_cast<int>(width)) return "";
  }
  if (bit > 0) low = Plus(low, bit - 1, width);
  for (int i = bit - 2; i >= 0; --i) {
    if (const std::string middle = Plus(low, i, width); !holds(middle)) low = middle;
  }
  return Plus(low, 0, width);
}

std::string_view PageKindName(PageKind kind) {
  switch (kind) {
    case PageKind::kRows:
      return "rows";
    case PageKind::kCodes:
      return "codes";
    case PageKind::kValueSums:
      return "value sums";
    case PageKind::kTokens:
      return "tokens";
  }
  return "unknown";
}

std::string DescribePageKey(const PageKey& key) {
  const std::string kind =
      key.kind == PageKind::kRows ? "" : std::string(PageKindName(key.kind)) + " ";
  return kind + "page " + std::to_string(key.page) + " of layer " + std::to_string(key.layer) +
         " head " + std::to_string(key.head) + ", context " + key.context.context.Hex();
}

size_t PageKeyHash::operator()(const PageKey& key) const {
  const uint64_t context = FirstBytes(key.context.tenant) ^ FirstBytes(key.context.model) ^
                           FirstBytes(key.context.context);
  const uint64_t head = (static_cast<uint64_t>(static_cast<uint32_t>(key.layer)) << 32) |
                        static_cast<uint32_t>(key.head);
  const uint64_t page = static_cast<uint64_t>(key.page) * 4 + static_cast<uint64_t>(key.kind);
  return MixSeed(MixSeed(context, head), page);
}

}  // namespace pqcache::storage
