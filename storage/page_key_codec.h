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

inline constexpr size_t kPageKeyBytes = 32;

// kPageKeyBytes bytes. Layer, head and page must not be negative.
std::string EncodePageKey(const PageKey& key);

// What a key's bytes say; of the context only the 16 hashed bytes. Nothing if they are no page key.
struct PageKeyFields {
  std::string context;
  int32_t layer = 0;
  int32_t head = 0;
  int64_t page = 0;
};
std::optional<PageKeyFields> DecodePageKey(std::string_view bytes);
std::string EncodePageKey(const PageKeyFields& fields);

// All page keys of one context: begin <= key < end, and no key of another context.
struct PageKeyRange {
  std::string begin;
  std::string end;
};
PageKeyRange ContextKeyRange(const ContextId& context);

// The smallest key above `low` that `holds`, where it holds for no key below it and for all above;
// empty if it holds for none. Calls it at most 512 times.
std::string FirstKeyAbove(std::string low, const std::function<bool(const std::string&)>& holds);

// "page 7 of layer 3 head 1, context 0123...": how error messages name a page.
std::string DescribePageKey(const PageKey& key);

// For tables in memory; the fingerprints in a key are already well mixed.
struct PageKeyHash {
  size_t operator()(const PageKey& key) const;
};

}  // namespace pqcache::storage
