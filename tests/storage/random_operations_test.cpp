// Random operations of several tenants on a tiered store, in processes that are killed at random
// moments, against a model of what must be there.
//
// A killed process loses nothing that the system has, so the folder may be in memory: waiting for a
// disk would be most of the time. What a power cut loses is the matter of crash_test.cpp.
//
// PQCACHE_RANDOM_OPERATIONS asks for more operations than those of every run, PQCACHE_SEED for
// other ones.

#include "tests/storage/random_operations.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "storage/store_scan.h"
#include "tests/support/child_process.h"
#include "tests/support/record_times.h"
#include "tests/support/shared_memory.h"
#include "tests/support/temp_dir.h"

namespace pqcache::testing {
namespace {

constexpr uint64_t kOperations = 20'000;  // of every run

uint64_t Setting(const char* variable, uint64_t otherwise) {
  const char* text = std::getenv(variable);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

using Progress = SharedMemory<RandomOperationsProgress>;

// Started by the test below in a process of its own: operations from PQCACHE_TEST_FIRST on.
TEST(RandomOperationsChild, DISABLED_WorksUntilKilled) {
  const char* folder = std::getenv("PQCACHE_TEST_FOLDER");
  if (folder == nullptr) GTEST_SKIP() << "only for NothingIsLostOrWrongOverKills";
  const uint64_t first = Setting("PQCACHE_TEST_FIRST", 1), all = Setting("PQCACHE_TEST_ALL", 0);
  const Progress progress(std::string(folder) + "/progress");
  RandomOperations operations(folder, Setting("PQCACHE_SEED", 0), progress.operator->());
  for (uint64_t i = first; i <= all && !HasFailure(); ++i) operations.Do(i);
  if (first > all && !HasFailure()) operations.RemoveAll();
}

TEST(RandomOperations, NothingIsLostOrWrongOverKills) {
  const TempDir dir(FastFolder());
  const uint64_t all = Setting("PQCACHE_RANDOM_OPERATIONS", kOperations);
  const uint64_t seed = Setting("PQCACHE_SEED", 1);
  const Progress progress(dir.File("progress"));
  Random random(MixSeed(seed, 0));
  std::vector<double> opened;  // milliseconds
  int kills = 0;
  for (bool last = false; !last;) {
    const uint64_t first = progress->operation + 1;
    last = first > all;
    const pid_t child =
        StartChild("RandomOperationsChild.*", {{"PQCACHE_TEST_FOLDER", dir.path()},
                                               {"PQCACHE_TEST_FIRST", std::to_string(first)},
                                               {"PQCACHE_TEST_ALL", std::to_string(all)},
                                               {"PQCACHE_SEED", std::to_string(seed)}});
    ASSERT_GT(child, 0);
    int how = 0;
    // Now and then while it still opens and checks, and every other time in a save or a removal.
    const uint64_t until = random.Below(10) == 0 ? 0 : first + random.Below(2000);
    const bool in_doubt = until != 0 && random.Below(2) == 0;
    while (::waitpid(child, &how, WNOHANG) == 0) {
      const uint64_t pause = until == 0 ? 50'000 : in_doubt ? 100 : 2000;
      std::this_thread::sleep_for(std::chrono::microseconds(random.Below(pause)));
      const bool now = progress->operation >= until && (!in_doubt || progress->in_doubt);
      if (now && !last) ::kill(child, SIGKILL);
    }
    kills += WIFSIGNALED(how);
    ASSERT_TRUE(how == 0 || (WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL))
        << "PQCACHE_SEED=" << seed << ", in operation " << progress->operation << " after " << kills
        << " kills";
    if (progress->opened_us != 0) opened.push_back(progress->opened_us.exchange(0) / 1e3);
  }
  if (all >= kOperations) {
    EXPECT_GT(progress->checked, all / 1000) << "hardly anything was stored over a kill";
    EXPECT_GT(progress->interrupted, 0u) << "no kill hit a save or a removal";
  }
  const Result<storage::StoreScan> scan = storage::ScanStoreFolder(dir.File("store"));
  ASSERT_OK(scan);
  EXPECT_EQ(scan->pages, 0) << "pages of nobody were left behind";
  EXPECT_TRUE(scan->damaged.empty());
  std::cout << all << " operations, " << kills << " kills, " << progress->checked
            << " contexts checked after them, " << progress->interrupted
            << " saves and removals cut short; saved " << progress->saved << ", removed "
            << progress->removed << ", loaded " << progress->loaded << ", forked "
            << progress->forked << ", refused for want of memory " << progress->refused << "\n";
  RecordTimes("reopen", std::move(opened));
}

}  // namespace
}  // namespace pqcache::testing
