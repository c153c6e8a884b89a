#include "storage/resp_keys.h"

#include <cstring>

#include "storage/page_key_codec.h"

namespace pqcache::storage {
namespace {

char KindLetter(PageKind kind) {
  switch (kind) {
    case PageKind::kRows:
      return 'r';
    case PageKind::kCodes:
      return 'c';
    case PageKind::kValueSums:
      return 's';
    case PageKind::kTokens:
      return 't';
  }
  return '?';
}

}  // namespace

std::string RespContextName(const ContextId& context) {
  // The context's part of a binary key, in hexadecimal.
  const std::string bytes = ContextKeyRange(context).begin;
  Fingerprint name;
  std::memcpy(name.bytes.data(), bytes.data(), name.bytes.size());
  return name.Hex();
}

std::string RespLayerPrefix(const std::string& context_name, const std::string& layer) {
  return "pq:{" + context_name + "/L" + layer + "}:";
}

std::string RespPageSuffix(const PageKey& key) {
  return KindLetter(key.kind) + std::to_string(key.head) + ":" + std::to_string(key.page);
}

std::string RespPageKey(const PageKey& key) {
  return RespLayerPrefix(RespContextName(key.context), std::to_string(key.layer)) +
         RespPageSuffix(key);
}

std::string RespPagesKey(const std::string& layer_prefix) { return layer_prefix + "pages"; }

std::string RespLayersKey(const std::string& context_name) {
  return "pq:{" + context_name + "}:layers";
}

std::string RespRecordsKey(const Fingerprint& tenant) {
  return "pq:{" + tenant.Hex() + "}:records";
}

}  // namespace pqcache::storage
