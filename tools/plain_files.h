#pragma once

// The floor that page stores are measured against: pages behind each other in plain files, found
// through a table in memory, with the checksum of each page verified on reading. It gives no
// atomicity, no removal and no way to find pages again after a restart. Put and Sync: one thread at
// a time, and not beside Read; Read from many.

#include <string>
#include <unordered_map>
#include <vector>

#include "pqcache/cache/page_store.h"
#include "storage/page_key_codec.h"

namespace pqcache::tools {

class PlainFiles {
 public:
  // Files are made in `folder`, which must exist.
  explicit PlainFiles(std::string folder) : folder_(std::move(folder)) {}
  ~PlainFiles();
  PlainFiles(const PlainFiles&) = delete;
  PlainFiles& operator=(const PlainFiles&) = delete;

  // Writes the batch as one file.
  Status Put(std::span<const PageWrite> pages);
  Status Sync();
  void Read(std::span<PageRead> pages) const;

 private:
  struct Place {
    int file = -1;
    int64_t offset = 0;
    size_t bytes = 0;
  };
  std::string folder_;
  std::vector<int> files_;  // descriptors
  std::unordered_map<PageKey, Place, storage::PageKeyHash> places_;
};

}  // namespace pqcache::tools
