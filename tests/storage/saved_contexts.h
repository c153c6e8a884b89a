#pragma once

// Stored contexts with known contents, saved from a cache of their tokens.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "pqcache/base/random.h"
#include "pqcache/cache/context_catalog.h"
#include "pqcache/cache/context_save.h"
#include "pqcache/cache/kv_cache.h"
#include "tests/storage/page_samples.h"
#include "tests/support/status_matchers.h"

namespace pqcache::testing {

// Full pages of rows of a context.
inline constexpr int kSavedPages = 20;
inline constexpr int kSavedDim = 128, kSavedPageTokens = 64;
inline constexpr int kSavedTokens = kSavedPages * kSavedPageTokens;

// [kSavedTokens, kSavedDim] keys, or values.
inline std::vector<float> SavedRows(const std::string& name, bool values) {
  Random random(Checksum64(name.data(), name.size()) + values);
  std::vector<float> rows(kSavedTokens * kSavedDim);
  for (float& x : rows) x = static_cast<float>(random.Uniform());
  return rows;
}

inline std::vector<PageWrite> PagesOf(const std::string& name) {
  const std::vector<float> keys = SavedRows(name, false), values = SavedRows(name, true);
  std::vector<PageWrite> pages;
  for (int page = 0; page < kSavedPages; ++page) {
    std::vector<float> rows;
    for (int t = page * kSavedPageTokens; t < (page + 1) * kSavedPageTokens; ++t) {
      for (const auto* part : {&keys, &values}) {
        rows.insert(rows.end(), part->begin() + t * kSavedDim, part->begin() + (t + 1) * kSavedDim);
      }
    }
    const PageKey key = SampleKey(name, page);
    const PageShape shape = {.dim = kSavedDim, .page_tokens = kSavedPageTokens};
    const auto* bytes = reinterpret_cast<const uint8_t*>(rows.data());
    pages.push_back(
        {key, EncodePage(key, shape, kSavedPageTokens, {bytes, rows.size() * sizeof(float)})});
  }
  return pages;
}

// `small`: the tokens come in small batches instead of all at once.
inline Status SaveContext(PageStore* store, const std::string& name, bool small) {
  KvCacheOptions options;
  options.layers = options.kv_heads = 1;
  options.page = {.dim = kSavedDim, .page_tokens = kSavedPageTokens};
  options.n_sink = 0;
  options.local_window = 1;
  options.context = SampleContext(name);
  ThreadPool pool(1);
  PQCACHE_ASSIGN_OR_RETURN(const auto cache, KvCache::Create(options, nullptr, store, &pool));
  const std::vector<float> keys = SavedRows(name, false), values = SavedRows(name, true);
  const int step = small ? 3 * kSavedPageTokens : kSavedTokens;
  for (int t = 0; t < kSavedTokens; t += step) {
    PQCACHE_RETURN_IF_ERROR(cache->Append(0, std::min(step, kSavedTokens - t), &keys[t * kSavedDim],
                                          &values[t * kSavedDim]));
  }
  const std::vector<int64_t> tokens(kSavedTokens, 7);
  PQCACHE_ASSIGN_OR_RETURN(const auto save, ContextSave::Begin(cache.get(), name, tokens));
  save->SaveLayer(0);
  bool published = false;
  PQCACHE_RETURN_IF_ERROR(save->WaitSave(&published));
  return published ? Status::Ok() : Status::Internal(name + " was there already");
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
    const Result<ContextCheck> check = SavedCatalog(store).Verify(m);
    EXPECT_OK(check);
    EXPECT_EQ(check->damaged + check->missing, 0) << check->problems[0];
  }
  return names;
}

}  // namespace pqcache::testing
