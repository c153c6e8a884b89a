#pragma once

// Page keys as bytes whose order is their meaning (key_format.md), as hash-table keys and as text.
// All functions are pure and thread-safe.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "pqcache/cache/page_store.h"

namespace pqcache::storage {

inline constexpr size_t kPageKeyBytes = 33;
// The keys of one context, and of one layer of it, begin with the same so many bytes.
inline constexpr size_t kContextPrefixBytes = 16, kLayerPrefixBytes = 20;

// kPageKeyBytes bytes. Layer, head and page must not be negative.
std::string EncodePageKey(const PageKey& key);

// What a key's bytes say; of the context only the 16 hashed bytes. Nothing if they are no page key.
struct PageKeyFields {
  std::string context;
  int32_t layer = 0;
  int32_t head = 0;
  int64_t page = 0;
  PageKind kind = PageKind::kRows;
};
std::optional<PageKeyFields> DecodePageKey(std::string_view bytes);
std::string EncodePageKey(const PageKeyFields& fields);

// All page keys of one context: begin <= key < end, and no key of another context.
struct PageKeyRange {
  std::string begin;
  std::string end;
};
PageKeyRange ContextKeyRange(const ContextId& context);

// Bytes of a record's key: those of one tenant share a prefix, which is the key of the empty name.
std::string EncodeRecordKey(const RecordKey& key);
inline constexpr size_t kMaxRecordKeyBytes = 16 + 128;  // a context's name has at most 128
// Nothing if the bytes are too short to be one.
std::optional<RecordKey> DecodeRecordKey(std::string_view bytes);
// InvalidArgument for an empty name or a value above kMaxRecordBytes.
Status CheckRecord(const RecordKey& key, std::string_view value);

// The smallest key above `low` that `holds`, where it holds for no key below it and for all above;
// empty if it holds for none. Keys have at most `width` bytes; calls it at most 16 times as often.
std::string FirstKeyAbove(std::string low, const std::function<bool(const std::string&)>& holds,
                          size_t width = kPageKeyBytes);

// "rows", "codes", "value sums" or "tokens".
std::string_view PageKindName(PageKind kind);

// "page 7 of layer 3 head 1, context 0123...": how error messages name a page; other kinds than
// rows are named ("codes page 7 ...").
std::string DescribePageKey(const PageKey& key);

// For tables in memory; the fingerprints in a key are already well mixed.
struct PageKeyHash {
  size_t operator()(const PageKey& key) const;
};

}  // namespace pqcache::storage
