#include "pqcache/cache/manifest.h"

#include <algorithm>

#include "pqcache/base/coding.h"
#include "pqcache/base/json.h"

namespace pqcache {
namespace {

constexpr size_t kHeaderBytes = 24;
constexpr size_t kChecksumAt = 16;
constexpr int64_t kMinBlockTokens = 64;
constexpr int64_t kMaxTokens = int64_t{1} << 40;

uint64_t ManifestChecksum(std::string_view header, std::string_view body) {
  const auto bytes = [](std::string_view s) {
    return std::span(reinterpret_cast<const uint8_t*>(s.data()), s.size());
  };
  return Checksum64({bytes(header.substr(0, kChecksumAt)), bytes(body)});
}

Status Bad(const std::string& what) { return Status::Corruption("manifest: " + what); }

// One fingerprint from 32 lower-case hexadecimal digits.
Result<Fingerprint> ParseHex(std::string_view text, std::string_view what) {
  Fingerprint f;
  const auto digit = [](char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  bool good = text.size() == 2 * f.bytes.size();
  for (size_t i = 0; good && i < f.bytes.size(); ++i) {
    const int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);
    good = high >= 0 && low >= 0;
    f.bytes[i] = static_cast<uint8_t>(high * 16 + low);
  }
  if (good) return f;
  return Bad(std::string(what) + " is '" + std::string(text.substr(0, 40)) +
             "', expected 32 hexadecimal digits");
}

Result<Fingerprint> GetHex(const Json& json, std::string_view key) {
  PQCACHE_ASSIGN_OR_RETURN(const std::string text, json.GetString(key));
  return ParseHex(text, key);
}

Result<int64_t> GetCount(const Json& json, std::string_view key, int64_t low, int64_t high) {
  PQCACHE_ASSIGN_OR_RETURN(const int64_t value, json.GetInt(key));
  if (value >= low && value <= high) return value;
  return Bad(std::string(key) + " is " + std::to_string(value) + ", expected " +
             std::to_string(low) + " to " + std::to_string(high));
}

Result<int> GetSmall(const Json& json, std::string_view key, int low, int high) {
  PQCACHE_ASSIGN_OR_RETURN(const int64_t value, GetCount(json, key, low, high));
  return static_cast<int>(value);
}

// The fields that name an identity, in the order that the chain hashes.
void SetShape(const ContextIdentity& identity, Json* json) {
  json->Set("tenant", identity.tenant.Hex()).Set("model", identity.model.Hex());
  json->Set("layout", static_cast<int>(identity.page.layout));
  json->Set("dtype", static_cast<int>(identity.page.dtype)).Set("dim", identity.page.dim);
  json->Set("page_tokens", identity.page.page_tokens);
  json->Set("layers", identity.layers).Set("kv_heads", identity.kv_heads);
}

Status ReadIdentity(const Json& json, ContextIdentity* identity) {
  PQCACHE_ASSIGN_OR_RETURN(identity->tenant, GetHex(json, "tenant"));
  PQCACHE_ASSIGN_OR_RETURN(identity->model, GetHex(json, "model"));
  PQCACHE_ASSIGN_OR_RETURN(const int layout, GetSmall(json, "layout", 1, 1));
  PQCACHE_ASSIGN_OR_RETURN(const int dtype, GetSmall(json, "dtype", 1, 2));
  PQCACHE_ASSIGN_OR_RETURN(identity->page.dim, GetSmall(json, "dim", 1, 4096));
  PQCACHE_ASSIGN_OR_RETURN(identity->page.page_tokens,
                           GetSmall(json, "page_tokens", 1, kMaxPageTokens));
  PQCACHE_ASSIGN_OR_RETURN(identity->layers, GetSmall(json, "layers", 1, 1 << 16));
  PQCACHE_ASSIGN_OR_RETURN(identity->kv_heads, GetSmall(json, "kv_heads", 1, 1 << 16));
  identity->page.layout = static_cast<PageLayout>(layout);
  identity->page.dtype = static_cast<DType>(dtype);
  return Status::Ok();
}

Status ReadOwners(const Json& json, ContextManifest* manifest) {
  const Json* owners = json.Find("owners");
  if (owners == nullptr || !owners->is_array()) return Bad("has no owners");
  int64_t before = 0;
  for (const Json& owner : owners->AsArray()) {
    PageOwner parsed;
    PQCACHE_ASSIGN_OR_RETURN(parsed.end, GetCount(owner, "end", before + 1, kMaxTokens));
    PQCACHE_ASSIGN_OR_RETURN(const Fingerprint context, GetHex(owner, "context"));
    parsed.context = {manifest->identity.tenant, manifest->identity.model, context};
    before = parsed.end;
    manifest->owners.push_back(parsed);
  }
  if (before == manifest->row_pages()) return Status::Ok();
  return Bad("owners end at page " + std::to_string(before) + ", expected " +
             std::to_string(manifest->row_pages()));
}

Status ReadChain(const Json& json, ContextManifest* manifest) {
  PQCACHE_ASSIGN_OR_RETURN(const std::string text, json.GetString("chain"));
  const int64_t block = ChainBlockTokens(manifest->identity.page);
  const auto links = static_cast<size_t>((manifest->tokens + block - 1) / block);
  if (text.size() != 32 * links) {
    return Bad("chain has " + std::to_string(text.size()) + " digits, expected " +
               std::to_string(32 * links));
  }
  for (size_t i = 0; i < links; ++i) {
    PQCACHE_ASSIGN_OR_RETURN(const Fingerprint link,
                             ParseHex(std::string_view(text).substr(32 * i, 32), "chain"));
    manifest->chain.push_back(link);
  }
  return Status::Ok();
}

Result<ContextManifest> ReadBody(std::string_view body) {
  PQCACHE_ASSIGN_OR_RETURN(const Json json, Json::Parse(body, {.max_bytes = kMaxRecordBytes}));
  ContextManifest m;
  PQCACHE_ASSIGN_OR_RETURN(m.name, json.GetString("name"));
  PQCACHE_RETURN_IF_ERROR(CheckContextName(m.name));
  PQCACHE_RETURN_IF_ERROR(ReadIdentity(json, &m.identity));
  PQCACHE_ASSIGN_OR_RETURN(m.context, GetHex(json, "context"));
  PQCACHE_ASSIGN_OR_RETURN(m.codes.codebooks, GetHex(json, "codebooks"));
  PQCACHE_ASSIGN_OR_RETURN(m.codes.bytes_per_key, GetSmall(json, "bytes_per_key", 0, 4096));
  PQCACHE_ASSIGN_OR_RETURN(m.tokens, GetCount(json, "tokens", 1, kMaxTokens));
  PQCACHE_ASSIGN_OR_RETURN(const int64_t bytes, GetCount(json, "bytes", 0, INT64_MAX));
  m.bytes = static_cast<uint64_t>(bytes);
  PQCACHE_ASSIGN_OR_RETURN(m.created, json.GetInt("created"));
  PQCACHE_RETURN_IF_ERROR(ReadOwners(json, &m));
  PQCACHE_RETURN_IF_ERROR(ReadChain(json, &m));
  return m;
}

}  // namespace

Fingerprint TenantOf(std::string_view salt) {
  return salt.empty() ? Fingerprint{} : FingerprintOf("tenant salt: " + std::string(salt));
}

Status CheckContextName(std::string_view name) {
  const auto is_word = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  const bool good = !name.empty() && name.size() <= 128 && is_word(name[0]) &&
                    std::all_of(name.begin(), name.end(), [&](char c) {
                      return is_word(c) || c == '.' || c == '_' || c == '-';
                    });
  if (good) return Status::Ok();
  return Status::InvalidArgument("context name is '" + std::string(name.substr(0, 160)) +
                                 "', expected 1 to 128 letters, digits, '.', '_' or '-', the "
                                 "first a letter or digit");
}

std::string EncodeManifest(const ContextManifest& m) {
  Json json;
  json.Set("name", m.name);
  SetShape(m.identity, &json);
  json.Set("context", m.context.Hex()).Set("tokens", m.tokens);
  json.Set("codebooks", m.codes.codebooks.Hex()).Set("bytes_per_key", m.codes.bytes_per_key);
  Json owners = Json::Array();
  for (const PageOwner& owner : m.owners) {
    Json entry;
    entry.Set("end", owner.end).Set("context", owner.context.context.Hex());
    owners.Push(std::move(entry));
  }
  json.Set("owners", std::move(owners));
  std::string chain;
  for (const Fingerprint& link : m.chain) chain += link.Hex();
  json.Set("chain", std::move(chain));
  json.Set("bytes", static_cast<int64_t>(m.bytes)).Set("created", m.created);

  const std::string body = json.Dump();
  std::string out(kManifestMagic);
  PutFixed32(&out, kManifestVersion);
  PutFixed32(&out, static_cast<uint32_t>(body.size()));
  PutFixed64(&out, ManifestChecksum(out, body));
  return out + body;
}

Result<ContextManifest> DecodeManifest(std::string_view bytes) {
  if (bytes.size() < kHeaderBytes || !bytes.starts_with(kManifestMagic)) {
    return Bad("has " + std::to_string(bytes.size()) +
               " bytes or another beginning, expected PQMANIF and a header of " +
               std::to_string(kHeaderBytes));
  }
  const uint32_t version = GetFixed32(bytes.data() + 8);
  if (version != kManifestVersion) {
    return Status::Unsupported("manifest: version is " + std::to_string(version) + ", expected " +
                               std::to_string(kManifestVersion));
  }
  const std::string_view body = bytes.substr(kHeaderBytes);
  const uint32_t size = GetFixed32(bytes.data() + 12);
  if (body.size() != size) {
    return Bad("body has " + std::to_string(body.size()) + " bytes, expected " +
               std::to_string(size));
  }
  const uint64_t found = GetFixed64(bytes.data() + kChecksumAt);
  const uint64_t computed = ManifestChecksum(bytes, body);
  if (found != computed) {
    return Bad("checksum is " + std::to_string(found) + ", expected " + std::to_string(computed) +
               " as computed from the bytes");
  }
  Result<ContextManifest> manifest = ReadBody(body);
  if (manifest.ok() || manifest.status().code() == StatusCode::kCorruption) return manifest;
  return Bad(manifest.status().message());
}

int64_t ChainBlockTokens(const PageShape& page) {
  return page.page_tokens * ((kMinBlockTokens + page.page_tokens - 1) / page.page_tokens);
}

std::vector<Fingerprint> HashChain(const ContextIdentity& identity,
                                   std::span<const int64_t> tokens) {
  Json root;
  root.Set("chain", 1);
  SetShape(identity, &root);
  Fingerprint link = FingerprintOf(root.Dump());
  const auto block = static_cast<size_t>(ChainBlockTokens(identity.page));
  std::vector<Fingerprint> chain;
  for (size_t begin = 0; begin < tokens.size(); begin += block) {
    std::string text(link.bytes.begin(), link.bytes.end());
    for (int64_t token : tokens.subspan(begin, std::min(block, tokens.size() - begin))) {
      PutFixed64(&text, static_cast<uint64_t>(token));
    }
    link = FingerprintOf(text);
    chain.push_back(link);
  }
  return chain;
}

int64_t SharedPrefix(const ContextManifest& manifest, std::span<const int64_t> tokens,
                     std::span<const Fingerprint> chain, int64_t limit) {
  const auto count = static_cast<int64_t>(tokens.size());
  const int64_t block = ChainBlockTokens(manifest.identity.page);
  const int64_t whole = manifest.tokens / block;
  int64_t equal = 0;
  while (equal < whole && equal < count / block &&
         manifest.chain[static_cast<size_t>(equal)] == chain[static_cast<size_t>(equal)]) {
    ++equal;
  }
  // The short block at its end counts only as a whole, and is hashed anew for its length.
  if (equal == whole && manifest.tokens % block != 0 && manifest.tokens <= std::min(count, limit)) {
    const auto all =
        HashChain(manifest.identity, tokens.first(static_cast<size_t>(manifest.tokens)));
    if (all.back() == manifest.chain.back()) return manifest.tokens;
  }
  return std::min(equal, limit / block) * block;
}

std::vector<ContextId> ReferencedContexts(const ContextManifest& manifest) {
  std::vector<ContextId> contexts = {manifest.id()};  // of codes, sums and ids, if of nothing else
  for (const PageOwner& owner : manifest.owners) {
    if (owner.context != manifest.id()) contexts.push_back(owner.context);
  }
  return contexts;
}

}  // namespace pqcache
