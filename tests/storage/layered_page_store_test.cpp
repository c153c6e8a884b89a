#include "storage/layered_page_store.h"

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "storage/rocksdb_page_store.h"
#include "tests/storage/page_samples.h"
#include "tests/support/faulty_store.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace pqcache::storage {
namespace {

using namespace pqcache::testing;

class LayeredStore : public ::testing::Test {
 protected:
  // A near copy in the folder, and a far store that belongs to the layered one.
  std::unique_ptr<LayeredPageStore> Open() {
    auto near = RocksDbPageStore::Open(dir_.File("near"), nullptr);
    EXPECT_OK(near);
    auto far = std::make_unique<FaultyStore>();
    far_ = far.get();
    return std::make_unique<LayeredPageStore>(*std::move(near), std::move(far));
  }
  void PutFar(const PageKey& key) { ASSERT_OK(PutPage(far_, key, SamplePage(key))); }

  TempDir dir_;
  FaultyStore* far_ = nullptr;
};

TEST_F(LayeredStore, WhatWasFetchedIsNearTheNextTime) {
  const PageKey key = SampleKey("a", 1);
  {
    const auto store = Open();
    PutFar(key);
    EXPECT_TRUE(SameBytes(ReadPage(store.get(), key).page, SamplePage(key)));
    EXPECT_EQ(far_->pages_read[1], 1);
    EXPECT_TRUE(SameBytes(ReadPage(store.get(), key).page, SamplePage(key)));
    EXPECT_EQ(far_->pages_read[1], 1);
  }
  const auto store = Open();  // nothing is far
  EXPECT_TRUE(SameBytes(ReadPage(store.get(), key).page, SamplePage(key)));
}

TEST_F(LayeredStore, ADamagedFarPageIsNotCopied) {
  const PageKey key = SampleKey("a", 1);
  const auto store = Open();
  PutFar(key);
  far_->damages = [](const PageKey&) { return true; };
  ExpectError(ReadPage(store.get(), key).status, StatusCode::kCorruption, "checksum");
  far_->damages = [](const PageKey&) { return false; };
  EXPECT_TRUE(SameBytes(ReadPage(store.get(), key).page, SamplePage(key)));
}

TEST_F(LayeredStore, PutsIntoBothAndFailsWithTheFarOne) {
  const PageKey key = SampleKey("a", 1);
  const auto store = Open();
  ASSERT_OK(PutPage(store.get(), key, SamplePage(key)));
  EXPECT_OK(ReadPage(far_, key).status);
  far_->put_status = Status::IoError("far is full");
  const PageKey other = SampleKey("a", 2);
  ExpectError(PutPage(store.get(), other, SamplePage(other)), StatusCode::kIoError, "far is full");
  ExpectError(ReadPage(store.get(), other).status, StatusCode::kNotFound, "");
  ASSERT_OK(store->RemoveContext(key.context));
  ExpectError(ReadPage(store.get(), key).status, StatusCode::kNotFound, "");
}

}  // namespace
}  // namespace pqcache::storage
