#pragma once

// One RocksDB file with pages, read on its own: damage in it hides nothing in other files, and what
// lies behind damage can still be reached. Not thread-safe.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "pqcache/base/status.h"

namespace rocksdb {
class Iterator;
class SstFileReader;
struct LiveFileMetaData;
}  // namespace rocksdb

namespace pqcache::storage {

class PageTable {
 public:
  explicit PageTable(const rocksdb::LiveFileMetaData& file);
  // Of a file that no list names: first and last are not known.
  explicit PageTable(std::string name);
  ~PageTable();

  const std::string& name() const { return name_; }    // in the store's folder
  const std::string& first() const { return first_; }  // smallest key
  const std::string& last() const { return last_; }    // largest key
  bool Holds(const std::string& key) const { return first_ <= key && key <= last_; }
  // Of two files with one key, the newer one's value counts.
  bool IsNewerThan(const PageTable& other) const;

  // kCorruption with RocksDB's message if the file is missing, or damaged where its index is;
  // kIoError if the system refuses.
  Status Open(const std::string& folder);
  // Gives the file's descriptor back.
  void Close();

  // Everything below needs an open file.

  // Of the family of records, not of pages.
  bool HoldsRecords() const;
  // True if the file says that ranges of keys are removed, here or in older files.
  bool RemovesRanges() const;
  // Moves to the first key that is not smaller. False in a damaged part, true at the end.
  bool Seek(const std::string& key);
  void Next();
  void MoveToEnd();
  // Moves from the damaged part behind `low` to the first key that can be read, or to the end.
  // Where several parts are damaged, it may stop behind any of them.
  void SeekBehindDamage(const std::string& low);

  bool valid() const;                      // at a key; otherwise at the end or at damage
  std::string damage() const;              // RocksDB's message when at damage, otherwise empty
  std::string_view key() const;            // only when valid
  std::span<const uint8_t> value() const;  // only when valid; until the next move

 private:
  std::string name_, first_, last_;
  int level_ = 0;
  uint64_t newest_ = 0;  // sequence number
  std::unique_ptr<rocksdb::SstFileReader> reader_;
  std::unique_ptr<rocksdb::Iterator> it_;
};

}  // namespace pqcache::storage
