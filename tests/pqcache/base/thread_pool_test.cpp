#include "pqcache/base/thread_pool.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

namespace pqcache {
namespace {

constexpr int64_t kSizes[] = {0, 1, 2, 3, 7, 8, 9, 1000};

class ThreadPoolTest : public ::testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, RunsEveryIterationOnce) {
  ThreadPool pool(GetParam());
  EXPECT_EQ(pool.threads(), GetParam());
  for (const int64_t n : kSizes) {
    std::vector<std::atomic<int>> calls(static_cast<size_t>(n));
    pool.Run(n, [&](int64_t i) { ++calls[static_cast<size_t>(i)]; });
    for (const auto& count : calls) EXPECT_EQ(count, 1) << n;
  }
  pool.Run(-5, [](int64_t) { FAIL(); });
}

TEST_P(ThreadPoolTest, WorkerNumbersAreInRangeAndExclusive) {
  ThreadPool pool(GetParam());
  for (const int64_t n : kSizes) {
    // Plain counters: a data race here is what the sanitizers and the sums would show.
    std::vector<int64_t> scratch(static_cast<size_t>(pool.threads()));
    std::vector<std::atomic<bool>> busy(scratch.size());
    pool.RunWithWorker(n, [&](int64_t, int worker) {
      ASSERT_GE(worker, 0);
      ASSERT_LT(worker, pool.threads());
      const auto w = static_cast<size_t>(worker);
      EXPECT_FALSE(busy[w].exchange(true));
      ++scratch[w];
      busy[w] = false;
    });
    EXPECT_EQ(std::accumulate(scratch.begin(), scratch.end(), int64_t{0}), n);
  }
}

TEST_P(ThreadPoolTest, IterationsSeeOneOpenMpThread) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(5);
  ThreadPool pool(GetParam());
  for (const int64_t n : {1, 2, 20}) {
    std::vector<int> counts(static_cast<size_t>(n));
    pool.Run(n, [&](int64_t i) { counts[static_cast<size_t>(i)] = omp_get_max_threads(); });
    EXPECT_EQ(counts, std::vector<int>(counts.size(), 1));
    EXPECT_EQ(omp_get_max_threads(), 5);  // the caller keeps its own
  }
  omp_set_num_threads(before);
}

// What a run wrote is there when it returns, and a pool runs any number of times.
TEST_P(ThreadPoolTest, IsReusable) {
  ThreadPool pool(GetParam());
  std::vector<int64_t> values(17);
  for (int64_t round = 1; round <= 2000; ++round) {
    pool.Run(std::ssize(values), [&](int64_t i) { values[static_cast<size_t>(i)] += i; });
    ASSERT_EQ(std::accumulate(values.begin(), values.end(), int64_t{0}), round * 16 * 17 / 2);
  }
}

// As many iterations as threads, none of which ends before all have begun.
TEST_P(ThreadPoolTest, RunsIterationsAtTheSameTimeOnDifferentWorkers) {
  ThreadPool pool(GetParam());
  std::atomic<int> begun = 0;
  std::vector<std::atomic<int>> calls(static_cast<size_t>(pool.threads()));
  pool.RunWithWorker(pool.threads(), [&](int64_t, int worker) {
    ++calls[static_cast<size_t>(worker)];
    ++begun;
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (begun < pool.threads() && std::chrono::steady_clock::now() < give_up) {
      std::this_thread::yield();
    }
    EXPECT_EQ(begun, pool.threads());
  });
  for (const auto& count : calls) EXPECT_EQ(count, 1);
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, ::testing::Values(1, 2, 3, 8));

TEST(ThreadPool, OneThreadIsTheCallers) {
  ThreadPool pool(1);
  const std::thread::id caller = std::this_thread::get_id();
  pool.Run(5, [&](int64_t) { EXPECT_EQ(std::this_thread::get_id(), caller); });
}

TEST(ThreadPool, MayBeDestroyedUnused) {
  for (int i = 0; i < 20; ++i) ThreadPool pool(4);
}

TEST(ThreadPoolDeathTest, NeedsAThread) { EXPECT_DEATH(ThreadPool(0), "at least one thread"); }

TEST(ThreadPool, RunCheckedReturnsTheLowestFailureAndRunsAll) {
  for (const int threads : {1, 2, 8}) {
    ThreadPool pool(threads);
    std::atomic<int> ran{0};
    const auto work = [&](int64_t i) {
      ++ran;
      return i % 10 == 7 ? Status::IoError("iteration " + std::to_string(i)) : Status::Ok();
    };
    EXPECT_EQ(pool.RunChecked(100, work).message(), "iteration 7");
    EXPECT_EQ(ran, 100);
    EXPECT_TRUE(pool.RunChecked(7, work).ok());
    EXPECT_TRUE(pool.RunChecked(0, work).ok());
  }
}

}  // namespace
}  // namespace pqcache
