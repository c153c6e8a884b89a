#pragma once

// One thread that runs tasks in the order in which they were submitted. Any thread may submit;
// tasks must not throw, and must not wait for their own queue.

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace pqcache {

class TaskQueue {
 public:
  TaskQueue();
  // Runs what was submitted, then ends.
  ~TaskQueue();
  TaskQueue(const TaskQueue&) = delete;
  TaskQueue& operator=(const TaskQueue&) = delete;

  void Submit(std::function<void()> task);
  // Returns when all tasks that were submitted before have run.
  void Wait();

 private:
  void Run();

  std::mutex mutex_;  // guards everything below
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  bool running_ = false;  // a task
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace pqcache
