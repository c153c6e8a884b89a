#include "storage/manifest_mark.h"

#include <filesystem>
#include <sstream>

#include "pqcache/base/checksum.h"
#include "pqcache/base/file_io.h"
#include "pqcache/base/log.h"
#include "storage/store_folder.h"

namespace pqcache::storage {
namespace {

constexpr uint64_t kMaxBytes = 4096;  // of the mark and of CURRENT

std::string MarkFile(const std::string& path) { return path + "/" + kFolderMarker + ".manifest"; }

std::string Line(std::string_view manifest, uint64_t bytes) {
  std::string line = std::string(manifest) + " " + std::to_string(bytes) + " ";
  return line + std::to_string(Checksum64(line.data(), line.size())) + "\n";
}

}  // namespace

Status CheckManifestMark(const std::string& path) {
  const Result<std::string> mark = ReadFile(MarkFile(path), kMaxBytes);
  const Result<std::string> current = ReadFile(path + "/CURRENT", kMaxBytes);
  if (!mark.ok() || !current.ok()) return Status::Ok();
  std::istringstream words(*mark);
  std::string manifest;
  uint64_t bytes = 0;
  words >> manifest >> bytes;
  if (Line(manifest, bytes) != *mark) {
    Log(LogLevel::kWarning, MarkFile(path) + ": is damaged; a list of files that lost its end "
                                             "would not be noticed this time");
    return Status::Ok();
  }
  if (*current != manifest + "\n") return Status::Ok();
  std::error_code error;
  const uint64_t found = std::filesystem::file_size(path + "/" + manifest, error);
  if (error || found >= bytes) return Status::Ok();
  return Status::Corruption("rocksdb store " + path + ": " + manifest + " has " +
                            std::to_string(found) + " bytes, expected at least the " +
                            std::to_string(bytes) + " that were synced; what was stored last is " +
                            "not in it. To open the store without that, remove " + MarkFile(path));
}

Status WriteManifestMark(const std::string& path, std::string_view manifest, uint64_t bytes) {
  return WriteFileAtomically(MarkFile(path), Line(manifest, bytes));
}

}  // namespace pqcache::storage
