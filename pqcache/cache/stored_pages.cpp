#include "pqcache/cache/stored_pages.h"

#include <algorithm>
#include <string>

#include "pqcache/base/check.h"

namespace pqcache {
namespace {

// Rows of this kind that one head has.
int64_t RowsOf(const ContextManifest& manifest, PageKind kind) {
  switch (kind) {
    case PageKind::kCodes:
      return manifest.codes.bytes_per_key > 0 ? manifest.tokens : 0;
    case PageKind::kValueSums:
      return manifest.tokens / kValueBlockTokens;
    default:
      return manifest.tokens;
  }
}

}  // namespace

PageKey RowPageKey(const ContextManifest& manifest, int layer, int head, int64_t page) {
  const auto owner = std::find_if(manifest.owners.begin(), manifest.owners.end(),
                                  [&](const PageOwner& o) { return page < o.end; });
  PQCACHE_CHECK(owner != manifest.owners.end(), "a page behind the context's end");
  return {owner->context, layer, head, page, PageKind::kRows};
}

std::vector<PageOwner> OwnersBelow(const ContextManifest& manifest, int64_t pages) {
  std::vector<PageOwner> owners;
  for (const PageOwner& owner : manifest.owners) {
    if (!owners.empty() && owners.back().end >= pages) break;
    if (pages > 0) owners.push_back({std::min(owner.end, pages), owner.context});
  }
  return owners;
}

PageShape StoredShape(const ContextManifest& manifest, PageKind kind) {
  switch (kind) {
    case PageKind::kCodes:
      return {PageLayout::kCodes, DType::kU8, manifest.codes.bytes_per_key, kCodesPerPage};
    case PageKind::kValueSums:
      return {PageLayout::kValueSums, DType::kF32, manifest.identity.page.dim, kSumsPerPage};
    case PageKind::kTokens:
      return {PageLayout::kTokens, DType::kI32, 1, kTokensPerPage};
    default:
      return manifest.identity.page;
  }
}

int64_t StoredRows(const ContextManifest& manifest, const PageKey& key) {
  const int64_t per_page = StoredShape(manifest, key.kind).page_tokens;
  return std::clamp<int64_t>(RowsOf(manifest, key.kind) - key.page * per_page, 0, per_page);
}

Status CheckPageShape(const PageBytes& page, const PageShape& expected, int64_t rows) {
  PQCACHE_ASSIGN_OR_RETURN(const PageHeader header, DecodePageHeader(page.span()));
  const PageShape& found = header.shape;
  if (found == expected && header.tokens >= rows) return Status::Ok();
  const auto describe = [](const PageShape& s, int64_t n) {
    return std::to_string(n) + " rows of layout " + std::to_string(static_cast<int>(s.layout)) +
           ", " + std::string(DTypeName(s.dtype)) + ", " + std::to_string(s.dim) + " wide, " +
           std::to_string(s.page_tokens) + " a page";
  };
  return Status::Corruption("a page has " + describe(found, header.tokens) + ", expected " +
                            describe(expected, rows));
}

Status CheckStoredPage(const ContextManifest& manifest, const PageBytes& page) {
  PQCACHE_ASSIGN_OR_RETURN(const PageHeader header, DecodePageHeader(page.span()));
  return CheckPageShape(page, StoredShape(manifest, header.key.kind),
                        StoredRows(manifest, header.key))
      .Annotate("stored context " + manifest.name);
}

bool RefersTo(const ContextManifest& manifest, const ContextId& context) {
  const std::vector<ContextId> referenced = ReferencedContexts(manifest);
  return std::find(referenced.begin(), referenced.end(), context) != referenced.end();
}

int TokenCopies(const ContextManifest& manifest) { return std::min(3, manifest.identity.layers); }

int64_t StoredPageCount(const ContextManifest& manifest) {
  return static_cast<int64_t>(StoredPageKeys(manifest, -1).size()) +
         manifest.identity.layers * static_cast<int64_t>(StoredPageKeys(manifest, 0).size());
}

std::vector<PageKey> StoredPageKeys(const ContextManifest& manifest, int layer) {
  std::vector<PageKey> keys;
  const auto add = [&](PageKind kind, int of_layer, int head) {
    const int64_t per_page = StoredShape(manifest, kind).page_tokens;
    for (int64_t page = 0; page * per_page < RowsOf(manifest, kind); ++page) {
      if (kind == PageKind::kRows) {
        keys.push_back(RowPageKey(manifest, of_layer, head, page));
      } else {
        keys.push_back({manifest.id(), of_layer, head, page, kind});
      }
    }
  };
  if (layer < 0) {
    for (int copy = 0; copy < TokenCopies(manifest); ++copy) add(PageKind::kTokens, copy, 0);
    return keys;
  }
  for (int head = 0; head < manifest.identity.kv_heads; ++head) {
    for (PageKind kind : {PageKind::kRows, PageKind::kCodes, PageKind::kValueSums}) {
      add(kind, layer, head);
    }
  }
  return keys;
}

}  // namespace pqcache
