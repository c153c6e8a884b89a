#pragma once

// Scratch folders.

#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "pqcache/base/check.h"

namespace pqcache::testing {

// In memory if the system has such a folder with room: for tests of many writes to which it makes
// no difference.
inline std::filesystem::path FastFolder() {
  std::error_code error;
  const std::filesystem::path memory = "/dev/shm";
  const std::filesystem::space_info space = std::filesystem::space(memory, error);
  const bool usable =
      !error && space.available > (256 << 20) && ::access(memory.c_str(), W_OK) == 0;
  return usable ? memory : std::filesystem::temp_directory_path();
}

// Goes away with its owner.
class TempDir {
 public:
  TempDir() : TempDir(std::filesystem::temp_directory_path()) {}
  explicit TempDir(const std::filesystem::path& parent) {
    std::string name = (parent / "pqcache_XXXXXX").string();
    PQCACHE_CHECK(::mkdtemp(name.data()) != nullptr, "cannot make a scratch folder");
    path_ = name;
  }
  ~TempDir() { std::filesystem::remove_all(path_); }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace pqcache::testing
