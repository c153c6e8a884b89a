#pragma once

// Page keys as bytes whose order is their meaning (key_format.md), as hash-table keys and as text.
// All functions are pure and thread-safe.

#include <cstddef>
#include <string>

#include "pqcache/cache/page_store.h"

namespace pqcache::storage {

inline constexpr size_t kPageKeyBytes = 32;

// kPageKeyBytes bytes. Layer, head and page must not be negative.
std::string EncodePageKey(const PageKey& key);

// All page keys of one context: begin <= key < end, and no key of another context.
struct PageKeyRange {
  std::string begin;
  std::string end;
};
PageKeyRange ContextKeyRange(const ContextId& context);

// "page 7 of layer 3 head 1, context 0123...": how error messages name a page.
std::string DescribePageKey(const PageKey& key);

// For tables in memory; the fingerprints in a key are already well mixed.
struct PageKeyHash {
  size_t operator()(const PageKey& key) const;
};

}  // namespace pqcache::storage
