#pragma once

// A store's folder as RocksDB sees it, to put values into it that the store itself would refuse.

#include <gtest/gtest.h>
#include <rocksdb/db.h>

#include <memory>
#include <string>
#include <vector>

#include "storage/rocksdb_call.h"

namespace pqcache::testing {

inline std::unique_ptr<rocksdb::DB> OpenRaw(const std::string& path) {
  const std::vector<rocksdb::ColumnFamilyDescriptor> families = {
      {rocksdb::kDefaultColumnFamilyName, {}}, {storage::kRecordFamily, {}}};
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  EXPECT_TRUE(rocksdb::DB::Open(rocksdb::Options(), path, families, &handles, &db).ok());
  for (rocksdb::ColumnFamilyHandle* handle : handles) db->DestroyColumnFamilyHandle(handle);
  return std::unique_ptr<rocksdb::DB>(db);
}

}  // namespace pqcache::testing
