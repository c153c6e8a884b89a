#include "storage/tiered_page_store.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "storage/memory_page_store.h"
#include "tests/storage/page_samples.h"
#include "tests/support/forwarding_store.h"
#include "tests/support/status_matchers.h"

namespace pqcache::storage {
namespace {

using namespace pqcache::testing;

// Pages outside of the tier's memory: like a disk, it shares no buffer with anybody.
class StoreOfCopies : public testing::ForwardingStore {
 public:
  Status Put(std::span<const PageWrite> pages) override {
    std::vector<PageWrite> copies;
    for (const PageWrite& write : pages)
      copies.push_back({write.key, CopyPage(write.page->data(), write.page->size())});
    return ForwardingStore::Put(copies);
  }
  void Read(std::span<PageRead> pages) override {
    ForwardingStore::Read(pages);
    for (PageRead& read : pages) {
      if (read.page != nullptr) read.page = CopyPage(read.page->data(), read.page->size());
    }
  }
};

// A store below that counts its reads, can fail, and can be caught between reading and returning.
class StoreBelow final : public StoreOfCopies {
 public:
  Status Put(std::span<const PageWrite> pages) override {
    if (fail) return Status::IoError("disk is full");
    const Status status = StoreOfCopies::Put(pages);
    if (after_put) std::exchange(after_put, nullptr)();
    return status;
  }
  void Read(std::span<PageRead> pages) override {
    batches.push_back(pages.size());
    StoreOfCopies::Read(pages);
    if (after_read) std::exchange(after_read, nullptr)();
  }
  Status Sync() override { return ++syncs, Status::Ok(); }
  PageStoreStats stats() const override {
    PageStoreStats stats = StoreOfCopies::stats();
    stats.bytes_read = {{"below", stats.bytes_read.at("memory")}};
    return stats;
  }

  std::atomic<bool> fail = false;
  std::atomic<int> syncs = 0;
  std::vector<size_t> batches;
  std::function<void()> after_put;
  std::function<void()> after_read;
};

class TieredStore : public ::testing::Test {
 protected:
  static constexpr uint64_t kPage = 128 + 4 * 1024;  // SamplePage of 4 tokens

  void Make(uint64_t limit) {
    auto below = std::make_unique<StoreBelow>();
    below_ = below.get();
    store_ = std::make_unique<TieredPageStore>(limit, std::move(below));
  }
  void PutSample(int64_t page, uint64_t seed = 0) {
    const PageKey key = SampleKey("a", page);
    ASSERT_OK(PutPage(store_.get(), key, SamplePage(key, seed)));
    ASSERT_OK(store_->Sync());
  }
  // True if the page came from memory; its bytes are checked.
  bool Hits(int64_t page, uint64_t seed = 0) {
    const size_t before = below_->batches.size();
    const PageKey key = SampleKey("a", page);
    EXPECT_TRUE(SameBytes(ReadPage(store_.get(), key).page, SamplePage(key, seed)));
    return below_->batches.size() == before;
  }

  StoreBelow* below_ = nullptr;
  std::unique_ptr<TieredPageStore> store_;
};

TEST_F(TieredStore, ReadsAllMissesInOneBatch) {
  Make(3 * kPage);
  for (int page = 0; page < 8; ++page) PutSample(page);
  std::vector<PageRead> reads;
  for (const int page : {5, 0, 6, 1, 7, 99}) reads.push_back({SampleKey("a", page), nullptr, {}});
  store_->Read(reads);
  EXPECT_EQ(below_->batches, std::vector<size_t>{3});
  for (const PageRead& read : std::span(reads).first(5)) {
    EXPECT_TRUE(SameBytes(read.page, SamplePage(read.key)));
  }
  EXPECT_EQ(reads[5].status.code(), StatusCode::kNotFound);
  const PageStoreStats stats = store_->stats();
  EXPECT_EQ(stats.bytes_read.at("memory"), 3 * kPage);
  EXPECT_EQ(stats.bytes_read.at("below"), 2 * kPage);
  EXPECT_EQ(stats.missing_pages, 1u);
  EXPECT_EQ(stats.resident_bytes, 3 * kPage);
}

TEST_F(TieredStore, KeepsUsedPagesWhenOthersPassThrough) {
  Make(4 * kPage);
  for (int page = 0; page < 4; ++page) PutSample(page);
  for (int passing = 4; passing < 40; ++passing) {
    EXPECT_TRUE(Hits(1)) << passing;
    PutSample(passing);
  }
  EXPECT_FALSE(Hits(0));
  EXPECT_FALSE(Hits(4));
}

TEST_F(TieredStore, EvictsTheOldestUnusedPageFirst) {
  Make(3 * kPage);
  for (int page = 0; page < 3; ++page) PutSample(page);
  EXPECT_TRUE(Hits(0));
  PutSample(3);
  EXPECT_TRUE(Hits(0));
  EXPECT_TRUE(Hits(2));
  EXPECT_TRUE(Hits(3));
  EXPECT_FALSE(Hits(1));
}

TEST_F(TieredStore, ReservesFromTheSameBudget) {
  Make(4 * kPage);
  for (int page = 0; page < 4; ++page) PutSample(page);
  ASSERT_OK(store_->ReserveMemory(nullptr, kPage + 1));
  EXPECT_EQ(store_->stats().resident_bytes, 2 * kPage);
  ExpectError(store_->ReserveMemory(nullptr, 4 * kPage + 1), StatusCode::kOutOfMemory,
              std::to_string(4 * kPage + 1) + " bytes to reserve, expected at most the limit of " +
                  std::to_string(4 * kPage));
  EXPECT_EQ(store_->stats().resident_bytes, 2 * kPage);
  ASSERT_OK(store_->ReserveMemory(nullptr, 4 * kPage));
  EXPECT_EQ(store_->stats().resident_bytes, 0u);
  PutSample(9);
  EXPECT_EQ(store_->stats().resident_bytes, 0u);
  EXPECT_FALSE(Hits(9));
  EXPECT_FALSE(Hits(9));
  ASSERT_OK(store_->ReserveMemory(nullptr, 0));
  EXPECT_FALSE(Hits(9));
  EXPECT_TRUE(Hits(9));
}

TEST_F(TieredStore, LeavesOutPagesAboveTheWholeBudget) {
  Make(kPage);
  PutSample(0);
  EXPECT_TRUE(Hits(0));
  const PageKey key = SampleKey("a", 0);
  ASSERT_OK(PutPage(store_.get(), key, SamplePage(key, 1, 8)));
  EXPECT_EQ(store_->stats().resident_bytes, 0u) << "the page it replaced is out of date";
  EXPECT_TRUE(SameBytes(ReadPage(store_.get(), key).page, SamplePage(key, 1, 8)));
}

TEST_F(TieredStore, TellsOfAWriteThatFailedLater) {
  for (const bool sync : {true, false}) {
    Make(kNoMemoryLimit);
    PutSample(0, 1);
    below_->fail = true;
    const PageKey key = SampleKey("a", 0);
    ASSERT_OK(PutPage(store_.get(), key, SamplePage(key, 2)));
    if (sync) {
      ExpectError(store_->Sync(), StatusCode::kIoError, "disk is full");
    } else {
      Status second;
      for (int i = 1; second.ok() && i < 1000; ++i) {
        const PageKey other = SampleKey("a", i);
        second = PutPage(store_.get(), other, SamplePage(other));
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      ExpectError(second, StatusCode::kIoError, "disk is full");
      (void)store_->Sync();
    }
    below_->fail = false;
    EXPECT_OK(store_->Sync());  // a failure is told once
    EXPECT_FALSE(Hits(0, 1)) << "the page is as if never put, and what was below counts again";
  }
}

TEST_F(TieredStore, PinnedPagesStayAndTheBudgetHolds) {
  Make(2 * kPage);
  PutSample(0);
  PutSample(1);
  PageRead held = ReadPage(store_.get(), SampleKey("a", 0));
  for (int page = 2; page < 6; ++page) {
    PutSample(page);
    EXPECT_LE(store_->stats().resident_bytes, 2 * kPage);
  }
  EXPECT_TRUE(Hits(0)) << "a page that is being read is not evicted";
  ExpectError(store_->ReserveMemory(this, kPage + 1), StatusCode::kOutOfMemory, "pages in use");
  held.page = nullptr;
  EXPECT_OK(store_->ReserveMemory(this, kPage + 1));
  EXPECT_LE(store_->stats().resident_bytes, kPage - 1);
}

TEST_F(TieredStore, ReadsAheadInTheBackground) {
  Make(8 * kPage);
  for (int page = 0; page < 16; ++page) PutSample(page);  // 0 to 7 are only below
  std::vector<PageKey> hints;
  for (int page = 0; page < 4; ++page) hints.push_back(SampleKey("a", page));
  store_->Prefetch(hints);
  for (int i = 0; i < 2000 && store_->stats().prefetched_pages < 4; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(store_->stats().prefetched_pages, 4u);
  Make(8 * kPage);  // ends the reader: what it began is done
}

TEST_F(TieredStore, DoesNotCacheAPageThatWasReplacedWhileItWasRead) {
  Make(2 * kPage);
  PutSample(0, 1);
  PutSample(1);
  PutSample(2);  // page 0 is only below
  below_->after_read = [&] {
    PutSample(0, 2);
    PutSample(1);
    PutSample(2);  // and page 0 is gone from the cache again
  };
  EXPECT_FALSE(Hits(0, 1)) << "the read began before the page was replaced";
  EXPECT_FALSE(Hits(0, 2));
  EXPECT_TRUE(Hits(0, 2));
}

TEST_F(TieredStore, DoesNotCacheAPageThatWasRemovedWhileItWasRead) {
  Make(2 * kPage);
  for (int page = 0; page < 3; ++page) PutSample(page);
  below_->after_read = [&] { ASSERT_OK(store_->RemoveContext(SampleContext("a"))); };
  EXPECT_FALSE(Hits(0));
  EXPECT_EQ(ReadPage(store_.get(), SampleKey("a", 0)).status.code(), StatusCode::kNotFound);
  EXPECT_EQ(store_->stats().resident_bytes, 0u);
}

// A second writer that comes while the first is between the tiers must not get in between.
TEST_F(TieredStore, BothTiersSeeWritesInOneOrder) {
  Make(kNoMemoryLimit);
  std::thread second;
  below_->after_put = [&] {
    second = std::thread([&] { PutSample(0, 2); });
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  };
  PutSample(0, 1);
  second.join();
  EXPECT_TRUE(Hits(0, 2));
  PageRead below = ReadPage(below_, SampleKey("a", 0));
  EXPECT_TRUE(SameBytes(below.page, SamplePage(below.key, 2)));
}

TEST_F(TieredStore, PassesSyncOn) {
  Make(kPage);
  ASSERT_OK(store_->Sync());
  EXPECT_EQ(below_->syncs, 1);
}

TEST_F(TieredStore, HoldsTheBudgetUnderRandomOperations) {
  constexpr uint64_t kLimit = 20 * kPage;
  Make(kLimit);
  Random random(7);
  std::map<int64_t, std::pair<uint64_t, int>> model[2];  // page -> seed, tokens
  uint64_t reserved = 0;
  const std::string names[] = {"a", "b"};
  for (int step = 0; step < 20000; ++step) {
    const size_t which = random.Below(2);
    const PageKey key = SampleKey(names[which], static_cast<int64_t>(random.Below(40)));
    const uint64_t action = random.Below(1000);
    if (action < 300) {
      const int tokens = 1 + static_cast<int>(random.Below(9));
      model[which][key.page] = {step, tokens};
      ASSERT_OK(PutPage(store_.get(), key, SamplePage(key, step, tokens)));
    } else if (action < 305) {
      model[which].clear();
      ASSERT_OK(store_->RemoveContext(key.context));
    } else if (action < 350) {
      const uint64_t bytes = random.Below(kLimit * 5 / 4);
      if (store_->ReserveMemory(nullptr, bytes).ok()) reserved = bytes;
      EXPECT_EQ(reserved == bytes, bytes <= kLimit);
    } else {
      const PageRead read = ReadPage(store_.get(), key);
      const auto wanted = model[which].find(key.page);
      ASSERT_EQ(read.status.ok(), wanted != model[which].end()) << step;
      if (read.status.ok()) {
        ASSERT_TRUE(
            SameBytes(read.page, SamplePage(key, wanted->second.first, wanted->second.second)));
      }
    }
    ASSERT_LE(store_->stats().resident_bytes + reserved, kLimit) << step;
  }
  const auto bytes = store_->stats().bytes_read;
  EXPECT_GT(bytes.at("memory"), 0u);
  EXPECT_GT(bytes.at("below"), 0u);
}

// Threads replace, read and remove the same pages. Every page says which one it is, so a torn or
// foreign page would show; after the threads are done both tiers must agree.
TEST_F(TieredStore, TiersAgreeAfterThreadsFoughtOverThem) {
  constexpr uint64_t kLimit = 6 * kPage;
  auto below = std::make_unique<StoreOfCopies>();
  StoreOfCopies* pages_below = below.get();
  TieredPageStore store(kLimit, std::move(below));
  std::atomic<int> failures = 0;
  std::vector<std::thread> threads;
  for (int id = 0; id < 4; ++id) {
    threads.emplace_back([&, id] {
      Random random(static_cast<uint64_t>(id));
      for (int step = 0; step < 3000; ++step) {
        const PageKey key = SampleKey("a", static_cast<int64_t>(random.Below(12)));
        const uint64_t action = random.Below(100);
        if (action < 20) {
          failures += !PutPage(&store, key, SamplePage(key, random.Below(1000), 1)).ok();
        } else if (action < 21) {
          failures += !store.RemoveContext(key.context).ok();
        } else {
          const PageRead read = ReadPage(&store, key);
          failures += read.status.ok() ? !VerifyPage(read.page->span(), key).ok()
                                       : read.status.code() != StatusCode::kNotFound;
          failures += store.stats().resident_bytes > kLimit;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
  ASSERT_OK(store.Sync());
  for (int page = 0; page < 12; ++page) {
    const PageRead front = ReadPage(&store, SampleKey("a", page));
    const PageRead back = ReadPage(pages_below, SampleKey("a", page));
    EXPECT_EQ(front.status.code(), back.status.code()) << page;
    EXPECT_TRUE(!front.status.ok() || SameBytes(front.page, back.page)) << page;
  }
}

}  // namespace
}  // namespace pqcache::storage
