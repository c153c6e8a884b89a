#include "storage/stores.h"

#include <utility>
#include <vector>

#include "storage/layered_page_store.h"
#include "storage/memory_page_store.h"
#include "storage/resp_page_store.h"
#include "storage/rocksdb_page_store.h"
#include "storage/tiered_page_store.h"

namespace pqcache::storage {
namespace {

constexpr PageStoreEntry kPageStores[] = {
    {MemoryPageStore::kName,
     "host memory; limit=BYTES. Alone it holds all pages, in front of another store it caches them",
     false, [](const SpecString& spec, OpenMode) { return MemoryPageStore::Open(spec); }},
    {RocksDbPageStore::kName, "RocksDB folder on a local disk; path=DIR", true,
     [](const SpecString& spec, OpenMode mode) {
       return RocksDbPageStore::Open(spec, mode == OpenMode::kMakeIfMissing);
     }},
    {RespPageStore::kName,
     "any server or cluster that speaks the Redis protocol; host=H,port=P, password in "
     "PQCACHE_RESP_PASSWORD",
     true, [](const SpecString& spec, OpenMode) { return RespPageStore::Open(spec); }},
};

std::string KnownStores() {
  std::string list;
  for (const PageStoreEntry& entry : kPageStores) {
    list += (list.empty() ? "" : ", ") + std::string(entry.name);
  }
  return list;
}

Result<const PageStoreEntry*> FindStore(std::string_view name) {
  for (const PageStoreEntry& entry : kPageStores) {
    if (entry.name == name) return &entry;
  }
  return Status::InvalidArgument("unknown store '" + std::string(name) + "', expected one of: " +
                                 KnownStores() + "; tiers joined by '+', fastest first");
}

Result<std::vector<SpecString>> ParseTiers(std::string_view text) {
  std::vector<SpecString> tiers;
  while (true) {
    const size_t plus = text.find('+');
    Result<SpecString> tier = ParseSpec(text.substr(0, plus));
    if (!tier.ok()) return tier.status().Annotate("known stores: " + KnownStores());
    PQCACHE_RETURN_IF_ERROR(FindStore(tier->name).status());
    tiers.push_back(*std::move(tier));
    if (plus == std::string_view::npos) return tiers;
    text.remove_prefix(plus + 1);
  }
}

// Tiers stand in the order of the list, each at most once.
Status CheckOrder(std::string_view text, std::span<const SpecString> tiers) {
  const PageStoreEntry* before = nullptr;
  for (const SpecString& tier : tiers) {
    PQCACHE_ASSIGN_OR_RETURN(const PageStoreEntry* entry, FindStore(tier.name));
    if (before == nullptr || before < entry) {
      before = entry;
      continue;
    }
    return Status::InvalidArgument("'" + std::string(text) + "' has '" + std::string(before->name) +
                                   "' in front of '" + tier.name +
                                   "', expected each tier once and in the order " + KnownStores());
  }
  return Status::Ok();
}

// One more tier in front of what is below.
Result<std::unique_ptr<PageStore>> StackTier(const SpecString& tier,
                                             std::unique_ptr<PageStore> below) {
  if (tier.name == MemoryPageStore::kName) {
    PQCACHE_ASSIGN_OR_RETURN(const uint64_t limit, ParseMemoryLimit(tier));
    return std::unique_ptr<PageStore>(std::make_unique<TieredPageStore>(limit, std::move(below)));
  }
  PQCACHE_ASSIGN_OR_RETURN(const PageStoreEntry* entry, FindStore(tier.name));
  PQCACHE_ASSIGN_OR_RETURN(std::unique_ptr<PageStore> near,
                           entry->open(tier, OpenMode::kMakeIfMissing));
  return std::unique_ptr<PageStore>(
      std::make_unique<LayeredPageStore>(std::move(near), std::move(below)));
}

}  // namespace

std::span<const PageStoreEntry> PageStores() { return kPageStores; }

Result<std::unique_ptr<PageStore>> OpenPageStore(std::string_view spec, OpenMode mode) {
  PQCACHE_ASSIGN_OR_RETURN(const std::vector<SpecString> tiers, ParseTiers(spec));
  PQCACHE_RETURN_IF_ERROR(CheckOrder(spec, tiers));
  PQCACHE_ASSIGN_OR_RETURN(const PageStoreEntry* last, FindStore(tiers.back().name));
  // What is refused must not have made a folder before.
  if (tiers.front().name == MemoryPageStore::kName) {
    PQCACHE_RETURN_IF_ERROR(ParseMemoryLimit(tiers.front()).status());
  }
  PQCACHE_ASSIGN_OR_RETURN(std::unique_ptr<PageStore> store, last->open(tiers.back(), mode));
  for (size_t i = tiers.size() - 1; i-- > 0;) {
    PQCACHE_ASSIGN_OR_RETURN(store, StackTier(tiers[i], std::move(store)));
  }
  return store;
}

Result<std::string> FolderOfStore(std::string_view spec) {
  PQCACHE_ASSIGN_OR_RETURN(const std::vector<SpecString> tiers, ParseTiers(spec));
  if (tiers.back().name == RocksDbPageStore::kName) return RocksDbPageStore::FolderOf(tiers.back());
  return Status::InvalidArgument("store '" + std::string(spec) + "' ends in '" + tiers.back().name +
                                 "', expected " + std::string(RocksDbPageStore::kName));
}

Status CheckDurable(std::string_view spec) {
  PQCACHE_ASSIGN_OR_RETURN(const std::vector<SpecString> tiers, ParseTiers(spec));
  PQCACHE_ASSIGN_OR_RETURN(const PageStoreEntry* last, FindStore(tiers.back().name));
  if (last->durable) return Status::Ok();
  std::string durable;
  for (const PageStoreEntry& entry : kPageStores) {
    if (entry.durable) durable += (durable.empty() ? "" : " or ") + std::string(entry.name);
  }
  return Status::InvalidArgument("store '" + std::string(spec) +
                                 "' ends with the process, expected one whose last tier is " +
                                 durable);
}

}  // namespace pqcache::storage
