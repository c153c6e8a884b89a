#pragma once

// The record that makes a stored context visible: what it is, how many tokens and pages it has, and
// whose pages they are. Bytes as in manifest_format.md. Plain data; functions are pure.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pqcache/base/checksum.h"
#include "pqcache/base/status.h"
#include "pqcache/cache/page_codec.h"
#include "pqcache/cache/page_store.h"

namespace pqcache {

// What keys and values depend on besides the tokens. Contexts share pages only if all of it is
// equal. The model's fingerprint covers weights and rotary embedding.
struct ContextIdentity {
  Fingerprint tenant;  // TenantOf
  Fingerprint model;
  PageShape page;
  int layers = 0, kv_heads = 0;
  bool operator==(const ContextIdentity&) const = default;
};

// Of a tenant's salt; all zero for the empty salt.
Fingerprint TenantOf(std::string_view salt);

// The codes of a stored context: of which codebooks, and their size. Zero: no codes.
struct StoredCodes {
  Fingerprint codebooks;
  int bytes_per_key = 0;
  bool operator==(const StoredCodes&) const = default;
};

struct ContextManifest {
  std::string name;
  ContextIdentity identity;
  Fingerprint context;  // whose codes, value sums and token ids these are
  StoredCodes codes;
  int64_t tokens = 0;
  std::vector<PageOwner> owners;   // of the pages of rows; the last end is row_pages()
  std::vector<Fingerprint> chain;  // HashChain of the tokens
  uint64_t bytes = 0;              // of all pages that the manifest speaks of
  int64_t created = 0;             // seconds since 1970

  ContextId id() const { return {identity.tenant, identity.model, context}; }
  // Pages of rows of one head.
  int64_t row_pages() const {
    return (tokens + identity.page.page_tokens - 1) / identity.page.page_tokens;
  }
};

inline constexpr std::string_view kManifestMagic = "PQMANIF\n";
inline constexpr uint32_t kManifestVersion = 1;

// Letters, digits, '.', '_' and '-', at most 128, and a letter or digit first.
Status CheckContextName(std::string_view name);

std::string EncodeManifest(const ContextManifest& manifest);
// Corruption says what is damaged; Unsupported for another version.
Result<ContextManifest> DecodeManifest(std::string_view bytes);

// Tokens of a link of the hash chain: whole pages, at least 64 tokens.
int64_t ChainBlockTokens(const PageShape& page);

// One name per block of tokens, the last block possibly shorter: each is the hash of the name
// before it and of the block's tokens, the first one's of the identity. Equal names mean equal
// tokens up to there, under an equal identity.
std::vector<Fingerprint> HashChain(const ContextIdentity& identity,
                                   std::span<const int64_t> tokens);

// The longest prefix of `tokens` that the manifest has, at most `limit` tokens: whole blocks, or
// all of its tokens. `chain` is HashChain(manifest.identity, tokens).
int64_t SharedPrefix(const ContextManifest& manifest, std::span<const int64_t> tokens,
                     std::span<const Fingerprint> chain, int64_t limit);

// Whose pages the stored context has: its own, and those of the ones that it shares pages with.
std::vector<ContextId> ReferencedContexts(const ContextManifest& manifest);

}  // namespace pqcache
