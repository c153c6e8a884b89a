#pragma once

// Which pages a stored context has, and what each must look like.

#include <cstdint>
#include <vector>

#include "pqcache/cache/manifest.h"
#include "pqcache/cache/page_store.h"

namespace pqcache {

// Rows of one page of each kind.
inline constexpr int kCodesPerPage = 4096;
inline constexpr int kSumsPerPage = 64;
inline constexpr int kTokensPerPage = 4096;

PageKey RowPageKey(const ContextManifest& manifest, int layer, int head, int64_t page);

// The owners of pages [0, pages).
std::vector<PageOwner> OwnersBelow(const ContextManifest& manifest, int64_t pages);

// The shape that pages of this kind have.
PageShape StoredShape(const ContextManifest& manifest, PageKind kind);
// Rows that the page with this key must have.
int64_t StoredRows(const ContextManifest& manifest, const PageKey& key);

// Corruption if a page that passed VerifyPage is not of this shape or has fewer rows.
Status CheckPageShape(const PageBytes& page, const PageShape& expected, int64_t rows);

// The same with the manifest's shape and length.
Status CheckStoredPage(const ContextManifest& manifest, const PageBytes& page);

// True if `context` is one of them.
bool RefersTo(const ContextManifest& manifest, const ContextId& context);

// Token ids are small, and without them nothing can be computed again: so many copies lie beside
// the pages of the first layers, which a cluster spreads over its servers.
int TokenCopies(const ContextManifest& manifest);

// Of all kinds, layers and heads.
int64_t StoredPageCount(const ContextManifest& manifest);

// Keys of every page of a layer; layer -1: of the token ids, one copy after the other.
std::vector<PageKey> StoredPageKeys(const ContextManifest& manifest, int layer);

}  // namespace pqcache
