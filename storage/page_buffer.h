#pragma once

// Pages that were put and are not in a file yet. They become one in the background once there are
// many, and can be read all the while; when writing them fails they wait for the next attempt. They
// are copies, going in and out: a memory tier must be able to give back what nobody uses.
// May be used from many threads.

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "pqcache/base/task_queue.h"
#include "pqcache/cache/page_store.h"

namespace pqcache::storage {

class PageBuffer {
 public:
  using Pages = std::map<std::string, PageRef>;  // by stored key
  // Makes pages durable, all or none. Called by one thread at a time.
  using Writer = std::function<Status(const Pages&)>;

  // At most `limit_bytes` and one batch wait while as much is being written.
  PageBuffer(uint64_t limit_bytes, Writer writer)
      : limit_(limit_bytes), writer_(std::move(writer)) {}
  // After a failure the pages that wait are written first; if that fails again, this batch is not
  // taken.
  Status Put(std::span<const PageWrite> pages);
  // Writes everything that was put before.
  Status Flush();
  // Forgets the keys in [begin, end).
  void Remove(const std::string& begin, const std::string& end);
  // nullptr for keys that are not here.
  std::vector<PageRef> Find(std::span<const std::string> keys) const;

 private:
  bool idle() const { return writes_started_ == writes_ended_; }
  void StartWriting();
  void Write();

  const uint64_t limit_;
  const Writer writer_;
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable written_;
  Pages waiting_, being_written_;
  uint64_t waiting_bytes_ = 0;
  uint64_t writes_started_ = 0, writes_ended_ = 0;
  Status outcome_;   // of the last write; what failed waits again, so that the last one tells
  TaskQueue queue_;  // its thread writes
};

}  // namespace pqcache::storage
