#pragma once

// A memory store that can be told to fail, and that counts what it is asked.

#include <algorithm>
#include <functional>
#include <map>
#include <mutex>
#include <string>

#include "pqcache/cache/page_codec.h"
#include "storage/memory_reservations.h"
#include "tests/support/forwarding_store.h"
#include "tests/support/status_matchers.h"

namespace pqcache::testing {

class FaultyStore : public ForwardingStore {
 public:
  // Pages for which these hold read as missing or with a flipped bit.
  std::function<bool(const PageKey&)> loses = [](const PageKey&) { return false; };
  std::function<bool(const PageKey&)> damages = [](const PageKey&) { return false; };
  Status put_status;                  // of every Put
  Status record_status;               // of the writing of every record, which
  bool records_written = false;       // is done nevertheless
  Status get_record_status;           // of every GetRecord
  uint64_t memory = 1ull << 40;       // ReserveMemory refuses more
  uint64_t reserved = 0;              // by all owners together
  std::map<int64_t, int> pages_read;  // by page number
  size_t largest_batch = 0;           // of Read
  size_t pages_put = 0;

  Status Put(std::span<const PageWrite> pages) override {
    const std::lock_guard lock(mutex_);
    PQCACHE_RETURN_IF_ERROR(put_status);
    pages_put += pages.size();
    return ForwardingStore::Put(pages);
  }
  Result<bool> PutRecord(const RecordKey& key, std::string_view value) override {
    if (record_status.ok()) return ForwardingStore::PutRecord(key, value);
    if (records_written) EXPECT_OK(ForwardingStore::PutRecord(key, value));
    return record_status;
  }
  Result<bool> ReplaceRecord(const RecordKey& key, std::string_view expected,
                             std::string_view value) override {
    if (record_status.ok()) return ForwardingStore::ReplaceRecord(key, expected, value);
    if (records_written) EXPECT_OK(ForwardingStore::ReplaceRecord(key, expected, value));
    return record_status;
  }
  Result<std::string> GetRecord(const RecordKey& key) override {
    PQCACHE_RETURN_IF_ERROR(get_record_status);
    return ForwardingStore::GetRecord(key);
  }
  void Read(std::span<PageRead> pages) override {
    ForwardingStore::Read(pages);
    const std::lock_guard lock(mutex_);
    largest_batch = std::max(largest_batch, pages.size());
    for (PageRead& read : pages) {
      ++pages_read[read.key.page];
      if (loses(read.key)) {
        read = {read.key, nullptr, Status::NotFound("the page is gone")};
      } else if (damages(read.key)) {
        PageBytes copy(read.page->size());
        std::copy_n(read.page->data(), copy.size(), copy.data());
        copy[copy.size() - 1] ^= 1;
        read = {read.key, nullptr, VerifyPage(copy.span(), read.key)};
      }
    }
  }
  Status ReserveMemory(const void* owner, uint64_t bytes) override {
    const uint64_t total = reservations_.TotalWith(owner, bytes);
    if (bytes > 0 && total > memory) {
      return Status::OutOfMemory(std::to_string(total) + " bytes, expected at most " +
                                 std::to_string(memory));
    }
    reservations_.Set(owner, bytes);
    reserved = total;
    return Status::Ok();
  }

 private:
  std::mutex mutex_;  // guards the counters
  storage::MemoryReservations reservations_;
};

}  // namespace pqcache::testing
