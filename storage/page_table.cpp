#include "storage/page_table.h"

#include <rocksdb/iterator.h>
#include <rocksdb/metadata.h>
#include <rocksdb/sst_file_reader.h>
#include <rocksdb/table_properties.h>

#include <filesystem>
#include <utility>

#include "storage/page_key_codec.h"
#include "storage/rocksdb_call.h"

namespace pqcache::storage {
PageTable::PageTable(const rocksdb::LiveFileMetaData& file)
    : name_(std::filesystem::path(file.name).filename().string()),
      first_(file.smallestkey),
      last_(file.largestkey),
      level_(file.level),
      newest_(file.largest_seqno) {}

PageTable::PageTable(std::string name) : name_(std::move(name)) {}

PageTable::~PageTable() = default;

bool PageTable::IsNewerThan(const PageTable& other) const {
  return level_ != other.level_ ? level_ < other.level_ : newest_ > other.newest_;
}

Status PageTable::Open(const std::string& folder) {
  reader_ = std::make_unique<rocksdb::SstFileReader>(StoreOptions());
  const rocksdb::Status s = reader_->Open(folder + "/" + name_);
  if (s.ok()) return Status::Ok();
  const bool missing = s.IsPathNotFound();
  return s.IsIOError() && !missing ? Status::IoError(s.ToString())
                                   : Status::Corruption(s.ToString());
}

void PageTable::Close() {
  it_ = nullptr;
  reader_ = nullptr;
}

bool PageTable::HoldsRecords() const {
  return reader_->GetTableProperties()->column_family_name == kRecordFamily;
}

bool PageTable::RemovesRanges() const {
  return reader_->GetTableProperties()->num_range_deletions > 0;
}

bool PageTable::Seek(const std::string& key) {
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  // An iterator that has met damage may report it again for other keys, so each seek has its own.
  it_.reset(reader_->NewIterator(options));
  it_->Seek(key);
  return it_->status().ok();
}

void PageTable::Next() { it_->Next(); }

void PageTable::MoveToEnd() { it_.reset(rocksdb::NewEmptyIterator()); }

void PageTable::SeekBehindDamage(const std::string& low) {
  // A seek fails up to the end of a damaged block.
  const size_t width = HoldsRecords() ? kMaxRecordKeyBytes : kPageKeyBytes;
  const std::string key = FirstKeyAbove(
      low, [&](const std::string& k) { return Seek(k); }, width);
  if (key.empty() || !Seek(key)) MoveToEnd();
}

bool PageTable::valid() const { return it_->Valid(); }

std::string PageTable::damage() const { return it_->status().ok() ? "" : it_->status().ToString(); }

std::string_view PageTable::key() const { return it_->key().ToStringView(); }

std::span<const uint8_t> PageTable::value() const {
  const rocksdb::Slice value = it_->value();
  return {reinterpret_cast<const uint8_t*>(value.data()), value.size()};
}

}  // namespace pqcache::storage
