#pragma once

// The stored contexts of one tenant in one store: found by name or by the tokens they begin with,
// listed, checked page by page, removed. To make one see context_save.h, to use one context_load.h.
//
// May be used from many threads, and by many processes if the store may. The store is borrowed.

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "pqcache/cache/context_load.h"
#include "pqcache/cache/manifest.h"
#include "pqcache/cache/page_store.h"

namespace pqcache {

struct CatalogListing {
  std::vector<ContextManifest> contexts;  // by name
  std::vector<std::string> damaged;       // names whose manifest cannot be used, with the reason
};

// What a scrub of a context found.
struct ContextCheck {
  int64_t pages = 0;    // read
  int64_t missing = 0;  // not there or not reachable
  int64_t damaged = 0;
  std::vector<std::string> problems;  // the first few, one line each
};

class ContextCatalog {
 public:
  ContextCatalog(PageStore* store, const Fingerprint& tenant) : store_(store), tenant_(tenant) {}

  Result<CatalogListing> List() const;
  // NotFound names the contexts there are.
  Result<ContextManifest> Find(const std::string& name) const;
  // The context that shares the longest prefix with `tokens`, at least one block and at most
  // `limit` tokens; nothing if none does. With codes wanted, only contexts with those codes count.
  // Takes time with the number of contexts: it reads every manifest.
  Result<std::optional<StoredPrefix>> Match(const ContextIdentity& identity,
                                            const std::optional<StoredCodes>& codes,
                                            std::span<const int64_t> tokens, int64_t limit) const;
  // The ids of its tokens, from the first copy that can be read, checked against the hash chain.
  Result<std::vector<int64_t>> ReadTokens(const ContextManifest& manifest) const;
  // Reads every page as its user would: of one that several tiers hold, the nearest. An error only
  // if that could not be done at all.
  Result<ContextCheck> Verify(const ContextManifest& manifest) const;
  // First the manifest, durably, then its pages. A manifest that is damaged is removed as well; the
  // pages it spoke of stay until the store finds that nothing refers to them.
  Status Remove(const std::string& name) const;
  // The pages of a manifest that is not stored any more, except those that other contexts of the
  // tenant share. None of them while a manifest of the tenant cannot be read.
  Status RemovePages(const ContextManifest& manifest) const;

 private:
  Result<std::vector<int64_t>> ReadTokenPages(const ContextManifest& manifest,
                                              std::span<const PageKey> keys) const;

  PageStore* const store_;
  const Fingerprint tenant_;
};

}  // namespace pqcache
