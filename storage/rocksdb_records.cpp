#include "storage/rocksdb_records.h"

#include <rocksdb/db.h>

#include <map>
#include <memory>
#include <utility>

#include "storage/page_key_codec.h"
#include "storage/rocksdb_call.h"
#include "storage/rocksdb_database.h"

namespace pqcache::storage {
namespace {

using Handles = RocksDbDatabase::Handles;

}  // namespace

Result<bool> RocksDbRecords::Put(const RecordKey& key, std::string_view value) {
  return Exchange(key, std::nullopt, value);
}

Result<bool> RocksDbRecords::Replace(const RecordKey& key, std::string_view expected,
                                     std::string_view value) {
  return Exchange(key, expected, value);
}

Result<bool> RocksDbRecords::Exchange(const RecordKey& key,
                                      std::optional<std::string_view> expected,
                                      std::string_view value) {
  PQCACHE_RETURN_IF_ERROR(CheckRecord(key, value));
  const std::lock_guard lock(write_mutex_);
  PQCACHE_RETURN_IF_ERROR(RestoreNow());
  const std::string stored = EncodeRecordKey(key);
  PQCACHE_ASSIGN_OR_RETURN(const Value present, Find(stored));
  if (present != expected) return false;
  PQCACHE_RETURN_IF_ERROR(Write(stored, present, std::string(value)));
  return true;
}

Status RocksDbRecords::Remove(const RecordKey& key) {
  const std::lock_guard lock(write_mutex_);
  PQCACHE_RETURN_IF_ERROR(RestoreNow());
  const std::string stored = EncodeRecordKey(key);
  PQCACHE_ASSIGN_OR_RETURN(const Value present, Find(stored));
  return present.has_value() ? Write(stored, present, std::nullopt) : Status::Ok();
}

Status RocksDbRecords::Restore() {
  const std::lock_guard lock(write_mutex_);
  return RestoreNow();
}

Status RocksDbRecords::RestoreNow() {
  if (!changing_.has_value()) return Status::Ok();  // only writers change it
  PQCACHE_RETURN_IF_ERROR(WriteDurably(changing_->key, changing_->before));
  const std::lock_guard lock(changing_mutex_);
  changing_.reset();
  return Status::Ok();
}

Status RocksDbRecords::Write(const std::string& key, const Value& before, const Value& value) {
  {
    const std::lock_guard lock(changing_mutex_);
    changing_ = {key, before};
  }
  PQCACHE_RETURN_IF_ERROR(WriteDurably(key, value));
  const std::lock_guard lock(changing_mutex_);
  changing_.reset();
  return Status::Ok();
}

Status RocksDbRecords::WriteDurably(const std::string& key, const Value& value) {
  return database_->ChangeDurably("write record", &Handles::records, [&](const Handles& h) {
    return value.has_value() ? h.db->Put(WithoutLog(), h.records, key, *value)
                             : h.db->Delete(WithoutLog(), h.records, key);
  });
}

Result<RocksDbRecords::Value> RocksDbRecords::Find(const std::string& key) const {
  const std::lock_guard lock(changing_mutex_);
  if (changing_.has_value() && changing_->key == key) return changing_->before;
  std::string value;
  const Status status = database_->Read("read record", [&](const Handles& h) {
    return h.db->Get(rocksdb::ReadOptions(), h.records, key, &value);
  });
  if (status.code() == StatusCode::kNotFound) return Value();
  PQCACHE_RETURN_IF_ERROR(status);
  return Value(std::move(value));
}

Result<std::string> RocksDbRecords::Get(const RecordKey& key) const {
  Result<Value> found = Find(EncodeRecordKey(key));
  if (!found.ok()) return found.status().Annotate("record " + key.name);
  if (!found->has_value()) {
    return Status::NotFound("record " + key.name + ": no such record");
  }
  return **std::move(found);
}

Result<std::vector<Record>> RocksDbRecords::List(const Fingerprint& tenant) const {
  const std::string begin = EncodeRecordKey({tenant, ""});
  std::map<std::string, Value> found;
  const std::lock_guard lock(changing_mutex_);
  PQCACHE_RETURN_IF_ERROR(database_->Read("list records", [&](const Handles& h) {
    const std::unique_ptr<rocksdb::Iterator> it(
        h.db->NewIterator(rocksdb::ReadOptions(), h.records));
    for (it->Seek(begin); it->Valid() && it->key().starts_with(begin); it->Next()) {
      found[it->key().ToString()] = it->value().ToString();
    }
    return it->status();
  }));
  if (changing_.has_value() && changing_->key.starts_with(begin)) {
    found[changing_->key] = changing_->before;
  }
  std::vector<Record> list;
  for (auto& [key, value] : found) {
    if (value.has_value()) list.push_back({*DecodeRecordKey(key), *std::move(value)});
  }
  return list;
}

}  // namespace pqcache::storage
