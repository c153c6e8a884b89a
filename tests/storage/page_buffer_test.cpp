#include "storage/page_buffer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "storage/page_key_codec.h"
#include "tests/storage/page_samples.h"
#include "tests/support/status_matchers.h"

namespace pqcache::storage {
namespace {

using namespace pqcache::testing;

class PageBufferTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kLimit =
      20'000;  // four pages of 4,224 bytes wait, the fifth is too much

  static std::vector<PageWrite> Pages(int begin, int end, uint64_t seed = 0) {
    std::vector<PageWrite> pages;
    for (int page = begin; page < end; ++page) {
      pages.push_back({SampleKey("a", page), SamplePage(SampleKey("a", page), seed)});
    }
    return pages;
  }
  PageRef Find(const PageKey& key) const {
    const std::string stored = EncodePageKey(key);
    return buffer_.Find({&stored, 1})[0];
  }
  Status Write(const PageBuffer::Pages& pages) {
    ++begun_;
    while (blocked_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (!status_.ok()) return status_;
    for (const auto& [key, page] : pages) written_[key] = page;
    ++writes_;
    return Status::Ok();
  }

  Status status_;  // of every write
  PageBuffer::Pages written_;
  std::atomic<int> begun_ = 0, writes_ = 0;
  std::atomic<bool> blocked_ = false;  // writes wait while it is set
  PageBuffer buffer_{kLimit, [this](const PageBuffer::Pages& pages) { return Write(pages); }};
};

TEST_F(PageBufferTest, WritesWhenTheLimitIsReachedOrWhenFlushed) {
  ASSERT_OK(buffer_.Put(Pages(0, 4)));
  EXPECT_EQ(writes_, 0);
  ASSERT_OK(buffer_.Put(Pages(4, 6)));
  ASSERT_OK(buffer_.Flush());
  EXPECT_EQ(writes_, 1) << "all six pages at once";
  EXPECT_EQ(written_.size(), 6u);
  ASSERT_OK(buffer_.Put(Pages(6, 7)));
  ASSERT_OK(buffer_.Flush());
  ASSERT_OK(buffer_.Flush());
  EXPECT_EQ(writes_, 2) << "nothing new, nothing to write";
  EXPECT_EQ(written_.size(), 7u);
  EXPECT_EQ(Find(SampleKey("a", 6)), nullptr) << "it is the writer's now";
}

TEST_F(PageBufferTest, ServesCopiesOfTheNewest) {
  const std::vector<PageWrite> old = Pages(0, 2), newer = Pages(1, 2, 5);
  ASSERT_OK(buffer_.Put(old));
  ASSERT_OK(buffer_.Put(newer));
  EXPECT_TRUE(SameBytes(Find(old[0].key), old[0].page));
  EXPECT_TRUE(SameBytes(Find(old[1].key), newer[0].page));
  EXPECT_NE(Find(old[0].key), Find(old[0].key));
  EXPECT_EQ(old[0].page.use_count(), 1);
  EXPECT_EQ(Find(SampleKey("a", 2)), nullptr);
}

TEST_F(PageBufferTest, WhatCannotBeWrittenWaitsAndIsTriedAgain) {
  status_ = Status::IoError("disk is full");
  ASSERT_OK(buffer_.Put(Pages(0, 6)));  // the failure is the next call's answer
  ExpectError(buffer_.Flush(), StatusCode::kIoError, "disk is full");
  ExpectError(buffer_.Put(Pages(6, 7)), StatusCode::kIoError, "disk is full");
  EXPECT_EQ(Find(SampleKey("a", 6)), nullptr) << "that batch was not taken";
  for (const PageWrite& write : Pages(0, 6)) EXPECT_TRUE(SameBytes(Find(write.key), write.page));
  status_ = Status::Ok();
  ASSERT_OK(buffer_.Put(Pages(7, 8)));
  ASSERT_OK(buffer_.Flush());
  EXPECT_EQ(written_.size(), 7u);
  EXPECT_FALSE(written_.contains(EncodePageKey(SampleKey("a", 6))));
}

TEST_F(PageBufferTest, ForgetsWhatIsRemoved) {
  status_ = Status::IoError("disk is full");
  ASSERT_OK(buffer_.Put(Pages(0, 3)));
  const PageKey other = SampleKey("b", 0);
  const PageWrite kept = {other, SamplePage(other)};
  ASSERT_OK(buffer_.Put({&kept, 1}));
  ExpectError(buffer_.Flush(), StatusCode::kIoError, "disk is full");
  const PageKeyRange range = ContextKeyRange(SampleContext("a"));
  buffer_.Remove(range.begin, range.end);
  EXPECT_EQ(Find(SampleKey("a", 0)), nullptr);
  status_ = Status::Ok();
  ASSERT_OK(buffer_.Flush());
  EXPECT_EQ(written_.size(), 1u);
  EXPECT_TRUE(SameBytes(written_[EncodePageKey(other)], kept.page));
}

TEST_F(PageBufferTest, PagesThatAreBeingWrittenAreServedAndOlderThanNewOnes) {
  for (const bool fails : {false, true}) {
    status_ = fails ? Status::IoError("disk is full") : Status::Ok();
    blocked_ = true;
    const int before = begun_;
    const std::vector<PageWrite> first = Pages(0, 5), again = Pages(1, 2, 7);
    ASSERT_OK(buffer_.Put(first));
    while (begun_ == before) std::this_thread::yield();
    ASSERT_OK(buffer_.Put(again));  // there is room for it while the others are being written
    EXPECT_TRUE(SameBytes(Find(first[0].key), first[0].page));
    EXPECT_TRUE(SameBytes(Find(again[0].key), again[0].page));
    std::atomic<bool> removed = false;
    std::thread remover([&] {
      const PageKeyRange range = ContextKeyRange(SampleContext("b"));
      buffer_.Remove(range.begin, range.end);
      removed = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_FALSE(removed) << "what is being written might come after the removal";
    blocked_ = false;
    remover.join();
    status_ = Status::Ok();
    ASSERT_OK(buffer_.Flush());
    EXPECT_TRUE(SameBytes(written_[EncodePageKey(again[0].key)], again[0].page));
    EXPECT_TRUE(SameBytes(written_[EncodePageKey(first[4].key)], first[4].page));
  }
}

TEST_F(PageBufferTest, PutWaitsWhileTheLimitIsReachedAndPagesAreBeingWritten) {
  blocked_ = true;
  ASSERT_OK(buffer_.Put(Pages(0, 5)));
  while (begun_ == 0) std::this_thread::yield();
  ASSERT_OK(buffer_.Put(Pages(5, 10)));
  std::atomic<bool> put = false;
  std::thread putter([&] {
    EXPECT_OK(buffer_.Put(Pages(10, 11)));
    put = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(put);
  blocked_ = false;
  putter.join();
  ASSERT_OK(buffer_.Flush());
  EXPECT_EQ(written_.size(), 11u);
}

TEST_F(PageBufferTest, ManyThreadsLoseNothing) {
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (int page = thread; page < 200; page += 4) {
        EXPECT_OK(buffer_.Put(Pages(page, page + 1)));
        if (page % 40 == thread) EXPECT_OK(buffer_.Flush());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_OK(buffer_.Flush());
  EXPECT_EQ(written_.size(), 200u);
}

}  // namespace
}  // namespace pqcache::storage
