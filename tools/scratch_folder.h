#pragma once

// A folder for files that only a measurement needs; removed with its owner.

#include <stdlib.h>

#include <filesystem>
#include <memory>
#include <string>

#include "pqcache/base/status.h"

namespace pqcache::tools {

class ScratchFolder {
 public:
  static Result<std::unique_ptr<ScratchFolder>> Make(const std::string& parent) {
    std::string name = parent + "/pqcache-bench-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) {
      return Status::IoError(parent + ": cannot make a folder in it");
    }
    return std::unique_ptr<ScratchFolder>(new ScratchFolder(name));
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  explicit ScratchFolder(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

}  // namespace pqcache::tools
