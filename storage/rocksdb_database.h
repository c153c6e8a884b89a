#pragma once

// The RocksDB database of a page store's folder: opens it with what a killed process left, tells
// who else holds it, marks its list of files, and opens it anew after a failed write, which RocksDB
// itself does not always recover from. May be used from many threads.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

#include "pqcache/base/status.h"

namespace rocksdb {
class ColumnFamilyHandle;
class DB;
class Env;
class FileLock;
class Status;
struct Options;
}  // namespace rocksdb

namespace pqcache::storage {

class RocksDbDatabase {
 public:
  // `env` is borrowed; nullptr: the system's. Errors as RocksDbPageStore::Open's.
  static Result<std::unique_ptr<RocksDbDatabase>> Open(const std::string& path, rocksdb::Env* env);
  ~RocksDbDatabase();
  RocksDbDatabase(const RocksDbDatabase&) = delete;
  RocksDbDatabase& operator=(const RocksDbDatabase&) = delete;

  // Valid while the work runs.
  struct Handles {
    rocksdb::DB* db = nullptr;
    rocksdb::ColumnFamilyHandle* pages = nullptr;
    rocksdb::ColumnFamilyHandle* records = nullptr;
  };
  using Work = std::function<rocksdb::Status(const Handles&)>;

  // Runs work that changes nothing. Messages name the folder and the action.
  Status Read(const char* action, const Work& work) const;
  // Runs work that writes, in a database that is sound. Work must not call this object.
  Status Change(const char* action, const Work& work);
  // The same, and what the work put into the family is durable.
  Status ChangeDurably(const char* action, rocksdb::ColumnFamilyHandle* Handles::*family,
                       const Work& work);
  // Runs work that gives room back, which may be what a failed database waits for, in the database
  // as it is.
  Status GiveBack(const char* action, const Work& work);
  // After a failed change, opens the database anew, as soon as its folder can be written. Until
  // then this fails, and what is there can be read.
  Status Repair();

  // Name of a file that will be given to TakeIn. What a killed process leaves of it is removed.
  std::string NewTableFile();
  // Sorted, synced files of pages become part of the database in one step.
  Status TakeIn(const std::vector<std::string>& files);
  // Marks what the list of files holds now (manifest_mark.h). What is durable is so without a mark,
  // so a mark that cannot be written is a warning: the one before stays true.
  void Mark();

  const std::string& path() const { return path_; }
  const rocksdb::Options& options() const { return *options_; }

 private:
  RocksDbDatabase(std::string path, rocksdb::Env* env);
  Status LockFolder();
  Status OpenFiles();
  Status OpenWithTables(const Status& opened);
  Status OpenOnce(bool read_only);
  void Close();
  Status ProbeFolder() const;
  void NoticeBackgroundErrors();
  Status ReopenIfFailed();

  const std::string path_;
  const std::unique_ptr<rocksdb::Options> options_;
  rocksdb::FileLock* lock_ = nullptr;     // RocksDB lets go of its own when it is opened anew
  std::atomic<uint64_t> table_files_{0};  // named so far
  std::mutex mark_mutex_;                 // guards what was marked last
  std::string marked_list_;
  uint64_t marked_bytes_ = 0;
  mutable std::shared_mutex mutex_;  // exclusive: to close and open. Guards what follows
  std::unique_ptr<rocksdb::DB> db_;  // null: could not be opened again
  Handles handles_;
  std::atomic<bool> failed_{false};  // a change did; set while mutex_ is held
  std::mutex left_over_mutex_;
  std::vector<std::string> left_over_;  // files that could not be taken in
};

}  // namespace pqcache::storage
