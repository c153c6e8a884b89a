#pragma once

// Pages with known contents for the tests of stores.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "pqcache/base/random.h"
#include "pqcache/cache/page_codec.h"
#include "pqcache/cache/page_store.h"

namespace pqcache::testing {

inline ContextId SampleContext(const std::string& text, const std::string& tenant = "tenant") {
  return {FingerprintOf(tenant), FingerprintOf("model"), FingerprintOf(text)};
}

inline PageKey SampleKey(const std::string& context, int64_t page, int32_t layer = 0,
                         int32_t head = 0) {
  return {.context = SampleContext(context), .layer = layer, .head = head, .page = page};
}

// 128 + 1024 * tokens bytes, a function of key and seed.
inline PageRef SamplePage(const PageKey& key, uint64_t seed = 0, int tokens = 4) {
  const PageShape shape = {.dim = 128, .page_tokens = 64};
  Random random(MixSeed(seed, static_cast<uint64_t>(key.page * 64 + key.layer * 8 + key.head)));
  std::vector<uint8_t> rows(shape.row_bytes() * tokens);
  for (uint8_t& b : rows) b = static_cast<uint8_t>(random.Next());
  return EncodePage(key, shape, tokens, rows);
}

inline bool SameBytes(const PageRef& a, const PageRef& b) {
  return a != nullptr && b != nullptr && a->size() == b->size() &&
         std::memcmp(a->data(), b->data(), a->size()) == 0;
}

inline Status PutPage(PageStore* store, const PageKey& key, PageRef page) {
  const PageWrite write = {key, std::move(page)};
  return store->Put({&write, 1});
}

inline PageRead ReadPage(PageStore* store, const PageKey& key) {
  PageRead read = {.key = key, .page = nullptr, .status = Status::Ok()};
  store->Read({&read, 1});
  return read;
}

}  // namespace pqcache::testing
