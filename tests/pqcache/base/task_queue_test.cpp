#include "pqcache/base/task_queue.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace pqcache {
namespace {

TEST(TaskQueue, RunsTasksInOrderAndWaitsForAll) {
  std::vector<int> order;
  TaskQueue queue;
  for (int i = 0; i < 1000; ++i) queue.Submit([&order, i] { order.push_back(i); });
  queue.Wait();
  std::vector<int> expected(1000);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(order, expected);
  queue.Wait();  // with nothing to wait for
}

TEST(TaskQueue, DestructionRunsWhatWasSubmitted) {
  int ran = 0;
  {
    TaskQueue queue;
    for (int i = 0; i < 100; ++i) queue.Submit([&ran] { ++ran; });
  }
  EXPECT_EQ(ran, 100);
}

TEST(TaskQueue, TasksMaySubmitOthers) {
  int ran = 0;
  TaskQueue queue;
  queue.Submit([&] { queue.Submit([&ran] { ++ran; }); });
  queue.Wait();
  queue.Wait();
  EXPECT_EQ(ran, 1);
}

}  // namespace
}  // namespace pqcache
