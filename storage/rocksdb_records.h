#pragma once

// The records of a page store in its RocksDB. One writer at a time; until a change is durable, and
// after one that failed, what was there before is served. May be used from many threads.

#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pqcache/cache/page_store.h"

namespace pqcache::storage {

class RocksDbDatabase;

class RocksDbRecords {
 public:
  // The database is borrowed.
  explicit RocksDbRecords(RocksDbDatabase* database) : database_(database) {}

  // As the functions of PageStore.
  Result<bool> Put(const RecordKey& key, std::string_view value);
  Result<bool> Replace(const RecordKey& key, std::string_view expected, std::string_view value);
  Result<std::string> Get(const RecordKey& key) const;
  Result<std::vector<Record>> List(const Fingerprint& tenant) const;
  Status Remove(const RecordKey& key);

  // Takes back a change that failed, which may otherwise become durable later. Before that, no page
  // may go that a record speaks of.
  Status Restore();

 private:
  using Value = std::optional<std::string>;  // nothing: no record
  struct Change {
    std::string key;
    Value before;
  };

  // False, and nothing changed, if the record was not as expected.
  Result<bool> Exchange(const RecordKey& key, std::optional<std::string_view> expected,
                        std::string_view value);
  Result<Value> Find(const std::string& key) const;
  Status Write(const std::string& key, const Value& before, const Value& value);
  Status RestoreNow();
  Status WriteDurably(const std::string& key, const Value& value);

  RocksDbDatabase* const database_;
  std::mutex write_mutex_;             // one change after the other
  mutable std::mutex changing_mutex_;  // guards changing_; held while records are read
  std::optional<Change> changing_;     // not durable yet, or failed
};

}  // namespace pqcache::storage
