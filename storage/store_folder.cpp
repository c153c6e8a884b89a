#include "storage/store_folder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "pqcache/base/file_io.h"

namespace pqcache::storage {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kMarkerName = "pqcache-page-store ";

Status Refused(const fs::path& path, const std::string& action, const std::string& reason) {
  return Status::IoError(path.string() + ": cannot " + action + ": " + reason);
}

Status SyncFolder(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return Refused(path, "open", std::strerror(errno));
  const int failed = ::fsync(fd) != 0 ? errno : 0;
  ::close(fd);
  return failed == 0 ? Status::Ok() : Refused(path, "fsync", std::strerror(failed));
}

// mkdir -p; the entry of every new folder is synced, or a power cut could take the whole store.
Status MakeFolders(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (fs::is_directory(status)) return Status::Ok();
  if (fs::exists(status)) {
    return Status::InvalidArgument(path.string() + ": is not a folder, expected one");
  }
  if (status.type() == fs::file_type::none) return Refused(path, "look at", error.message());
  const fs::path parent = path.has_parent_path() ? path.parent_path() : fs::path(".");
  PQCACHE_RETURN_IF_ERROR(MakeFolders(parent));
  fs::create_directory(path, error);
  if (error) return Refused(path, "make the folder", error.message());
  return SyncFolder(parent);
}

std::string MarkerVersion() { return std::to_string(kStoreVersion); }

// First entry that is no marker (a crash may have left the marker's temporary file).
Result<std::string> ForeignEntry(const fs::path& path) {
  std::error_code error;
  for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (!name.starts_with(kFolderMarker)) return name;
  }
  if (error) return Refused(path, "list", error.message());
  return std::string();
}

Status CheckMarker(const std::string& file, std::string_view text) {
  if (!text.starts_with(kMarkerName) || !text.ends_with('\n')) {
    return Status::Corruption(file + ": is damaged, expected the line '" +
                              std::string(kMarkerName) + MarkerVersion() + "'");
  }
  text.remove_prefix(kMarkerName.size());
  text.remove_suffix(1);
  if (text == MarkerVersion()) return Status::Ok();
  return Status::Unsupported(file + ": version is '" + std::string(text) + "', expected " +
                             MarkerVersion());
}

}  // namespace

Status PrepareStoreFolder(const std::string& path) {
  const fs::path folder = fs::path(path).lexically_normal();
  PQCACHE_RETURN_IF_ERROR(MakeFolders(folder.has_filename() ? folder : folder.parent_path()));
  const Status checked = CheckStoreFolder(folder.string());
  if (checked.code() != StatusCode::kNotFound) return checked;
  PQCACHE_ASSIGN_OR_RETURN(const std::string foreign, ForeignEntry(folder));
  if (!foreign.empty()) {
    return Status::InvalidArgument(path + ": holds '" + foreign + "' and no " + kFolderMarker +
                                   ", expected a page store or an empty folder");
  }
  return WriteFileAtomically((folder / kFolderMarker).string(),
                             std::string(kMarkerName) + MarkerVersion() + "\n");
}

Status CheckStoreFolder(const std::string& path) {
  const std::string marker = (fs::path(path) / kFolderMarker).string();
  const Result<std::string> text = ReadFile(marker, 4096);
  if (text.status().code() == StatusCode::kNotFound) {
    return Status::NotFound(path + ": has no file " + kFolderMarker +
                            ", expected a page store that is there already");
  }
  PQCACHE_RETURN_IF_ERROR(text.status());
  return CheckMarker(marker, *text);
}

Status CheckNobodyHolds(const std::string& path) {
  const std::optional<int> holder = LockHolder(path + "/" + kLockFile);
  if (!holder.has_value()) return Status::Ok();
  return Status::IoError(path + ": is in use by process " + std::to_string(*holder) +
                         ", expected a store that nobody holds");
}

std::optional<int> LockHolder(const std::string& file) {
  struct stat info;
  if (::stat(file.c_str(), &info) != 0) return std::nullopt;
  std::ifstream locks("/proc/locks");
  for (std::string line; std::getline(locks, line);) {
    // "1: POSIX  ADVISORY  WRITE 1234 fe:00:5678 0 EOF"
    int pid = 0;
    unsigned major_id = 0, minor_id = 0;
    unsigned long long inode = 0;
    if (std::sscanf(line.c_str(), "%*d: POSIX %*s WRITE %d %x:%x:%llu", &pid, &major_id, &minor_id,
                    &inode) == 4 &&
        pid > 0 && makedev(major_id, minor_id) == info.st_dev && inode == info.st_ino) {
      return pid;
    }
  }
  return std::nullopt;
}

}  // namespace pqcache::storage
