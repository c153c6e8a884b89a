#pragma once

// THE LIST of page stores, and how a --store argument becomes one:
// "memory", "memory:limit=512M", "rocksdb:path=DIR", "resp:host=H,port=P", and tiers such as
// "memory:limit=512M+rocksdb:path=DIR+resp:host=H,port=P".
// Tiers are joined by "+", fastest first; the last one is where pages live.

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "pqcache/base/spec_string.h"
#include "pqcache/cache/page_store.h"

namespace pqcache::storage {

enum class OpenMode {
  kMakeIfMissing,
  kExisting,  // a folder that is not there is NotFound, and not made
};

struct PageStoreEntry {
  std::string_view name;
  std::string_view help;  // one line, for --help
  bool durable;           // pages survive the process after Sync
  Result<std::unique_ptr<PageStore>> (*open)(const SpecString& spec, OpenMode mode);
};

std::span<const PageStoreEntry> PageStores();

// Errors list the known stores. A durable last tier without a memory tier in front is legal. The
// mode is for the last tier, where pages live; those in front of it are made if missing.
Result<std::unique_ptr<PageStore>> OpenPageStore(std::string_view spec,
                                                 OpenMode mode = OpenMode::kMakeIfMissing);

// Folder of a store whose pages live on a local disk; InvalidArgument for others.
Result<std::string> FolderOfStore(std::string_view spec);

// InvalidArgument if what is put there does not survive the process.
Status CheckDurable(std::string_view spec);

}  // namespace pqcache::storage
