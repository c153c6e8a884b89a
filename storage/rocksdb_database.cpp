#include "storage/rocksdb_database.h"

#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/options.h>
#include <rocksdb/sst_partitioner.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

#include "pqcache/base/log.h"
#include "storage/manifest_mark.h"
#include "storage/page_key_codec.h"
#include "storage/rocksdb_call.h"
#include "storage/store_folder.h"

namespace pqcache::storage {
namespace {

namespace fs = std::filesystem;

// What has to fit on the disk before a database is closed to be opened anew.
constexpr size_t kProbeBytes = 1 << 20;

// Files that were being written when a process was killed. Tables become the store's by a move.
const std::string kTablePrefix = std::string(kFolderMarker) + ".ingest-";
const std::string kMarkPrefix = std::string(kFolderMarker) + ".manifest.tmp.";

// In the order in which they were written.
std::vector<fs::path> FilesOf(const std::string& path, const std::string& prefix) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    if (it->path().filename().string().starts_with(prefix)) files.push_back(it->path());
  }
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) {
    return std::pair(a.string().size(), a) < std::pair(b.string().size(), b);
  });
  return files;
}

// The table that could not be opened because it is not there, e.g. "000123.sst"; or empty.
std::string MissingTable(const Status& opened) {
  const std::string& message = opened.message();
  const size_t end = message.find(".ldb: No such file");
  const size_t slash = message.rfind('/', end);
  if (opened.code() != StatusCode::kCorruption || end == std::string::npos) return "";
  return message.substr(slash + 1, end - slash - 1) + ".sst";
}

// Says who holds the folder if that is why it could not be opened.
Status ExplainLock(const std::string& path, const Status& status) {
  std::optional<int> holder;
  if (status.message().find("lock hold by current process") != std::string::npos) {
    holder = static_cast<int>(::getpid());
  } else if (status.message().find("While lock file: ") != std::string::npos) {
    holder = LockHolder(path + "/LOCK");
  } else {
    return status;
  }
  return Status::IoError("rocksdb store " + path + ": is in use by " +
                         (holder ? "process " + std::to_string(*holder) : "another process") +
                         ", expected a folder that no other store holds (" + status.message() +
                         ")");
}

}  // namespace

RocksDbDatabase::RocksDbDatabase(std::string path, rocksdb::Env* env)
    : path_(std::move(path)), options_(std::make_unique<rocksdb::Options>(StoreOptions())) {
  if (env != nullptr) options_->env = env;
}

RocksDbDatabase::~RocksDbDatabase() { Close(); }

Result<std::unique_ptr<RocksDbDatabase>> RocksDbDatabase::Open(const std::string& path,
                                                               rocksdb::Env* env) {
  PQCACHE_RETURN_IF_ERROR(PrepareStoreFolder(path).Annotate("rocksdb store"));
  PQCACHE_RETURN_IF_ERROR(CheckManifestMark(path));
  std::unique_ptr<RocksDbDatabase> database(new RocksDbDatabase(path, env));
  PQCACHE_RETURN_IF_ERROR(database->OpenFiles());
  database->Mark();
  std::error_code ignored;
  for (const std::string& prefix : {kTablePrefix, kMarkPrefix}) {
    for (const fs::path& file : FilesOf(path, prefix)) fs::remove(file, ignored);
  }
  return database;
}

Status RocksDbDatabase::OpenFiles() {
  Status opened = OpenOnce();
  if (!MissingTable(opened).empty()) opened = OpenWithTables(opened);
  return ExplainLock(path_, opened);
}

// When the list of files could not be synced while it took in new ones, RocksDB removes them again,
// but the list on disk may name them. They still lie there under their first names, in the same
// order.
Status RocksDbDatabase::OpenWithTables(const Status& opened) {
  const std::string missing = MissingTable(opened);
  const fs::path table = fs::path(path_) / missing;
  for (const fs::path& file : FilesOf(path_, kTablePrefix)) {
    std::error_code error;
    fs::rename(file, table, error);
    if (error) continue;
    Status status = OpenOnce();
    const std::string next = MissingTable(status);
    if (!next.empty() && next != missing) status = OpenWithTables(status);
    if (status.ok()) return status;
    fs::rename(table, file, error);
  }
  return opened;
}

Status RocksDbDatabase::OpenOnce() {
  return CallRocksDb(path_, "open", [&] {
    rocksdb::ColumnFamilyOptions of_pages(*options_);
    of_pages.sst_partitioner_factory =
        rocksdb::NewSstPartitionerFixedPrefixFactory(kContextPrefixBytes);
    const std::vector<rocksdb::ColumnFamilyDescriptor> families = {
        {rocksdb::kDefaultColumnFamilyName, of_pages}, {kRecordFamily, *options_}};
    std::vector<rocksdb::ColumnFamilyHandle*> handles;
    rocksdb::DB* opened = nullptr;
    const rocksdb::Status s = rocksdb::DB::Open(*options_, path_, families, &handles, &opened);
    if (!s.ok()) return s;
    db_.reset(opened);
    handles_ = {opened, handles[0], handles[1]};
    return s;
  });
}

void RocksDbDatabase::Close() {
  if (db_ == nullptr) return;
  db_->DestroyColumnFamilyHandle(handles_.pages);
  db_->DestroyColumnFamilyHandle(handles_.records);
  db_ = nullptr;
}

Status RocksDbDatabase::Read(const char* action, const Work& work) const {
  const std::shared_lock lock(mutex_);
  if (db_ == nullptr) {
    return Status::IoError("rocksdb store " + path_ + ": " + action +
                           ": could not be opened again after a failure");
  }
  return CallRocksDb(path_, action, [&] { return work(handles_); });
}

Status RocksDbDatabase::Change(const char* action, const Work& work) {
  PQCACHE_RETURN_IF_ERROR(Repair());
  const Status status = Read(action, work);
  if (!status.ok()) failed_ = true;
  return status;
}

Status RocksDbDatabase::Repair() {
  if (!failed_) return Status::Ok();
  const std::unique_lock lock(mutex_);
  if (!failed_) return Status::Ok();
  const std::string probe = path_ + "/" + kFolderMarker + ".probe";
  const Status writable = CallRocksDb(path_, "write again after a failure", [&] {
    return rocksdb::WriteStringToFile(options_->env, std::string(kProbeBytes, '\0'), probe,
                                      /*should_sync=*/true);
  });
  (void)options_->env->DeleteFile(probe);
  PQCACHE_RETURN_IF_ERROR(writable);
  Close();
  PQCACHE_RETURN_IF_ERROR(OpenFiles());
  for (const std::string& file : left_over_) (void)options_->env->DeleteFile(file);
  left_over_.clear();
  failed_ = false;
  return Status::Ok();
}

// There is no log: what was written is durable once its write buffer is a file.
Status RocksDbDatabase::Flush(rocksdb::ColumnFamilyHandle* Handles::*family) {
  PQCACHE_RETURN_IF_ERROR(Change("sync", [&](const Handles& h) {
    rocksdb::FlushOptions flush;
    flush.wait = true;
    flush.allow_write_stall = true;  // do not wait for compactions first
    return h.db->Flush(flush, h.*family);
  }));
  Mark();
  return Status::Ok();
}

std::string RocksDbDatabase::NewTableFile() {
  return path_ + "/" + kTablePrefix + std::to_string(++table_files_);
}

Status RocksDbDatabase::TakeIn(const std::vector<std::string>& files) {
  const Status status = Change("take in pages", [&](const Handles& h) {
    rocksdb::IngestExternalFileOptions options;
    options.move_files = true;
    options.write_global_seqno = false;
    return h.db->IngestExternalFile(h.pages, files, options);
  });
  if (status.ok()) {
    Mark();
  } else {  // they have to stay until the database is open again: see OpenWithTables
    const std::unique_lock lock(mutex_);
    left_over_.insert(left_over_.end(), files.begin(), files.end());
  }
  return status;
}

void RocksDbDatabase::Mark() {
  const std::lock_guard lock(mark_mutex_);
  std::vector<std::string> files;
  uint64_t bytes = 0;  // that are synced
  Status status = Read("look at the list of files", [&](const Handles& h) {
    return h.db->GetLiveFiles(files, &bytes, /*flush_memtable=*/false);
  });
  const auto list = std::find_if(files.begin(), files.end(), [](const std::string& file) {
    return file.starts_with("/MANIFEST-");
  });
  if (list != files.end()) status = WriteManifestMark(path_, list->substr(1), bytes);
  if (!status.ok()) Log(LogLevel::kWarning, "no new mark: " + status.message());
}

}  // namespace pqcache::storage
