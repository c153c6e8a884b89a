#include "storage/stores.h"

#include <utility>
#include <vector>

#include "storage/memory_page_store.h"
#include "storage/rocksdb_page_store.h"
#include "storage/tiered_page_store.h"

namespace pqcache::storage {
namespace {

constexpr PageStoreEntry kPageStores[] = {
    {MemoryPageStore::kName,
     "host memory; limit=BYTES. Alone it holds all pages, in front of another store it caches them",
     false, MemoryPageStore::Open},
    {RocksDbPageStore::kName, "RocksDB folder on a local disk; path=DIR", true,
     RocksDbPageStore::Open},
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

// Only memory caches, so it is the one tier that may stand in front, and nowhere else.
Status CheckOrder(std::string_view text, std::span<const SpecString> tiers) {
  for (size_t i = 0; i + 1 < tiers.size(); ++i) {
    for (size_t j = i + 1; j < tiers.size(); ++j) {
      if (tiers[i].name != tiers[j].name) continue;
      return Status::InvalidArgument("'" + std::string(text) + "' has two tiers '" + tiers[i].name +
                                     "', expected one of each");
    }
  }
  for (size_t i = 0; i + 1 < tiers.size(); ++i) {
    if (tiers[i].name == MemoryPageStore::kName) continue;
    return Status::InvalidArgument("'" + std::string(text) + "' has '" + tiers[i].name +
                                   "' in front of '" + tiers[i + 1].name + "', expected only '" +
                                   std::string(MemoryPageStore::kName) +
                                   "' in front of another store");
  }
  return Status::Ok();
}

}  // namespace

std::span<const PageStoreEntry> PageStores() { return kPageStores; }

Result<std::unique_ptr<PageStore>> OpenPageStore(std::string_view spec) {
  PQCACHE_ASSIGN_OR_RETURN(const std::vector<SpecString> tiers, ParseTiers(spec));
  PQCACHE_RETURN_IF_ERROR(CheckOrder(spec, tiers));
  PQCACHE_ASSIGN_OR_RETURN(const PageStoreEntry* last, FindStore(tiers.back().name));
  if (tiers.size() == 1) return last->open(tiers.back());
  PQCACHE_ASSIGN_OR_RETURN(const uint64_t limit, ParseMemoryLimit(tiers.front()));
  PQCACHE_ASSIGN_OR_RETURN(std::unique_ptr<PageStore> below, last->open(tiers.back()));
  return std::unique_ptr<PageStore>(std::make_unique<TieredPageStore>(limit, std::move(below)));
}

}  // namespace pqcache::storage
