#include "tools/plain_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "pqcache/cache/page_codec.h"

namespace pqcache::tools {
namespace {

Status SystemError(const std::string& what) {
  return Status::IoError(what + ": " + std::strerror(errno));
}

}  // namespace

PlainFiles::~PlainFiles() {
  for (int file : files_) ::close(file);
}

Status PlainFiles::Put(std::span<const PageWrite> pages) {
  const std::string path = folder_ + "/pages-" + std::to_string(files_.size());
  const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (file < 0) return SystemError(path);
  files_.push_back(file);
  size_t bytes = 0;
  for (const PageWrite& write : pages) bytes += write.page->size();
  std::vector<uint8_t> joined;
  joined.reserve(bytes);
  for (const PageWrite& write : pages) {
    places_[write.key] = {file, static_cast<int64_t>(joined.size()), write.page->size()};
    joined.insert(joined.end(), write.page->data(), write.page->data() + write.page->size());
  }
  for (size_t done = 0; done < joined.size();) {
    const ssize_t n = ::write(file, joined.data() + done, joined.size() - done);
    if (n < 0) return SystemError(path);
    done += static_cast<size_t>(n);
  }
  return Status::Ok();
}

Status PlainFiles::Sync() {
  for (int file : files_) {
    if (::fsync(file) != 0) return SystemError(folder_);
  }
  return Status::Ok();
}

void PlainFiles::Read(std::span<PageRead> pages) const {
  for (PageRead& read : pages) {
    const auto it = places_.find(read.key);
    if (it == places_.end()) {
      read.status = Status::NotFound(folder_ + ": no such page");
      continue;
    }
    const Place& place = it->second;
    auto page = std::make_shared<PageBytes>(PageBytes::ForOverwrite(place.bytes));
    const ssize_t n = ::pread(place.file, page->data(), place.bytes, place.offset);
    if (n < 0) {
      read.status = SystemError(folder_);
    } else if (static_cast<size_t>(n) < place.bytes) {
      read.status = Status::Corruption(folder_ + ": " + std::to_string(n) + " bytes of a page of " +
                                       std::to_string(place.bytes));
    } else {
      read.status = VerifyPage(page->span(), read.key);
    }
    if (read.status.ok()) read.page = std::move(page);
  }
}

}  // namespace pqcache::tools
