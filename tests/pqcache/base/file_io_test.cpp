#include "pqcache/base/file_io.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>

#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace pqcache {
namespace {

using testing::ExpectError;
using testing::TempDir;
namespace fs = std::filesystem;

int FilesIn(const std::string& folder) {
  int count = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(folder)) ++count;
  return count;
}

// Permissions do not bind root; within this scope they bind.
class AsOrdinaryUser {
 public:
  AsOrdinaryUser() : was_root_(::geteuid() == 0) {
    if (was_root_) PQCACHE_CHECK(::seteuid(65534) == 0, "cannot drop root");
  }
  ~AsOrdinaryUser() {
    if (was_root_) PQCACHE_CHECK(::seteuid(0) == 0, "cannot become root again");
  }

 private:
  bool was_root_;
};

// Writes beyond `bytes` in one file fail within this scope, as on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    handler_ = ::signal(SIGXFSZ, SIG_IGN);
    const rlimit lower = {bytes, before_.rlim_max};
    PQCACHE_CHECK(::setrlimit(RLIMIT_FSIZE, &lower) == 0, "cannot limit file sizes");
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    ::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_;
  sighandler_t handler_;
};

TEST(FileIo, RoundTripsBytes) {
  const TempDir dir;
  const std::string path = dir.File("f");
  for (const std::string& bytes :
       {std::string(), std::string("a\0\n\xff", 4), std::string(3 << 20, 'x')}) {
    ASSERT_OK(WriteFileAtomically(path, bytes));
    const Result<std::string> read = ReadFile(path, bytes.size());
    ASSERT_OK(read);
    EXPECT_TRUE(*read == bytes) << bytes.size();
    EXPECT_EQ(FilesIn(dir.path()), 1);  // nothing temporary is left
  }
}

TEST(FileIo, AcceptsRelativePaths) {
  const TempDir dir;
  const fs::path before = fs::current_path();
  fs::current_path(dir.path());
  EXPECT_OK(WriteFileAtomically("relative", "x"));
  const Result<std::string> read = ReadFile("relative", 10);
  fs::current_path(before);
  ASSERT_OK(read);
  EXPECT_EQ(*read, "x");
}

TEST(ReadFile, RefusesLargerFilesThanAllowed) {
  const TempDir dir;
  ASSERT_OK(WriteFileAtomically(dir.File("f"), "12345"));
  EXPECT_OK(ReadFile(dir.File("f"), 5));
  ExpectError(ReadFile(dir.File("f"), 4), StatusCode::kInvalidArgument,
              dir.File("f") + ": has 5 bytes, expected at most 4");
  // Refused before it is read, or memory would not suffice.
  fs::resize_file(dir.File("f"), uint64_t{1} << 42);
  ExpectError(ReadFile(dir.File("f"), 1 << 20), StatusCode::kInvalidArgument, "4398046511104");
}

TEST(ReadFile, NamesThePathAndTheReason) {
  const TempDir dir;
  ExpectError(ReadFile(dir.File("absent"), 10), StatusCode::kNotFound,
              dir.File("absent") + ": cannot open: No such file");
  ExpectError(ReadFile("", 10), StatusCode::kNotFound, "cannot open");
  ASSERT_OK(WriteFileAtomically(dir.File("f"), "x"));
  ExpectError(ReadFile(dir.File("f/below"), 10), StatusCode::kIoError, "Not a directory");
}

TEST(ReadFile, RefusesWhatIsNotARegularFile) {
  const TempDir dir;
  ExpectError(ReadFile(dir.path(), 1 << 20), StatusCode::kInvalidArgument,
              dir.path() + ": is not a regular file");
  const std::string pipe = dir.File("pipe");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  ExpectError(ReadFile(pipe, 10), StatusCode::kInvalidArgument, "is not a regular file");
  ExpectError(ReadFile("/dev/zero", 10), StatusCode::kInvalidArgument, "is not a regular file");
}

TEST(ReadFile, ReportsMissingPermission) {
  const TempDir dir;
  ASSERT_OK(WriteFileAtomically(dir.File("secret"), "x"));
  ASSERT_EQ(::chmod(dir.path().c_str(), 0755), 0);
  ASSERT_EQ(::chmod(dir.File("secret").c_str(), 0), 0);
  const AsOrdinaryUser user;
  ExpectError(ReadFile(dir.File("secret"), 10), StatusCode::kIoError, "Permission denied");
}

TEST(WriteFileAtomically, FailsInAFolderThatIsReadOnlyOrAbsent) {
  const TempDir dir;
  ExpectError(WriteFileAtomically(dir.File("absent/f"), "x"), StatusCode::kNotFound,
              dir.File("absent/f"));
  ASSERT_OK(WriteFileAtomically(dir.File("f"), "old"));
  ASSERT_EQ(::chmod(dir.path().c_str(), 0555), 0);
  {
    const AsOrdinaryUser user;
    ExpectError(WriteFileAtomically(dir.File("f"), "new"), StatusCode::kIoError,
                "Permission denied");
  }
  ASSERT_EQ(::chmod(dir.path().c_str(), 0755), 0);
  EXPECT_EQ(*ReadFile(dir.File("f"), 10), "old");
}

TEST(WriteFileAtomically, LeavesTheOldFileWhenTheDiskIsFull) {
  const TempDir dir;
  ASSERT_OK(WriteFileAtomically(dir.File("f"), "old"));
  Status status;
  {
    const FileSizeLimit limit(1000);
    status = WriteFileAtomically(dir.File("f"), std::string(5000, 'n'));
  }
  ExpectError(status, StatusCode::kIoError, "cannot write");
  EXPECT_EQ(*ReadFile(dir.File("f"), 10), "old");
  EXPECT_EQ(FilesIn(dir.path()), 1);
}

TEST(WriteFileAtomically, RemovesItsTemporaryFileWhenItCannotReplace) {
  const TempDir dir;
  fs::create_directories(dir.File("folder/inside"));
  ExpectError(WriteFileAtomically(dir.File("folder"), "x"), StatusCode::kIoError,
              dir.File("folder") + ": cannot replace");
  EXPECT_EQ(FilesIn(dir.path()), 1);
}

TEST(WriteFileAtomically, ReadersSeeTheOldOrTheNewFile) {
  const TempDir dir;
  const std::string path = dir.File("f");
  const std::string small(10, 's');
  const std::string large(200000, 'l');
  ASSERT_OK(WriteFileAtomically(path, small));
  std::atomic<bool> done = false;
  std::thread writer([&] {
    for (int i = 0; i < 40; ++i) {
      EXPECT_OK(WriteFileAtomically(path, i % 2 == 0 ? large : small));
    }
    done = true;
  });
  while (!done) {
    const Result<std::string> read = ReadFile(path, large.size());
    if (!read.ok()) {
      ADD_FAILURE() << read.status().message();
      break;
    }
    EXPECT_TRUE(*read == small || *read == large) << read->size();
  }
  writer.join();
}

}  // namespace
}  // namespace pqcache
