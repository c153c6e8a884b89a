#pragma once

// What the files that use RocksDB share. Its names are only declared here; its headers stay in .cpp
// files.

#include <functional>
#include <string>

#include "pqcache/base/status.h"

namespace rocksdb {
class Status;
struct Options;
struct WriteOptions;
}  // namespace rocksdb

namespace pqcache::storage {

// How a store's folder is opened: everything that its files or its memory depend on.
rocksdb::Options StoreOptions();

// Of every write: there is no log.
rocksdb::WriteOptions WithoutLog();

// The column family of the records; pages lie in the default one.
inline constexpr char kRecordFamily[] = "records";

// Of the library that is loaded, e.g. "7.8.3".
std::string RocksDbVersion();

// The one place where RocksDB's statuses and exceptions become ours. The message names the folder
// `path` and the action.
Status CallRocksDb(const std::string& path, const char* action,
                   const std::function<rocksdb::Status()>& call);

}  // namespace pqcache::storage
