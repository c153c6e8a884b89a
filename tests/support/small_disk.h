#pragma once

#include <sys/mount.h>

#include <string>

#include "tests/support/temp_dir.h"

namespace pqcache::testing {

// A small file system of its own; unmounted with its owner.
class SmallDisk {
 public:
  explicit SmallDisk(const char* options)
      : mounted_(::mount("tmpfs", dir_.path().c_str(), "tmpfs", 0, options) == 0) {}
  ~SmallDisk() {
    if (mounted_) ::umount2(dir_.path().c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  std::string File(const std::string& name) const { return dir_.File(name); }

 private:
  TempDir dir_;
  bool mounted_;
};

}  // namespace pqcache::testing
