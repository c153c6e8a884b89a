#include "storage/salvage.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "pqcache/base/check.h"
#include "pqcache/cache/context_catalog.h"
#include "pqcache/cache/page_codec.h"
#include "storage/page_key_codec.h"
#include "storage/page_table.h"
#include "storage/rocksdb_page_store.h"
#include "storage/store_folder.h"

namespace pqcache::storage {
namespace {

namespace fs = std::filesystem;

// The oldest first, so that what a newer file has replaces it.
Result<std::vector<std::string>> TablesOf(const std::string& folder) {
  std::map<uint64_t, std::string> tables;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    uint64_t number = 0;
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), number);
    const bool numbered = parsed.ec == std::errc();
    if (numbered && std::string_view(parsed.ptr) == ".sst") tables[number] = name;
  }
  if (error) return Status::IoError(folder + ": cannot list: " + error.message());
  if (tables.empty()) {
    return Status::InvalidArgument(folder + ": has no tables, expected a page store");
  }
  std::vector<std::string> names;
  for (auto& [number, name] : tables) names.push_back(std::move(name));
  return names;
}

class Salvager {
 public:
  Salvager(std::string from, PageStore* to) : from_(std::move(from)), to_(to) {}

  Result<Salvage> Run(const std::vector<std::string>& tables) {
    for (const std::string& name : tables) PQCACHE_RETURN_IF_ERROR(CopyTable(name));
    PQCACHE_RETURN_IF_ERROR(to_->Sync());
    for (const auto& [key, manifests] : manifests_) PQCACHE_RETURN_IF_ERROR(Publish(manifests));
    return std::move(salvage_);
  }

 private:
  Status CopyTable(const std::string& name) {
    PageTable table(name);
    if (const Status status = table.Open(from_); !status.ok()) {
      if (status.code() != StatusCode::kCorruption) return status.Annotate(name);
      Note("file", name, status.message());
      salvage_.records_damaged = true;  // for all that is known
      return Status::Ok();
    }
    const bool records = table.HoldsRecords();
    std::string reached;
    table.Seek(reached);
    while (true) {
      if (!table.damage().empty()) {
        Note("block", name, table.damage());
        salvage_.records_damaged = salvage_.records_damaged || records;
        table.SeekBehindDamage(reached);
      }
      if (!table.valid()) return Status::Ok();
      reached = table.key();
      if (records) {
        TakeRecord(table);
      } else {
        PQCACHE_RETURN_IF_ERROR(CopyThePage(table));
      }
      table.Next();
    }
  }

  Status CopyThePage(const PageTable& table) {
    const Result<PageHeader> header = DecodePage(table.value());
    if (!header.ok() || EncodePageKey(header->key) != table.key()) {
      Note("page", table.name(),
           header.ok() ? "lies under another's key" : header.status().message());
      return Status::Ok();
    }
    const PageWrite write{header->key, CopyPage(table.value().data(), table.value().size())};
    ++salvage_.pages;
    return to_->Put({&write, 1});
  }

  void TakeRecord(const PageTable& table) {
    const std::span<const uint8_t> value = table.value();
    Result<ContextManifest> manifest =
        DecodeManifest({reinterpret_cast<const char*>(value.data()), value.size()});
    if (!manifest.ok()) {
      salvage_.records_damaged = true;
      return Note("manifest", table.name(), manifest.status().message());
    }
    manifests_[std::string(table.key())].push_back(*std::move(manifest));
  }

  // The newest one that can be used, of manifests of one name.
  Status Publish(std::vector<ContextManifest> manifests) {
    std::stable_sort(manifests.begin(), manifests.end(),
                     [](const auto& a, const auto& b) { return a.created < b.created; });
    for (auto it = manifests.rbegin(); it != manifests.rend(); ++it) {
      const Fingerprint& tenant = it->identity.tenant;
      const Status tokens = ContextCatalog(to_, tenant).ReadTokens(*it).status();
      if (tokens.code() == StatusCode::kNotFound || tokens.code() == StatusCode::kCorruption) {
        continue;
      }
      PQCACHE_RETURN_IF_ERROR(tokens);
      PQCACHE_ASSIGN_OR_RETURN(const bool written,
                               to_->PutRecord({tenant, it->name}, EncodeManifest(*it)));
      PQCACHE_CHECK(written, "nobody else writes into a new store");
      salvage_.contexts.push_back(*it);
      return Status::Ok();
    }
    salvage_.lost.push_back(manifests.back().name);
    return Status::Ok();
  }

  void Note(const char* part, const std::string& file, const std::string& what) {
    salvage_.damaged.push_back({part, file, std::nullopt, what});
  }

  const std::string from_;
  PageStore* const to_;
  Salvage salvage_;
  std::map<std::string, std::vector<ContextManifest>> manifests_;  // by the record's key
};

}  // namespace

Result<Salvage> SalvageStoreFolder(const std::string& from, const std::string& to) {
  PQCACHE_ASSIGN_OR_RETURN(const std::vector<std::string> tables, TablesOf(from));
  PQCACHE_RETURN_IF_ERROR(CheckNobodyHolds(from));
  if (CheckStoreFolder(to).ok()) {
    return Status::InvalidArgument(to + ": is a page store already, expected a new folder");
  }
  // A marker that is lost or damaged says nothing.
  const Status marker = CheckStoreFolder(from);
  if (marker.code() == StatusCode::kUnsupported) return marker;
  PQCACHE_ASSIGN_OR_RETURN(const auto store, RocksDbPageStore::Open(to, nullptr));
  PQCACHE_ASSIGN_OR_RETURN(Salvage salvage, Salvager(from, store.get()).Run(tables));
  // One that came meanwhile may have changed the files.
  PQCACHE_RETURN_IF_ERROR(CheckNobodyHolds(from));
  return salvage;
}

}  // namespace pqcache::storage
