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

#include "pqcache/base/file_io.h"
#include "pqcache/base/log.h"
#include "storage/manifest_mark.h"
#include "storage/page_key_codec.h"
#include "storage/rocksdb_call.h"
#include "storage/store_folder.h"

namespace pqcache::storage {
namespace {

namespace fs = std::filesystem;

// What has to fit on the disk, beside a new list of files, before a database is opened anew.
constexpr uint64_t kProbeBytes = 1 << 20;

// Files that were being written when a process was killed. Tables become the store's by a move.
const std::string kTablePrefix = std::string(kFolderMarker) + ".ingest-";
const std::string kMarkPrefix = std::string(kFolderMarker) + ".manifest.tmp.";
const std::string kProbe = std::string(kFolderMarker) + ".probe";

// In the order in which they were written.
std::vector<fs::path> FilesOf(const std::string& path, const std::string& prefix,
                              const std::string& ending = "") {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.starts_with(prefix) && name.ends_with(ending)) files.push_back(it->path());
  }
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) {
    return std::pair(a.string().size(), a) < std::pair(b.string().size(), b);
  });
  return files;
}

// Also if that cannot be found out.
bool MayHaveTables(const std::string& path) {
  std::error_code error;
  for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == ".sst") return true;
  }
  return static_cast<bool>(error);
}

// RocksDB makes a log at every opening, for writes that this store does not send there. The newest
// one is in use.
void RemoveOldEmptyLogs(const std::string& path) {
  const std::vector<fs::path> logs = FilesOf(path, "", ".log");
  std::error_code error;
  for (size_t i = 0; i + 1 < logs.size(); ++i) {
    if (fs::file_size(logs[i], error) == 0 && !error) fs::remove(logs[i], error);
  }
}

// Without CURRENT, RocksDB would begin a new database and delete the tables of the old one.
Status CheckNotBeheaded(const std::string& path) {
  std::error_code error;
  if (fs::exists(path + "/CURRENT", error)) {
    const Result<std::string> list = ReadFile(path + "/CURRENT", 4096);
    if (!list.ok() || !list->starts_with("MANIFEST-") || !list->ends_with('\n')) {
      return Status::Ok();  // RocksDB says what is wrong
    }
    const std::string name = list->substr(0, list->size() - 1);
    if (fs::exists(path + "/" + name, error) || error) return Status::Ok();
    return Status::Corruption("rocksdb store " + path + ": has no " + name +
                              ", expected the list of files that CURRENT names; nothing was " +
                              "changed");
  }
  const bool marked = fs::exists(path + "/" + kFolderMarker + ".manifest", error);
  if (!marked && !MayHaveTables(path)) return Status::Ok();
  return Status::Corruption("rocksdb store " + path + ": has no CURRENT, expected it beside the " +
                            "files that were written; nothing was changed");
}

// The first table that could not be opened because it is not there, e.g. "000123.sst"; or empty.
// Some of RocksDB's messages call it "000123.ldb", an older name.
std::string MissingTable(const Status& opened) {
  const std::string& message = opened.message();
  if (opened.code() != StatusCode::kCorruption) return "";
  if (message.find("No such file") == std::string::npos) return "";
  for (const char* ending : {".sst", ".ldb"}) {
    const size_t end = message.find(ending);
    const size_t slash = message.rfind('/', end);
    if (end == std::string::npos || slash == std::string::npos) continue;
    return message.substr(slash + 1, end - slash - 1) + ".sst";
  }
  return "";
}

// Says who holds the folder if that is why it could not be opened.
Status ExplainLock(const std::string& path, const Status& status) {
  std::optional<int> holder;
  if (status.message().find("lock hold by current process") != std::string::npos) {
    holder = static_cast<int>(::getpid());
  } else if (status.message().find("While lock file: ") != std::string::npos) {
    holder = LockHolder(path + "/" + kLockFile);
  } else {
    return status;
  }
  return Status::IoError("rocksdb store " + path + ": is in use by " +
                         (holder ? "process " + std::to_string(*holder) : "another process") +
                         ", expected a folder that no other store holds");
}

}  // namespace

RocksDbDatabase::RocksDbDatabase(std::string path, rocksdb::Env* env)
    : path_(std::move(path)), options_(std::make_unique<rocksdb::Options>(StoreOptions())) {
  if (env != nullptr) options_->env = env;
}

RocksDbDatabase::~RocksDbDatabase() {
  Close();
  if (lock_ != nullptr) (void)options_->env->UnlockFile(lock_);
}

Result<std::unique_ptr<RocksDbDatabase>> RocksDbDatabase::Open(const std::string& path,
                                                               rocksdb::Env* env) {
  PQCACHE_RETURN_IF_ERROR(PrepareStoreFolder(path).Annotate("rocksdb store"));
  std::unique_ptr<RocksDbDatabase> database(new RocksDbDatabase(path, env));
  PQCACHE_RETURN_IF_ERROR(database->LockFolder());
  PQCACHE_RETURN_IF_ERROR(CheckNotBeheaded(path));  // the mark speaks of a list that is there
  PQCACHE_RETURN_IF_ERROR(CheckManifestMark(path));
  PQCACHE_RETURN_IF_ERROR(database->OpenFiles());
  database->Mark();
  RemoveOldEmptyLogs(path);
  std::error_code ignored;
  for (const std::string& prefix : {kTablePrefix, kMarkPrefix, kProbe}) {
    for (const fs::path& file : FilesOf(path, prefix)) fs::remove(file, ignored);
  }
  return database;
}

Status RocksDbDatabase::LockFolder() {
  const Status status = CallRocksDb(path_, "lock the folder", [&] {
    return options_->env->LockFile(path_ + "/" + kLockFile, &lock_);
  });
  return ExplainLock(path_, status);
}

Status RocksDbDatabase::OpenFiles() {
  PQCACHE_RETURN_IF_ERROR(CheckNotBeheaded(path_));
  const Status opened = OpenOnce(/*read_only=*/false);
  return MissingTable(opened).empty() ? opened : OpenWithTables(opened);
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
    Status status = OpenOnce(/*read_only=*/false);
    const std::string next = MissingTable(status);
    if (!next.empty() && next != missing) status = OpenWithTables(status);
    if (status.ok()) return status;
    fs::rename(table, file, error);
  }
  return opened;
}

Status RocksDbDatabase::OpenOnce(bool read_only) {
  return CallRocksDb(path_, "open", [&] {
    rocksdb::ColumnFamilyOptions of_pages(*options_);
    of_pages.sst_partitioner_factory =
        rocksdb::NewSstPartitionerFixedPrefixFactory(kContextPrefixBytes);
    const std::vector<rocksdb::ColumnFamilyDescriptor> families = {
        {rocksdb::kDefaultColumnFamilyName, of_pages}, {kRecordFamily, *options_}};
    std::vector<rocksdb::ColumnFamilyHandle*> handles;
    rocksdb::DB* opened = nullptr;
    const rocksdb::Status s =
        read_only ? rocksdb::DB::OpenForReadOnly(*options_, path_, families, &handles, &opened)
                  : rocksdb::DB::Open(*options_, path_, families, &handles, &opened);
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
  return GiveBack(action, work);
}

Status RocksDbDatabase::GiveBack(const char* action, const Work& work) {
  return Read(action, [&](const Handles& h) {
    const rocksdb::Status s = work(h);
    if (!s.ok()) failed_ = true;
    return s;
  });
}

// There is no log, so what was written is durable once its write buffer is a file. Both happen in
// one database: closing it in between would lose what was written, and nobody would be told.
Status RocksDbDatabase::ChangeDurably(const char* action,
                                      rocksdb::ColumnFamilyHandle* Handles::*family,
                                      const Work& work) {
  PQCACHE_RETURN_IF_ERROR(Change(action, [&](const Handles& h) {
    const rocksdb::Status s = work(h);
    if (!s.ok()) return s;
    rocksdb::FlushOptions flush;
    flush.wait = true;
    flush.allow_write_stall = true;  // do not wait for compactions first
    return h.db->Flush(flush, h.*family);
  }));
  Mark();
  return Status::Ok();
}

Status RocksDbDatabase::Repair() {
  NoticeBackgroundErrors();
  if (!failed_) return Status::Ok();
  PQCACHE_RETURN_IF_ERROR(ReopenIfFailed());
  Mark();
  return Status::Ok();
}

// A merge of files that failed makes the next change fail.
void RocksDbDatabase::NoticeBackgroundErrors() {
  const std::shared_lock lock(mutex_);
  uint64_t errors = 0;
  if (db_ == nullptr) return;
  db_->GetIntProperty(rocksdb::DB::Properties::kBackgroundErrors, &errors);
  if (errors > 0) failed_ = true;
}

Status RocksDbDatabase::ReopenIfFailed() {
  const std::unique_lock lock(mutex_);
  if (!failed_) return Status::Ok();
  PQCACHE_RETURN_IF_ERROR(ProbeFolder());
  Close();
  if (const Status opened = OpenFiles(); !opened.ok()) {
    (void)OpenOnce(/*read_only=*/true);
    return opened;
  }
  const std::lock_guard left_over_lock(left_over_mutex_);
  for (const std::string& file : left_over_) (void)options_->env->DeleteFile(file);
  left_over_.clear();
  failed_ = false;
  return Status::Ok();
}

// Opening writes a new list of files.
Status RocksDbDatabase::ProbeFolder() const {
  uint64_t bytes = kProbeBytes;
  std::error_code ignored;
  for (const fs::path& list : FilesOf(path_, "MANIFEST-")) bytes += fs::file_size(list, ignored);
  const std::string probe = path_ + "/" + kProbe;
  const Status status = CallRocksDb(path_, "write again after a failure", [&] {
    return rocksdb::WriteStringToFile(options_->env, std::string(bytes, '\0'), probe,
                                      /*should_sync=*/true);
  });
  (void)options_->env->DeleteFile(probe);
  return status;
}

std::string RocksDbDatabase::NewTableFile() {
  return path_ + "/" + kTablePrefix + std::to_string(++table_files_);
}

Status RocksDbDatabase::TakeIn(const std::vector<std::string>& files) {
  PQCACHE_RETURN_IF_ERROR(Change("take in pages", [&](const Handles& h) {
    rocksdb::IngestExternalFileOptions options;
    options.move_files = true;
    options.write_global_seqno = false;
    const rocksdb::Status s = h.db->IngestExternalFile(h.pages, files, options);
    if (!s.ok()) {  // they have to stay until the database is open again: see OpenWithTables
      const std::lock_guard lock(left_over_mutex_);
      left_over_.insert(left_over_.end(), files.begin(), files.end());
    }
    return s;
  }));
  Mark();
  return Status::Ok();
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
  if (list != files.end() && (*list != marked_list_ || bytes != marked_bytes_)) {
    status = WriteManifestMark(path_, list->substr(1), bytes);
    if (status.ok()) {
      marked_list_ = *list;
      marked_bytes_ = bytes;
    }
  }
  if (!status.ok()) Log(LogLevel::kWarning, "no new mark: " + status.message());
}

}  // namespace pqcache::storage
