// The store on a real cluster of three servers, and on single ones with a configuration of their
// own.

#include "storage/resp_page_store.h"

#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "storage/resp_keys.h"
#include "tests/storage/page_samples.h"
#include "tests/support/redis_cluster.h"
#include "tests/support/status_matchers.h"

namespace pqcache::storage {
namespace {

using namespace pqcache::testing;

Result<std::unique_ptr<PageStore>> Open(const std::string& spec) {
  return RespPageStore::Open(ParseSpec(spec).value());
}

std::vector<PageWrite> Pages(const std::string& context, int layers, int pages, int tokens = 4) {
  std::vector<PageWrite> writes;
  for (int layer = 0; layer < layers; ++layer) {
    for (int page = 0; page < pages; ++page) {
      const PageKey key = SampleKey(context, page, layer, page % 2);
      writes.push_back({key, SamplePage(key, 0, tokens)});
    }
  }
  return writes;
}

// Reads them in one call; how many had each outcome.
std::map<StatusCode, int> Outcomes(PageStore* store, const std::vector<PageWrite>& pages) {
  std::vector<PageRead> reads;
  for (const PageWrite& write : pages) reads.push_back({write.key, nullptr, {}});
  store->Read(reads);
  std::map<StatusCode, int> counts;
  for (size_t i = 0; i < pages.size(); ++i) {
    ++counts[reads[i].status.code()];
    EXPECT_EQ(reads[i].status.ok(), SameBytes(reads[i].page, pages[i].page));
    EXPECT_EQ(reads[i].status.ok(), reads[i].page != nullptr);
  }
  return counts;
}

using Counts = std::map<StatusCode, int>;

class RespPageStoreTest : public ::testing::Test {
 protected:
  RespPageStoreTest() : cluster_(SharedRedisCluster()) { cluster_.FlushAll(); }

  void SetUp() override {
    auto store = Open(cluster_.spec());
    ASSERT_OK(store);
    store_ = *std::move(store);
  }
  RedisServer& HomeOf(const std::string& key) { return cluster_.node(cluster_.HomeOf(key)); }

  RedisCluster& cluster_;
  std::unique_ptr<PageStore> store_;
};

TEST_F(RespPageStoreTest, SpreadsPagesOverTheServersAndReadsThemBack) {
  const std::vector<PageWrite> pages = Pages("a", 16, 100);  // several windows and many chunks
  ASSERT_OK(store_->Put(pages));
  EXPECT_OK(store_->Sync());
  EXPECT_EQ(Outcomes(store_.get(), pages), (Counts{{StatusCode::kOk, 1600}}));
  for (int i = 0; i < 3; ++i) {
    EXPECT_GT(cluster_.node(i).MustAsk({"DBSIZE"}).integer, 100) << i;
  }
  const PageStoreStats stats = store_->stats();
  EXPECT_EQ(stats.bytes_read.at("resp"), 1600 * pages[0].page->size());
  EXPECT_EQ(stats.resident_bytes, 0u);
  // Another store sees them; each server named as the seed will do.
  auto other = Open(cluster_.node(2).spec());
  ASSERT_OK(other);
  EXPECT_EQ(Outcomes(other->get(), pages), (Counts{{StatusCode::kOk, 1600}}));
}

TEST_F(RespPageStoreTest, LeavesNothingOfARemovedContext) {
  ASSERT_OK(store_->Put(Pages("a", 5, 20)));
  const std::vector<PageWrite> others = Pages("b", 5, 20);
  ASSERT_OK(store_->Put(others));
  ASSERT_OK(store_->RemoveContext(SampleContext("a")));
  EXPECT_EQ(Outcomes(store_.get(), others), (Counts{{StatusCode::kOk, 100}}));
  ASSERT_OK(store_->RemoveContext(SampleContext("b")));
  for (int i = 0; i < 3; ++i) EXPECT_EQ(cluster_.node(i).MustAsk({"DBSIZE"}).integer, 0) << i;
}

TEST_F(RespPageStoreTest, TellsMissingFromDamaged) {
  const std::vector<PageWrite> pages = Pages("a", 1, 4);
  ASSERT_OK(store_->Put(pages));
  // One bit of a page; a page that was put under the key of another; a value of another kind.
  const std::string flipped = RespPageKey(pages[0].key);
  std::string bytes = HomeOf(flipped).MustAsk({"GET", flipped}).text;
  bytes[bytes.size() / 2] ^= 1;
  HomeOf(flipped).MustAsk({"SET", flipped, bytes});
  const std::string swapped = RespPageKey(pages[1].key);
  const std::string other = HomeOf(swapped).MustAsk({"GET", RespPageKey(pages[2].key)}).text;
  HomeOf(swapped).MustAsk({"SET", swapped, other});
  const std::string gone = RespPageKey(pages[3].key);
  HomeOf(gone).MustAsk({"DEL", gone});

  ExpectError(ReadPage(store_.get(), pages[0].key).status, StatusCode::kCorruption, "checksum");
  ExpectError(ReadPage(store_.get(), pages[1].key).status, StatusCode::kCorruption, "head");
  EXPECT_OK(ReadPage(store_.get(), pages[2].key).status);
  ExpectError(ReadPage(store_.get(), pages[3].key).status, StatusCode::kNotFound, "page 3");
  HomeOf(gone).MustAsk({"SET", gone, ""});
  ExpectError(ReadPage(store_.get(), pages[3].key).status, StatusCode::kCorruption, "0 bytes");
  const PageStoreStats stats = store_->stats();
  EXPECT_EQ(stats.damaged_pages, 3u);
  EXPECT_EQ(stats.missing_pages, 1u);
  EXPECT_EQ(stats.unreachable_pages, 0u);
}

TEST_F(RespPageStoreTest, RefusesAPageThatIsTooLarge) {
  const PageKey key = SampleKey("a", 0);
  auto large = std::make_shared<PageBytes>(RespPageStore::kMaxPageBytes + 1);
  ExpectError(PutPage(store_.get(), key, large), StatusCode::kInvalidArgument, "8388608");
}

TEST_F(RespPageStoreTest, KeepsTheRecordsOfATenant) {
  const RecordKey key = {FingerprintOf("tenant"), std::string("na\0me\r\n", 7)};
  const std::string value("\0\xff\r\n", 4);
  ExpectError(store_->GetRecord(key), StatusCode::kNotFound, "no such record");
  EXPECT_TRUE(store_->PutRecord(key, value).value());
  EXPECT_FALSE(store_->PutRecord(key, "other").value());
  EXPECT_EQ(store_->GetRecord(key).value(), value);
  EXPECT_TRUE(store_->PutRecord({key.tenant, "b"}, "").value());
  EXPECT_TRUE(store_->PutRecord({key.tenant, "a"}, "1").value());
  const std::vector<Record> list = store_->ListRecords(key.tenant).value();
  ASSERT_EQ(list.size(), 3u);
  EXPECT_EQ(list[0].key.name, "a");
  EXPECT_EQ(list[1].value, "");
  EXPECT_EQ(list[2].value, value);

  const Fingerprint stranger = FingerprintOf("stranger");
  EXPECT_TRUE(store_->ListRecords(stranger).value().empty());
  ExpectError(store_->GetRecord({stranger, key.name}), StatusCode::kNotFound, "");
  EXPECT_OK(store_->RemoveRecord({stranger, key.name}));
  EXPECT_OK(store_->GetRecord(key));
  EXPECT_OK(store_->RemoveRecord(key));
  ExpectError(store_->GetRecord(key), StatusCode::kNotFound, "");
  EXPECT_OK(store_->RemoveRecord(key));
  EXPECT_TRUE(store_->PutRecord(key, "again").value());
  ExpectError(store_->PutRecord({key.tenant, ""}, "x"), StatusCode::kInvalidArgument, "name");
}

TEST_F(RespPageStoreTest, TakesALargeRecord) {
  const RecordKey key = {FingerprintOf("tenant"), "large"};
  const std::string value(24 << 20, 'x');
  EXPECT_TRUE(store_->PutRecord(key, value).value());
  EXPECT_EQ(store_->GetRecord(key).value(), value);
}

TEST_F(RespPageStoreTest, LetsOneOfSeveralWritersWin) {
  constexpr int kWriters = 6;
  std::atomic<int> wins = 0;
  std::atomic<int> winner = -1;
  std::vector<std::thread> threads;
  const RecordKey key = {FingerprintOf("tenant"), "contested"};
  for (int i = 0; i < kWriters; ++i) {
    threads.emplace_back([&, i] {
      auto store = Open(cluster_.spec()).value();
      if (!store->PutRecord(key, std::to_string(i)).value()) return;
      ++wins;
      winner = i;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wins, 1);
  EXPECT_EQ(store_->GetRecord(key).value(), std::to_string(winner));
}

TEST(RespPageStoreAlone, UsesAServerWithoutClusterMode) {
  auto server = RedisServer::Start();
  ASSERT_OK(server);
  auto store = Open((*server)->spec());
  ASSERT_OK(store);
  const std::vector<PageWrite> pages = Pages("a", 8, 10);
  ASSERT_OK((*store)->Put(pages));
  EXPECT_EQ(Outcomes(store->get(), pages), (Counts{{StatusCode::kOk, 80}}));
  EXPECT_TRUE((*store)->PutRecord({FingerprintOf("t"), "r"}, "x").value());
}

TEST(RespPageStoreAlone, ShowsNothingOfABatchThatDoesNotFit) {
  auto server = RedisServer::Start({"--maxmemory", "6mb", "--maxmemory-policy", "noeviction"});
  ASSERT_OK(server);
  auto store = Open((*server)->spec());
  ASSERT_OK(store);
  const std::vector<PageWrite> small = Pages("small", 2, 3);
  ASSERT_OK((*store)->Put(small));
  const std::vector<PageWrite> pages = Pages("a", 4, 120, 64);  // 64 KiB each
  ExpectError((*store)->Put(pages), StatusCode::kOutOfMemory, "OOM command not allowed");
  EXPECT_EQ(Outcomes(store->get(), pages), (Counts{{StatusCode::kNotFound, 480}}));
  EXPECT_EQ(Outcomes(store->get(), small), (Counts{{StatusCode::kOk, 6}}));
  // And there is room again.
  EXPECT_OK((*store)->Put(Pages("b", 2, 3)));
}

TEST(RespPageStoreAlone, RefusesServersThatMayDropKeys) {
  auto server = RedisServer::Start({"--maxmemory", "64mb"});
  ASSERT_OK(server);
  for (const char* policy : {"allkeys-lru", "allkeys-lfu", "allkeys-random"}) {
    (*server)->MustAsk({"CONFIG", "SET", "maxmemory-policy", policy});
    ExpectError(Open((*server)->spec()), StatusCode::kInvalidArgument,
                "CONFIG SET maxmemory-policy noeviction");
  }
  for (const char* policy : {"volatile-lru", "noeviction"}) {
    (*server)->MustAsk({"CONFIG", "SET", "maxmemory-policy", policy});
    EXPECT_OK(Open((*server)->spec()));
  }
}

TEST(RespPageStoreAlone, OpensWhereConfigIsForbidden) {
  auto server = RedisServer::Start({"--rename-command", "CONFIG", ""});
  ASSERT_OK(server);
  ::testing::internal::CaptureStderr();
  auto store = Open((*server)->spec());
  const std::string log = ::testing::internal::GetCapturedStderr();
  ASSERT_OK(store);
  EXPECT_NE(log.find("does not tell its maxmemory-policy"), std::string::npos) << log;
  const PageKey key = SampleKey("a", 0);
  EXPECT_OK(PutPage(store->get(), key, SamplePage(key)));
}

TEST(RespPageStoreAlone, NeedsAServer) {
  ExpectError(Open("resp:host=127.0.0.1,port=" + std::to_string(FreePort())), StatusCode::kIoError,
              "connect");
}

}  // namespace
}  // namespace pqcache::storage
