#pragma once

// Stored contexts with known contents, saved as ContextSave does it: pages, sync, manifest.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "pqcache/cache/context_catalog.h"
#include "tests/storage/page_samples.h"
#include "tests/support/status_matchers.h"

namespace pqcache::testing {

// Pages of a context; 64 tokens each, so that saving one is a bulk write.
inline constexpr int kSavedPages = 20;

inline std::vector<PageWrite> PagesOf(const std::string& name) {
  std::vector<PageWrite> pages;
  for (int page = 0; page < kSavedPages; ++page) {
    const PageKey key = SampleKey(name, page);
    pages.push_back({key, SamplePage(key, 0, 64)});
  }
  return pages;
}

inline ContextManifest ManifestOf(const std::string& name) {
  const ContextId id = SampleContext(name);
  ContextManifest m;
  m.name = name;
  m.identity = {id.tenant, id.model, {.dim = 128, .page_tokens = 64}, 1, 1};
  m.context = id.context;
  m.tokens = 64 * kSavedPages;
  m.owners = {{kSavedPages, id}};
  m.chain = HashChain(m.identity, std::vector<int64_t>(static_cast<size_t>(m.tokens), 7));
  return m;
}

// `small`: in small batches, which are buffered, instead of one that becomes a file at once.
inline Status SaveContext(PageStore* store, const std::string& name, bool small) {
  const std::vector<PageWrite> pages = PagesOf(name);
  const size_t batch = small ? 3 : pages.size();
  for (size_t i = 0; i < pages.size(); i += batch) {
    const auto part = std::span(pages).subspan(i, std::min(batch, pages.size() - i));
    PQCACHE_RETURN_IF_ERROR(store->Put(part));
  }
  PQCACHE_RETURN_IF_ERROR(store->Sync());
  const ContextManifest m = ManifestOf(name);
  PQCACHE_ASSIGN_OR_RETURN(const bool written,
                           store->PutRecord({m.identity.tenant, name}, EncodeManifest(m)));
  return written ? Status::Ok() : Status::Internal(name + " was there already");
}

inline ContextCatalog SavedCatalog(PageStore* store) {
  return ContextCatalog(store, SampleContext("").tenant);
}

// How many of the pages are served; each of them must be right, and of the others the status must
// say that they are missing or damaged.
inline int ServedPages(PageStore* store, const std::vector<PageWrite>& pages) {
  std::vector<PageRead> reads;
  for (const PageWrite& write : pages) reads.push_back({write.key, nullptr, Status::Ok()});
  store->Read(reads);
  int served = 0;
  for (size_t i = 0; i < reads.size(); ++i) {
    const PageRead& read = reads[i];
    if (read.status.ok()) {
      ++served;
      EXPECT_TRUE(SameBytes(read.page, pages[i].page)) << "page " << i << ": silently wrong";
      continue;
    }
    EXPECT_EQ(read.page, nullptr);
    EXPECT_TRUE(read.status.code() == StatusCode::kCorruption ||
                read.status.code() == StatusCode::kNotFound)
        << read.status.message();
  }
  return served;
}

// Names of the stored contexts, every one of which must be whole.
inline std::set<std::string> WholeContexts(PageStore* store) {
  std::set<std::string> names;
  const Result<CatalogListing> listing = SavedCatalog(store).List();
  EXPECT_OK(listing);
  if (!listing.ok()) return names;
  EXPECT_TRUE(listing->damaged.empty());
  for (const ContextManifest& m : listing->contexts) {
    names.insert(m.name);
    EXPECT_EQ(ServedPages(store, PagesOf(m.name)), kSavedPages) << m.name;
  }
  return names;
}

}  // namespace pqcache::testing
