// Every promise of pqcache/cache/page_store.h against every kind of store.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "storage/stores.h"
#include "tests/storage/page_samples.h"
#include "tests/support/redis_cluster.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace pqcache::storage {
namespace {

using namespace pqcache::testing;

// "DIR" in a spec stands for a scratch folder, "CLUSTER" for three servers.
class PageStoreConformance : public ::testing::TestWithParam<const char*> {
 protected:
  PageStoreConformance() {
    std::string spec = GetParam();
    if (const size_t at = spec.find("DIR"); at != std::string::npos) {
      spec.replace(at, 3, dir_.path());
    }
    if (const size_t at = spec.find("CLUSTER"); at != std::string::npos) {
      SharedRedisCluster().FlushAll();
      spec.replace(at, 7, SharedRedisCluster().spec());
    }
    Result<std::unique_ptr<PageStore>> store = OpenPageStore(spec);
    PQCACHE_CHECK(store.ok(), store.status().message().c_str());
    store_ = *std::move(store);
  }

  void ExpectPage(const PageKey& key, uint64_t seed) {
    const PageRead read = ReadPage(store_.get(), key);
    ASSERT_OK(read.status);
    EXPECT_TRUE(SameBytes(read.page, SamplePage(key, seed)));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(read.page->data()) % 64, 0u);
  }
  void ExpectMissing(const PageKey& key) {
    const PageRead read = ReadPage(store_.get(), key);
    ExpectError(read.status, StatusCode::kNotFound, "page " + std::to_string(key.page));
    EXPECT_EQ(read.page, nullptr);
  }

  TempDir dir_;
  std::unique_ptr<PageStore> store_;
};

TEST_P(PageStoreConformance, ReadsBackWhatWasPut) {
  std::vector<PageWrite> writes;
  for (int layer = 0; layer < 3; ++layer) {
    for (int head = 0; head < 2; ++head) {
      for (int page = 0; page < 5; ++page) {
        const PageKey key = SampleKey("a", page, layer, head);
        writes.push_back({key, SamplePage(key)});
      }
    }
  }
  ASSERT_OK(store_->Put(writes));
  for (const PageWrite& write : writes) ExpectPage(write.key, 0);
  ASSERT_OK(store_->Sync());
  for (const PageWrite& write : writes) ExpectPage(write.key, 0);
}

TEST_P(PageStoreConformance, ReplacesAPage) {
  const PageKey key = SampleKey("a", 1);
  ASSERT_OK(PutPage(store_.get(), key, SamplePage(key, 1)));
  const PageRead old = ReadPage(store_.get(), key);
  ASSERT_OK(PutPage(store_.get(), key, SamplePage(key, 2)));
  ExpectPage(key, 2);
  EXPECT_TRUE(SameBytes(old.page, SamplePage(key, 1))) << "a page in use must not change";
  const PageWrite twice[] = {{key, SamplePage(key, 3)}, {key, SamplePage(key, 4)}};
  ASSERT_OK(store_->Put(twice));
  ExpectPage(key, 4);
}

TEST_P(PageStoreConformance, GivesOneOutcomePerPage) {
  const PageKey present[] = {SampleKey("a", 0), SampleKey("a", 2)};
  for (const PageKey& key : present) ASSERT_OK(PutPage(store_.get(), key, SamplePage(key)));
  const PageKey stale = SampleKey("a", 9);
  std::vector<PageRead> reads;
  for (int i = 0; i < 100; ++i) {  // more than a store reads at once
    reads.push_back({SampleKey("a", i % 3), SamplePage(stale), Status::Internal("stale")});
  }
  store_->Read(reads);
  for (const PageRead& read : reads) {
    if (read.key.page == 1) {
      EXPECT_EQ(read.status.code(), StatusCode::kNotFound);
      EXPECT_EQ(read.page, nullptr);
    } else {
      EXPECT_OK(read.status);
      EXPECT_TRUE(SameBytes(read.page, SamplePage(read.key)));
    }
  }
  EXPECT_EQ(store_->stats().missing_pages, 33u);
  EXPECT_EQ(store_->stats().damaged_pages, 0u);
}

TEST_P(PageStoreConformance, TakesEmptyBatches) {
  EXPECT_OK(store_->Put({}));
  store_->Read({});
  EXPECT_OK(store_->Sync());
}

TEST_P(PageStoreConformance, TellsEveryPartOfAKeyApart) {
  std::vector<PageKey> keys = {SampleKey("a", 1, 2, 3), SampleKey("b", 1, 2, 3),
                               SampleKey("a", 2, 2, 3), SampleKey("a", 1, 3, 3),
                               SampleKey("a", 1, 2, 2), SampleKey("a", 3, 2, 1)};
  keys.push_back(keys[0]);
  keys.back().context.tenant = FingerprintOf("other");
  keys.push_back(keys[0]);
  keys.back().context.model = FingerprintOf("other");
  for (size_t i = 0; i < keys.size(); ++i) {
    for (size_t j = i; j < keys.size(); ++j) ExpectMissing(keys[j]);
    ASSERT_OK(PutPage(store_.get(), keys[i], SamplePage(keys[i], i)));
    for (size_t j = 0; j <= i; ++j) ExpectPage(keys[j], j);
  }
}

TEST_P(PageStoreConformance, RemovesOneContextOnly) {
  PageKey other_tenant = SampleKey("gone", 0);
  other_tenant.context.tenant = FingerprintOf("other");
  ASSERT_OK(PutPage(store_.get(), other_tenant, SamplePage(other_tenant)));
  for (const bool sync_first : {false, true}) {
    for (int page = 0; page < 20; ++page) {
      for (const char* context : {"before", "gone", "after"}) {
        const PageKey key = SampleKey(context, page, page % 3);
        ASSERT_OK(PutPage(store_.get(), key, SamplePage(key)));
      }
    }
    if (sync_first) ASSERT_OK(store_->Sync());
    ASSERT_OK(store_->RemoveContext(SampleContext("gone")));
    for (int page = 0; page < 20; ++page) {
      ExpectMissing(SampleKey("gone", page, page % 3));
      ExpectPage(SampleKey("before", page, page % 3), 0);
      ExpectPage(SampleKey("after", page, page % 3), 0);
    }
    ExpectPage(other_tenant, 0);
  }
  EXPECT_OK(store_->RemoveContext(SampleContext("never there")));
  const PageKey again = SampleKey("gone", 3);
  ASSERT_OK(PutPage(store_.get(), again, SamplePage(again, 7)));
  ExpectPage(again, 7);
}

TEST_P(PageStoreConformance, CountsTheBytesItReads) {
  const PageKey key = SampleKey("a", 0);
  const PageRef page = SamplePage(key);
  ASSERT_OK(PutPage(store_.get(), key, page));
  for (int i = 0; i < 3; ++i) EXPECT_OK(ReadPage(store_.get(), key).status);
  const PageStoreStats stats = store_->stats();
  uint64_t all = 0;
  for (const auto& [tier, bytes] : stats.bytes_read) all += bytes;
  EXPECT_EQ(all, 3 * page->size());
  const std::string spec = GetParam();
  EXPECT_EQ(stats.bytes_read.contains("memory"), spec.find("memory") != std::string::npos);
  EXPECT_EQ(stats.bytes_read.contains("rocksdb"), spec.find("rocksdb") != std::string::npos);
  EXPECT_EQ(stats.resident_bytes, spec.starts_with("memory") ? page->capacity_bytes() : 0);
}

TEST_P(PageStoreConformance, TellsKindsOfPagesApart) {
  const PageKey rows = SampleKey("a", 1);
  PageKey sums = rows;
  sums.kind = PageKind::kValueSums;
  const PageShape shape = {PageLayout::kValueSums, DType::kF32, 8, 64};
  const std::vector<uint8_t> body(2 * shape.row_bytes(), 5);
  const PageRef page = EncodePage(sums, shape, 2, body);
  ASSERT_OK(PutPage(store_.get(), sums, page));
  ExpectMissing(rows);
  ASSERT_OK(PutPage(store_.get(), rows, SamplePage(rows)));
  ExpectPage(rows, 0);
  EXPECT_TRUE(SameBytes(ReadPage(store_.get(), sums).page, page));
  ASSERT_OK(store_->RemoveContext(rows.context));
  ExpectMissing(rows);
  ExpectMissing(sums);
}

TEST_P(PageStoreConformance, KeepsRecordsOfEachTenant) {
  const Fingerprint tenants[] = {{}, FingerprintOf("a"), FingerprintOf("b")};
  const std::string bytes("any\0bytes\xff", 10);
  for (const Fingerprint& tenant : tenants) {
    EXPECT_TRUE(store_->ListRecords(tenant)->empty());
    for (const char* name : {"b", "a", "c"}) {
      const Result<bool> first = store_->PutRecord({tenant, name}, name + bytes + tenant.Hex());
      ASSERT_OK(first);
      EXPECT_TRUE(*first);
      EXPECT_FALSE(*store_->PutRecord({tenant, name}, "another")) << "the first one wins";
    }
  }
  ASSERT_OK(store_->RemoveRecord({tenants[1], "b"}));
  ASSERT_OK(store_->RemoveRecord({tenants[1], "b"}));
  ExpectError(store_->GetRecord({tenants[1], "b"}), StatusCode::kNotFound, "b");
  for (const Fingerprint& tenant : tenants) {
    const Result<std::vector<Record>> list = store_->ListRecords(tenant);
    ASSERT_OK(list);
    ASSERT_EQ(list->size(), tenant == tenants[1] ? 2u : 3u);
    for (const Record& record : *list) {
      EXPECT_EQ(record.value, record.key.name + bytes + tenant.Hex());
      EXPECT_EQ(*store_->GetRecord(record.key), record.value);
    }
    EXPECT_TRUE(std::is_sorted(list->begin(), list->end(), [](const auto& a, const auto& b) {
      return a.key.name < b.key.name;
    }));
  }
  EXPECT_TRUE(*store_->PutRecord({tenants[1], "b"}, "again"));
  EXPECT_FALSE(*store_->ReplaceRecord({tenants[1], "b"}, "other", "another"));
  EXPECT_FALSE(*store_->ReplaceRecord({tenants[1], "none"}, "", "another"));
  EXPECT_EQ(*store_->GetRecord({tenants[1], "b"}), "again");
  EXPECT_TRUE(*store_->ReplaceRecord({tenants[1], "b"}, "again", "another"));
  EXPECT_EQ(*store_->GetRecord({tenants[1], "b"}), "another");
  EXPECT_NE(*store_->GetRecord({tenants[0], "b"}), "another");
  ExpectError(store_->ReplaceRecord({tenants[0], ""}, "", "x"), StatusCode::kInvalidArgument,
              "a name");
  ExpectError(store_->PutRecord({tenants[0], ""}, "x"), StatusCode::kInvalidArgument, "a name");
}

TEST_P(PageStoreConformance, ReservesMemory) {
  EXPECT_OK(store_->ReserveMemory(nullptr, 1000));
  EXPECT_OK(store_->ReserveMemory(nullptr, 0));
}

// Writers own distinct contexts and read their own writes; everybody also reads a shared one.
TEST_P(PageStoreConformance, ServesManyThreads) {
  for (int page = 0; page < 10; ++page) {
    const PageKey key = SampleKey("shared", page);
    ASSERT_OK(PutPage(store_.get(), key, SamplePage(key)));
  }
  std::atomic<int> failures = 0;
  const auto work = [&](int id) {
    Random random(static_cast<uint64_t>(id));
    const std::string context = "own" + std::to_string(id);
    std::map<int64_t, uint64_t> model;
    for (int step = 0; step < 200; ++step) {
      const PageKey own = SampleKey(context, static_cast<int64_t>(random.Below(8)));
      if (step % 67 == 66) {
        failures += !store_->RemoveContext(own.context).ok();
        model.clear();
      } else if (random.Below(2) == 0) {
        model[own.page] = step;
        failures += !PutPage(store_.get(), own, SamplePage(own, step)).ok();
      }
      const PageKey shared = SampleKey("shared", static_cast<int64_t>(random.Below(10)));
      PageRead reads[] = {{own, nullptr, {}}, {shared, nullptr, {}}};
      store_->Read(reads);
      const auto wanted = model.find(own.page);
      failures += wanted == model.end()
                      ? reads[0].status.code() != StatusCode::kNotFound
                      : !SameBytes(reads[0].page, SamplePage(own, wanted->second));
      failures += !SameBytes(reads[1].page, SamplePage(shared));
    }
  };
  std::vector<std::thread> threads;
  for (int id = 0; id < 4; ++id) threads.emplace_back(work, id);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
}

INSTANTIATE_TEST_SUITE_P(Stores, PageStoreConformance,
                         ::testing::Values("memory", "memory:limit=64M", "rocksdb:path=DIR",
                                           "memory+rocksdb:path=DIR",
                                           "memory:limit=20k+rocksdb:path=DIR", "CLUSTER",
                                           "memory:limit=64M+CLUSTER", "rocksdb:path=DIR+CLUSTER",
                                           "memory:limit=20k+rocksdb:path=DIR+CLUSTER"));

}  // namespace
}  // namespace pqcache::storage
