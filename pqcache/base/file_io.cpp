#include "pqcache/base/file_io.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace pqcache {
namespace {

Status OsError(const std::string& path, const char* action) {
  const int error = errno;
  std::string message = path + ": cannot " + action + ": " + std::strerror(error);
  return error == ENOENT ? Status::NotFound(std::move(message))
                         : Status::IoError(std::move(message));
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

Status WriteAll(int fd, const std::string& path, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return OsError(path, "write");
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return Status::Ok();
}

Status WriteAndSync(const std::string& path, std::string_view bytes) {
  Descriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (file.get() < 0) return OsError(path, "create");
  PQCACHE_RETURN_IF_ERROR(WriteAll(file.get(), path, bytes));
  if (::fsync(file.get()) != 0) return OsError(path, "fsync");
  return Status::Ok();
}

Status SyncFolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  Descriptor dir(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (dir.get() < 0) return OsError(folder, "open");
  if (::fsync(dir.get()) != 0) return OsError(folder, "fsync");
  return Status::Ok();
}

}  // namespace

Result<std::string> ReadFile(const std::string& path, uint64_t max_bytes) {
  Descriptor file(
      ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));  // a pipe must not block
  if (file.get() < 0) return OsError(path, "open");
  struct stat info;
  if (::fstat(file.get(), &info) != 0) return OsError(path, "stat");
  if (!S_ISREG(info.st_mode)) {
    return Status::InvalidArgument(path + ": is not a regular file");
  }
  if (static_cast<uint64_t>(info.st_size) > max_bytes) {
    return Status::InvalidArgument(path + ": has " + std::to_string(info.st_size) +
                                   " bytes, expected at most " + std::to_string(max_bytes));
  }
  std::string bytes(static_cast<size_t>(info.st_size), '\0');
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::read(file.get(), bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return OsError(path, "read");
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  if (done != bytes.size()) {
    return Status::IoError(path + ": shrank while it was read, from " +
                           std::to_string(bytes.size()) + " to " + std::to_string(done) + " bytes");
  }
  return bytes;
}

Status WriteFileAtomically(const std::string& path, std::string_view bytes) {
  const std::string temporary = path + ".tmp." + std::to_string(::getpid());
  Status status = WriteAndSync(temporary, bytes);
  if (status.ok() && ::rename(temporary.c_str(), path.c_str()) != 0) {
    status = OsError(path, "replace");
  }
  if (!status.ok()) {
    ::unlink(temporary.c_str());
    return status;
  }
  return SyncFolderOf(path);
}

}  // namespace pqcache
