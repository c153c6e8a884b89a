// Folders that this user may not read or not write: the error names the path, and nothing breaks.

#include <grp.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "storage/store_scan.h"
#include "storage/stores.h"
#include "tests/storage/saved_contexts.h"
#include "tests/support/child_process.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace pqcache::storage {
namespace {

using namespace pqcache::testing;
namespace fs = std::filesystem;

constexpr id_t kNobody = 65534;

// Runs as somebody who is not root, since root may do everything.
class FolderRightsChild : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::getenv("PQCACHE_TEST_RIGHTS") == nullptr) GTEST_SKIP() << "only for FolderRights";
    if (::geteuid() == 0) {
      ASSERT_EQ(::setgroups(0, nullptr), 0);
      ASSERT_EQ(::setgid(kNobody), 0);
      ASSERT_EQ(::setuid(kNobody), 0);
    }
    ASSERT_EQ(::access("/root", W_OK), -1);
    dir_ = std::make_unique<TempDir>();
    path_ = dir_->File("store");
    const auto store = Open();
    ASSERT_OK(store);
    ASSERT_OK(SaveContext(store->get(), "kept", false));
    ASSERT_OK(SaveContext(store->get(), "also", true));
  }
  void TearDown() override {
    if (dir_ == nullptr) return;
    SetRights(fs::perms::owner_all, fs::perms::owner_read | fs::perms::owner_write);
    if (HasFailure()) return;
    const auto store = Open();
    ASSERT_OK(store);
    EXPECT_EQ(WholeContexts(store->get()), (std::set<std::string>{"also", "kept"}));
  }

  Result<std::unique_ptr<PageStore>> Open() { return OpenPageStore("rocksdb:path=" + path_); }
  std::vector<fs::path> Files() {
    return {fs::directory_iterator(path_), fs::directory_iterator()};
  }
  void SetRights(fs::perms folder, fs::perms files) {
    fs::permissions(path_, fs::perms::owner_all);
    for (const fs::path& file : Files()) fs::permissions(file, files);
    fs::permissions(path_, folder);
  }

  std::unique_ptr<TempDir> dir_;
  std::string path_;
};

TEST_F(FolderRightsChild, DISABLED_ReadOnly) {
  SetRights(fs::perms::owner_read | fs::perms::owner_exec, fs::perms::owner_read);
  ExpectError(Open(), StatusCode::kIoError, path_);
  ExpectError(Open(), StatusCode::kIoError, "Permission denied");
}

TEST_F(FolderRightsChild, DISABLED_Forbidden) {
  SetRights(fs::perms::none, fs::perms::none);
  ExpectError(Open(), StatusCode::kIoError, path_);
  ExpectError(Open(), StatusCode::kIoError, "Permission denied");
  ExpectError(ScanStoreFolder(path_), StatusCode::kIoError, path_);
}

TEST_F(FolderRightsChild, DISABLED_InAForbiddenFolder) {
  for (const fs::perms rights : {fs::perms::none, fs::perms::owner_read | fs::perms::owner_exec}) {
    fs::permissions(dir_->path(), rights);
    for (const char* name : {"/new", "/new/deeper"}) {
      const auto store = OpenPageStore("rocksdb:path=" + dir_->path() + name);
      ExpectError(store, StatusCode::kIoError, dir_->path());
      ExpectError(store, StatusCode::kIoError, "Permission denied");
    }
    fs::permissions(dir_->path(), fs::perms::owner_all);
  }
}

TEST_F(FolderRightsChild, DISABLED_EmptyAndReadOnly) {
  const std::string empty = dir_->File("empty");
  fs::create_directory(empty);
  fs::permissions(empty, fs::perms::owner_read | fs::perms::owner_exec);
  const auto store = OpenPageStore("rocksdb:path=" + empty);
  ExpectError(store, StatusCode::kIoError, empty);
  ExpectError(store, StatusCode::kIoError, "Permission denied");
}

// Each file alone. Tables are opened when they are needed: then the pages in them are not served.
TEST_F(FolderRightsChild, DISABLED_AForbiddenFile) {
  for (const fs::path& file : Files()) {
    SCOPED_TRACE(file.filename());
    if (!fs::exists(file)) continue;  // opening has replaced it
    fs::permissions(file, fs::perms::none);
    {
      const auto store = Open();
      if (!store.ok()) {
        ExpectError(store, StatusCode::kIoError, path_);
        EXPECT_NE(store.status().message().find("Permission denied"), std::string::npos)
            << store.status().message();
      } else {
        EXPECT_TRUE(WholeContexts(store->get()).contains("kept"));
      }
    }
    std::error_code replaced;
    fs::permissions(file, fs::perms::owner_read | fs::perms::owner_write, replaced);
  }
}

class FolderRights : public ::testing::TestWithParam<const char*> {};

TEST_P(FolderRights, AreToldByPath) {
  const pid_t child = StartChild(std::string("FolderRightsChild.DISABLED_") + GetParam(),
                                 {{"PQCACHE_TEST_RIGHTS", "1"}});
  ASSERT_GT(child, 0);
  EXPECT_EQ(WaitForChild(child), 0);
}

INSTANTIATE_TEST_SUITE_P(Kinds, FolderRights,
                         ::testing::Values("ReadOnly", "Forbidden", "InAForbiddenFolder",
                                           "EmptyAndReadOnly", "AForbiddenFile"),
                         [](const auto& kind) { return std::string(kind.param); });

}  // namespace
}  // namespace pqcache::storage
