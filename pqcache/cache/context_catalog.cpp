#include "pqcache/cache/context_catalog.h"

#include <algorithm>
#include <cstring>

#include "pqcache/cache/stored_pages.h"

namespace pqcache {
namespace {

constexpr size_t kPagesPerRead = 256;
constexpr size_t kMaxProblems = 20;

void Note(const PageRead& read, const ContextManifest& manifest, ContextCheck* check) {
  Status status = read.status;
  if (status.ok()) status = CheckStoredPage(manifest, *read.page);
  ++check->pages;
  if (status.ok()) return;
  ++(status.code() == StatusCode::kCorruption ? check->damaged : check->missing);
  if (check->problems.size() < kMaxProblems) check->problems.push_back(status.message());
}

}  // namespace

Result<CatalogListing> ContextCatalog::List() const {
  PQCACHE_ASSIGN_OR_RETURN(const std::vector<Record> records, store_->ListRecords(tenant_));
  CatalogListing listing;
  for (const Record& record : records) {
    Result<ContextManifest> manifest = DecodeManifest(record.value);
    if (manifest.ok() && manifest->name == record.key.name &&
        manifest->identity.tenant == tenant_) {
      listing.contexts.push_back(*std::move(manifest));
    } else {
      const std::string why = manifest.ok() ? "manifest: is of '" + manifest->name + "', tenant " +
                                                  manifest->identity.tenant.Hex()
                                            : manifest.status().message();
      listing.damaged.push_back(record.key.name + ": " + why);
    }
  }
  return listing;
}

Result<ContextManifest> ContextCatalog::Find(const std::string& name) const {
  PQCACHE_RETURN_IF_ERROR(CheckContextName(name));
  const Result<std::string> bytes = store_->GetRecord({tenant_, name});
  if (bytes.ok()) {
    PQCACHE_ASSIGN_OR_RETURN(ContextManifest manifest, DecodeManifest(*bytes));
    if (manifest.name == name && manifest.identity.tenant == tenant_) return manifest;
    return Status::Corruption("stored context " + name + ": its manifest is of '" + manifest.name +
                              "', tenant " + manifest.identity.tenant.Hex());
  }
  if (bytes.status().code() != StatusCode::kNotFound) return bytes.status();
  PQCACHE_ASSIGN_OR_RETURN(const CatalogListing listing, List());
  std::string known;
  for (const ContextManifest& m : listing.contexts) known += (known.empty() ? "" : ", ") + m.name;
  return Status::NotFound(
      "no stored context '" + name + "', " +
      (known.empty() ? "there are none of this tenant" : "there are: " + known));
}

Result<std::optional<StoredPrefix>> ContextCatalog::Match(const ContextIdentity& identity,
                                                          const std::optional<StoredCodes>& codes,
                                                          std::span<const int64_t> tokens,
                                                          int64_t limit) const {
  PQCACHE_ASSIGN_OR_RETURN(CatalogListing listing, List());
  const std::vector<Fingerprint> chain = HashChain(identity, tokens);
  std::optional<StoredPrefix> best;
  for (ContextManifest& manifest : listing.contexts) {
    if (manifest.identity != identity) continue;
    if (codes.has_value() && manifest.codes != *codes) continue;
    const int64_t shared = SharedPrefix(manifest, tokens, chain, limit);
    if (shared > 0 && (!best.has_value() || shared > best->tokens)) {
      best = StoredPrefix{std::move(manifest), shared};
    }
  }
  return best;
}

Result<std::vector<int64_t>> ContextCatalog::ReadTokens(const ContextManifest& manifest) const {
  const std::vector<PageKey> keys = StoredPageKeys(manifest, -1);
  const size_t copies = static_cast<size_t>(TokenCopies(manifest));
  const size_t pages = keys.size() / copies;
  Status failure;
  for (size_t copy = 0; copy < copies; ++copy) {
    Result<std::vector<int64_t>> tokens =
        ReadTokenPages(manifest, std::span(keys).subspan(copy * pages, pages));
    if (tokens.ok()) return tokens;
    if (failure.ok()) failure = tokens.status();
  }
  return failure;
}

Result<std::vector<int64_t>> ContextCatalog::ReadTokenPages(const ContextManifest& manifest,
                                                            std::span<const PageKey> keys) const {
  std::vector<PageRead> reads;
  for (const PageKey& key : keys) {
    reads.push_back({key, nullptr, Status::Ok()});
  }
  store_->Read(reads);
  std::vector<int64_t> tokens;
  for (const PageRead& read : reads) {
    if (!read.status.ok()) return read.status.Annotate("stored context " + manifest.name);
    PQCACHE_RETURN_IF_ERROR(CheckStoredPage(manifest, *read.page));
    std::vector<int32_t> ids(static_cast<size_t>(StoredRows(manifest, read.key)));
    std::memcpy(ids.data(), PageRows(*read.page), ids.size() * sizeof(int32_t));
    tokens.insert(tokens.end(), ids.begin(), ids.end());
  }
  if (HashChain(manifest.identity, tokens) == manifest.chain) return tokens;
  return Status::Corruption("stored context " + manifest.name +
                            ": its tokens are not those of the manifest's hash chain");
}

Result<ContextCheck> ContextCatalog::Verify(const ContextManifest& manifest) const {
  ContextCheck check;
  for (int layer = -1; layer < manifest.identity.layers; ++layer) {
    const std::vector<PageKey> keys = StoredPageKeys(manifest, layer);
    for (size_t begin = 0; begin < keys.size(); begin += kPagesPerRead) {
      std::vector<PageRead> reads;
      for (size_t i = begin; i < std::min(keys.size(), begin + kPagesPerRead); ++i) {
        reads.push_back({keys[i], nullptr, Status::Ok()});
      }
      store_->Read(reads);
      for (const PageRead& read : reads) Note(read, manifest, &check);
    }
  }
  const Result<std::vector<int64_t>> tokens = ReadTokens(manifest);
  if (!tokens.ok() && check.damaged + check.missing == 0) {
    ++check.damaged;
    check.problems.push_back(tokens.status().message());
  }
  return check;
}

Status ContextCatalog::Remove(const std::string& name) const {
  const Result<ContextManifest> manifest = Find(name);
  const StatusCode code = manifest.status().code();
  if (!manifest.ok() && code != StatusCode::kCorruption && code != StatusCode::kUnsupported) {
    return manifest.status();
  }
  PQCACHE_RETURN_IF_ERROR(store_->RemoveRecord({tenant_, name}));
  return manifest.ok() ? RemovePages(*manifest) : Status::Ok();
}

Status ContextCatalog::RemovePages(const ContextManifest& manifest) const {
  PQCACHE_ASSIGN_OR_RETURN(const CatalogListing rest, List());
  // What a manifest refers to that cannot be read is not known.
  if (!rest.damaged.empty()) return Status::Ok();
  for (const ContextId& context : ReferencedContexts(manifest)) {
    const bool shared =
        std::any_of(rest.contexts.begin(), rest.contexts.end(),
                    [&](const ContextManifest& other) { return RefersTo(other, context); });
    if (!shared) PQCACHE_RETURN_IF_ERROR(store_->RemoveContext(context));
  }
  return Status::Ok();
}

}  // namespace pqcache
