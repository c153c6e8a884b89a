#include "storage/manifest_mark.h"

#include <sstream>

#include "pqcache/base/checksum.h"
#include "pqcache/base/file_io.h"
#include "pqcache/base/log.h"
#include "storage/store_folder.h"

namespace pqcache::storage {
namespace {

constexpr uint64_t kMaxBytes = 4096;  // of the mark and of CURRENT

std::string MarkFile(const std::string& path) { return path + "/" + kFolderMarker + ".manifest"; }

constexpr uint64_t kMaxManifestBytes = uint64_t{2} << 30;  // RocksDB begins a new one at 1 GiB

std::string Line(std::string_view manifest, uint64_t bytes, uint64_t checksum) {
  std::string line =
      std::string(manifest) + " " + std::to_string(bytes) + " " + std::to_string(checksum) + " ";
  return line + std::to_string(Checksum64(line.data(), line.size())) + "\n";
}

}  // namespace

Status CheckManifestMark(const std::string& path) {
  const Result<std::string> mark = ReadFile(MarkFile(path), kMaxBytes);
  const Result<std::string> current = ReadFile(path + "/CURRENT", kMaxBytes);
  if (!current.ok()) return Status::Ok();
  if (!mark.ok()) {
    Log(LogLevel::kWarning,
        mark.status().message() + "; a damaged list of files may not be noticed this time");
    return Status::Ok();
  }
  std::istringstream words(*mark);
  std::string manifest;
  uint64_t bytes = 0, checksum = 0;
  words >> manifest >> bytes >> checksum;
  if (Line(manifest, bytes, checksum) != *mark) {
    Log(LogLevel::kWarning,
        MarkFile(path) + ": is damaged; a damaged list of files may not be noticed this time");
    return Status::Ok();
  }
  if (*current != manifest + "\n") return Status::Ok();
  PQCACHE_ASSIGN_OR_RETURN(const std::string list,
                           ReadFile(path + "/" + manifest, kMaxManifestBytes));
  if (list.size() >= bytes && Checksum64(list.data(), bytes) == checksum) return Status::Ok();
  const std::string what = list.size() < bytes
                               ? "has " + std::to_string(list.size()) + " bytes, expected at least"
                               : "differs in the first";
  return Status::Corruption("rocksdb store " + path + ": " + manifest + " " + what + " " +
                            std::to_string(bytes) + " that were synced; what was stored last may " +
                            "not be in it");
}

Status WriteManifestMark(const std::string& path, std::string_view manifest, uint64_t bytes) {
  PQCACHE_ASSIGN_OR_RETURN(const std::string list,
                           ReadFile(path + "/" + std::string(manifest), kMaxManifestBytes));
  if (list.size() < bytes) {
    return Status::IoError(path + "/" + std::string(manifest) + ": has " +
                           std::to_string(list.size()) + " bytes, expected at least " +
                           std::to_string(bytes));
  }
  return WriteFileAtomically(MarkFile(path), Line(manifest, bytes, Checksum64(list.data(), bytes)));
}

}  // namespace pqcache::storage
