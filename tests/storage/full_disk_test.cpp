// A disk that is full at any moment of making a store, opening it, saving a context and removing
// one: the error says so, nothing wrong is seen, what was acknowledged stays, and when there is
// room again the store goes on.

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <set>
#include <string>
#include <thread>

#include "storage/stores.h"
#include "tests/storage/saved_contexts.h"
#include "tests/support/child_process.h"
#include "tests/support/small_disk.h"
#include "tests/support/status_matchers.h"

namespace pqcache::storage {
namespace {

using namespace pqcache::testing;
namespace fs = std::filesystem;

constexpr uint64_t kBlock = 4096;

// Leaves room for so many blocks of the disk.
class Filling {
 public:
  Filling(const SmallDisk& disk, uint64_t blocks_left) : file_(disk.File("filling")) {
    std::ofstream out(file_, std::ios::binary);
    const std::string block(kBlock, 'x');
    // Files that the store deletes in the background give room back meanwhile.
    for (uint64_t room = Room(disk); room > blocks_left && out; room = Room(disk)) {
      for (; room > blocks_left; --room) out << block;
      out.flush();
    }
    out.close();
    EXPECT_LE(Room(disk), blocks_left);
  }
  ~Filling() { fs::remove(file_); }
  Filling(const Filling&) = delete;
  Filling& operator=(const Filling&) = delete;

 private:
  static uint64_t Room(const SmallDisk& disk) {
    return fs::space(disk.File("")).available / kBlock;
  }

  const std::string file_;
};

// Of a test that runs in a process of its own, with mounts of its own.
class FullDiskChild : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::getenv("PQCACHE_TEST_FULL_DISK") == nullptr) GTEST_SKIP() << "only for FullDisk";
    ASSERT_TRUE(disk_.mounted());
  }
  Result<std::unique_ptr<PageStore>> Open(const std::string& tiers = "") {
    return OpenPageStore(tiers + "rocksdb:path=" + path_);
  }

  // With the disk as full as can be, with ever more room until `action` succeeds, and around the
  // room that it needs. `check` gets its outcome when there is room again. Failures are counted.
  void FillUp(const std::string& what, const std::function<Status()>& action,
              const std::function<void(const Status&)>& check) {
    int failures = 0;
    const auto succeeds_with = [&](uint64_t blocks) {
      SCOPED_TRACE(what + ", " + std::to_string(blocks) + " blocks left");
      Status status;
      {
        const Filling filling(disk_, blocks);
        status = action();
      }
      if (!status.ok()) ExpectError(status, StatusCode::kIoError, path_);
      failures += !status.ok();
      check(status);
      return status.ok();
    };
    uint64_t too_few = 0, enough = 0;
    while (!HasFailure() && !succeeds_with(enough)) {
      ASSERT_LT(enough, 4096u) << "it never succeeds";
      too_few = enough;
      enough += std::max<uint64_t>(1, enough / 2);
    }
    while (!HasFailure() && too_few + 1 < enough) {
      const uint64_t blocks = (too_few + enough) / 2;
      (succeeds_with(blocks) ? enough : too_few) = blocks;
    }
    EXPECT_GT(failures, 0);
    std::cout << what << ": " << failures << " times full, needs " << enough << " blocks\n";
  }

  static Status WaitForRoom(PageStore* store) {
    Status status;
    for (int wait = 0; wait < 300; ++wait) {
      const PageKey key = SampleKey("room", wait);
      status = PutPage(store, key, SamplePage(key));
      if (status.ok()) status = store->Sync();
      if (status.ok()) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    return status;
  }

  SmallDisk disk_{"size=96m"};
  const std::string path_ = disk_.File("store");
};

TEST_F(FullDiskChild, DISABLED_Making) {
  FillUp(
      "making a store", [&] { return Open().status(); },
      [&](const Status&) {
        EXPECT_OK(Open());  // what was left behind does not stand in the way
        fs::remove_all(path_);
      });
}

TEST_F(FullDiskChild, DISABLED_Opening) {
  ASSERT_OK(SaveContext(Open()->get(), "kept", true));
  FillUp(
      "opening a store", [&] { return Open().status(); },
      [&](const Status&) {
        const auto store = Open();
        ASSERT_OK(store);
        EXPECT_EQ(WholeContexts(store->get()), std::set<std::string>{"kept"});
      });
}

// The store is open when the disk fills up.
TEST_F(FullDiskChild, DISABLED_Saving) {
  ASSERT_OK(SaveContext(Open()->get(), "kept", true));
  for (const bool small : {false, true}) {
    const std::string tiers = small ? "memory:limit=4M+" : "";
    std::unique_ptr<PageStore> store = *Open(tiers);
    FillUp(
        tiers + "saving " + (small ? "in small batches" : "at once"),
        [&] {
          const Status status = SaveContext(store.get(), "new", small);
          std::set<std::string> seen = {"kept"};
          if (status.ok()) seen.insert("new");
          EXPECT_EQ(WholeContexts(store.get()), seen);
          return status;
        },
        [&](const Status& status) {
          store = nullptr;
          store = *Open(tiers);
          ASSERT_OK(store->RemoveUnreferenced());
          const std::set<std::string> left = WholeContexts(store.get());
          EXPECT_TRUE(left.contains("kept"));
          EXPECT_TRUE(left.contains("new") || !status.ok());
          if (left.contains("new")) ASSERT_OK(SavedCatalog(store.get()).Remove("new"));
        });
  }
}

TEST_F(FullDiskChild, DISABLED_Removing) {
  std::unique_ptr<PageStore> store = *Open();
  ASSERT_OK(SaveContext(store.get(), "kept", false));
  ASSERT_OK(SaveContext(store.get(), "old", false));
  FillUp(
      "removing", [&] { return SavedCatalog(store.get()).Remove("old"); },
      [&](const Status& status) {
        store = nullptr;
        store = *Open();
        const std::set<std::string> left = WholeContexts(store.get());
        EXPECT_TRUE(left.contains("kept"));
        EXPECT_FALSE(left.contains("old") && status.ok());
        ASSERT_OK(store->RemoveUnreferenced());
        if (!left.contains("old")) ASSERT_OK(SaveContext(store.get(), "old", false));
      });
}

// Without being opened anew: RocksDB looks for room every five seconds.
TEST_F(FullDiskChild, DISABLED_GoingOn) {
  const std::unique_ptr<PageStore> store = *Open("memory:limit=4M+");
  ASSERT_OK(SaveContext(store.get(), "kept", false));
  {
    const Filling filling(disk_, 0);
    ExpectError(SaveContext(store.get(), "new", true), StatusCode::kIoError, path_);
  }
  ASSERT_OK(WaitForRoom(store.get()));
  ASSERT_OK(SaveContext(store.get(), "after", true));
  EXPECT_EQ(WholeContexts(store.get()), (std::set<std::string>{"after", "kept"}));
}

// Once there is room again, RocksDB writes out by itself what it had refused.
TEST_F(FullDiskChild, DISABLED_Records) {
  const Fingerprint tenant = FingerprintOf("tenant");
  ASSERT_TRUE(*(*Open())->PutRecord({tenant, "old"}, "value"));
  for (const bool replaces : {false, true}) {
    std::unique_ptr<PageStore> store = *Open();
    const auto expect_unchanged = [&] {
      ExpectError(store->GetRecord({tenant, "new"}), StatusCode::kNotFound, "new");
      EXPECT_EQ(*store->GetRecord({tenant, "old"}), "value");
      EXPECT_EQ(store->ListRecords(tenant)->size(), 1u);
    };
    {
      const Filling filling(disk_, 0);
      const Status status = replaces ? store->ReplaceRecord({tenant, "old"}, "value", "b").status()
                                     : store->PutRecord({tenant, "new"}, "a").status();
      ExpectError(status, StatusCode::kIoError, path_);
      expect_unchanged();
    }
    ASSERT_OK(WaitForRoom(store.get()));
    expect_unchanged();
    // Pages may only go when no record can speak of them any more.
    if (!replaces) ASSERT_OK(store->RemoveContext(SampleContext("c")));
    store = nullptr;
    store = *Open();
    expect_unchanged();
  }
}

class FullDisk : public ::testing::TestWithParam<const char*> {};

TEST_P(FullDisk, IsToldAndNothingIsLost) {
  std::vector<std::string> own_mounts = {"unshare", "-m"};
  if (::geteuid() != 0) own_mounts = {"unshare", "-r", "-m"};
  std::vector<std::string> mount_something = own_mounts;
  mount_something.insert(mount_something.end(), {"mount", "-t", "tmpfs", "none", "/tmp"});
  const pid_t mounted = StartProgram(mount_something, {});
  if (mounted < 0 || WaitForChild(mounted) != 0) {
    GTEST_SKIP() << "'unshare' cannot give this process mounts of its own";
  }
  const pid_t child = StartChild(std::string("FullDiskChild.DISABLED_") + GetParam(),
                                 {{"PQCACHE_TEST_FULL_DISK", "1"}}, own_mounts);
  ASSERT_GT(child, 0);
  EXPECT_EQ(WaitForChild(child), 0);
}

INSTANTIATE_TEST_SUITE_P(Moments, FullDisk,
                         ::testing::Values("Making", "Opening", "Saving", "Removing", "GoingOn",
                                           "Records"),
                         [](const auto& moment) { return std::string(moment.param); });

}  // namespace
}  // namespace pqcache::storage
