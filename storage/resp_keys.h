#pragma once

// Names of keys on the servers, as in resp_format.md. Pure and thread-safe.

#include <cstdint>
#include <string>

#include "pqcache/cache/page_store.h"

namespace pqcache::storage {

// The 32 hexadecimal digits that stand for a context.
std::string RespContextName(const ContextId& context);

// "pq:{0123...ef/L3}:": what every key of a layer of a context begins with; `layer` in decimal.
std::string RespLayerPrefix(const std::string& context_name, const std::string& layer);

// "r1:7": what follows for a page, the member of the layer's set of pages.
std::string RespPageSuffix(const PageKey& key);

std::string RespPageKey(const PageKey& key);

// The set of the suffixes of a layer's pages, and the set of a context's layers.
std::string RespPagesKey(const std::string& layer_prefix);
std::string RespLayersKey(const std::string& context_name);

// The hash of a tenant's records.
std::string RespRecordsKey(const Fingerprint& tenant);

}  // namespace pqcache::storage
