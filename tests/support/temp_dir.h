#pragma once

// A scratch folder that goes away with its owner.

#include <stdlib.h>

#include <filesystem>
#include <string>

#include "pqcache/base/check.h"

namespace pqcache::testing {

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
