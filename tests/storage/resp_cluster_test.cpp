// The store while servers die, hang, come back, hand over slots and say strange things. No call may
// take much longer than its time limit, and no page of a healthy server may be missed.

#include "storage/resp_cluster.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "storage/resp_keys.h"
#include "storage/resp_page_store.h"
#include "tests/storage/page_samples.h"
#include "tests/support/redis_cluster.h"
#include "tests/support/scripted_server.h"
#include "tests/support/status_matchers.h"

namespace pqcache::storage {
namespace {

using namespace pqcache::testing;
using namespace std::chrono_literals;
using Peer = ScriptedServer::Peer;
using Words = std::vector<std::string>;

constexpr auto kMargin = 1500ms;  // what a busy machine adds to a time limit

std::unique_ptr<PageStore> Open(const std::string& spec) {
  Result<std::unique_ptr<PageStore>> store =
      RespPageStore::Open(ParseSpec(spec + ",timeout_ms=500").value());
  PQCACHE_CHECK(store.ok(), store.status().message().c_str());
  return *std::move(store);
}

// A page of each of 60 layers, which spread over all servers.
std::vector<PageKey> Layers() {
  std::vector<PageKey> keys;
  for (int layer = 0; layer < 60; ++layer) keys.push_back(SampleKey("a", 0, layer));
  return keys;
}

Status PutAll(PageStore* store, const std::vector<PageKey>& keys) {
  std::vector<PageWrite> writes;
  for (const PageKey& key : keys) writes.push_back({key, SamplePage(key)});
  return store->Put(writes);
}

std::vector<PageRead> ReadAll(PageStore* store, const std::vector<PageKey>& keys) {
  std::vector<PageRead> reads;
  for (const PageKey& key : keys) reads.push_back({key, nullptr, {}});
  const auto start = RespClock::now();
  store->Read(reads);
  EXPECT_LT(RespClock::now() - start, 500ms + kMargin);
  for (const PageRead& read : reads) {
    EXPECT_EQ(read.status.ok(), SameBytes(read.page, SamplePage(read.key)));
  }
  return reads;
}

bool AllServed(PageStore* store, const std::vector<PageKey>& keys) {
  for (const PageRead& read : ReadAll(store, keys)) {
    if (!read.status.ok()) return false;
  }
  return true;
}

class RespClusterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto cluster = RedisCluster::Start(3, {"--cluster-require-full-coverage", "no"});
    ASSERT_OK(cluster);
    cluster_ = *std::move(cluster);
    store_ = Open(cluster_->spec());
    ASSERT_OK(PutAll(store_.get(), keys_));
  }
  int HomeOf(const PageKey& key) { return cluster_->HomeOf(RespPageKey(key)); }

  // Pages of server `down` are unreachable, all others are served.
  void ExpectOnlyLost(int down) {
    const uint64_t before = store_->stats().unreachable_pages;
    uint64_t lost = 0;
    for (const PageRead& read : ReadAll(store_.get(), keys_)) {
      const bool on_it = HomeOf(read.key) == down;
      EXPECT_EQ(read.status.code(), on_it ? StatusCode::kIoError : StatusCode::kOk)
          << read.status.message();
      lost += on_it;
    }
    EXPECT_GT(lost, 5u);
    EXPECT_EQ(store_->stats().unreachable_pages - before, lost);
  }

  const std::vector<PageKey> keys_ = Layers();
  std::unique_ptr<RedisCluster> cluster_;
  std::unique_ptr<PageStore> store_;
};

TEST_F(RespClusterTest, ServesTheRestWhileAServerIsDeadAndTakesItBack) {
  for (const int down : {1, 0}) {  // 0 is the seed
    cluster_->node(down).Kill();
    for (int i = 0; i < 5; ++i) ExpectOnlyLost(down);
    const auto start = RespClock::now();
    EXPECT_EQ(PutAll(store_.get(), keys_).code(), StatusCode::kIoError);
    EXPECT_LT(RespClock::now() - start, 1500ms + kMargin);
    // All or nothing: the servers that live have given back their part.
    for (const PageRead& read : ReadAll(store_.get(), keys_)) EXPECT_FALSE(read.status.ok());
    EXPECT_EQ(store_->RemoveContext(keys_[0].context).code(), StatusCode::kIoError);

    ASSERT_OK(cluster_->node(down).Restart());
    EXPECT_TRUE(Eventually([&] { return PutAll(store_.get(), keys_).ok(); }));
    EXPECT_TRUE(AllServed(store_.get(), keys_));
  }
}

TEST_F(RespClusterTest, OpensWithAnyOfTheServersNamed) {
  cluster_->node(0).Kill();
  const std::string hosts =
      cluster_->node(0).address().ToString() + "/" + cluster_->node(1).address().ToString();
  const std::unique_ptr<PageStore> store = Open("resp:host=" + hosts);
  for (const PageKey& key : keys_) {
    if (HomeOf(key) != 0) EXPECT_OK(ReadPage(store.get(), key).status);
  }
  cluster_->node(1).Kill();
  ExpectError(RespPageStore::Open(ParseSpec("resp:host=" + hosts).value()), StatusCode::kIoError,
              cluster_->node(1).address().ToString());
}

TEST_F(RespClusterTest, DoesNotWaitForAServerThatHangs) {
  cluster_->node(2).Pause();
  for (int i = 0; i < 3; ++i) ExpectOnlyLost(2);
  // The breaker is open: nobody waits for the time limit.
  const auto start = RespClock::now();
  ExpectOnlyLost(2);
  EXPECT_LT(RespClock::now() - start, 400ms);
  cluster_->node(2).Resume();
  EXPECT_TRUE(Eventually([&] { return AllServed(store_.get(), keys_); }));
}

// Hands over the slot of `key` from its server to another in the steps of a resharding.
class SlotMove {
 public:
  SlotMove(RedisCluster* cluster, const std::string& key)
      : cluster_(cluster),
        slot_(std::to_string(KeySlot(key))),
        from_(cluster->HomeOf(key)),
        to_((from_ + 1) % cluster->size()) {}

  // Moves the first half of the layer's pages.
  void BeginWithHalf(const std::vector<PageKey>& layer) {
    Set(to_, "IMPORTING", from_);
    Set(from_, "MIGRATING", to_);
    for (size_t i = 0; i < layer.size() / 2; ++i) MoveKey(RespPageKey(layer[i]));
  }
  void MoveKey(const std::string& key) {
    const std::string port = std::to_string(cluster_->node(to_).address().port);
    cluster_->node(from_).MustAsk({"MIGRATE", "127.0.0.1", port, key, "0", "5000"});
  }
  void MoveAllKeys() {
    for (const RespReply& key :
         cluster_->node(from_).MustAsk({"CLUSTER", "GETKEYSINSLOT", slot_, "1000"}).elements) {
      MoveKey(key.text);
    }
  }
  void End() {
    Set(to_, "NODE", to_);
    for (int i = 0; i < cluster_->size(); ++i) Set(i, "NODE", to_);
  }
  int64_t KeysAt(bool target) {
    return cluster_->node(target ? to_ : from_)
        .MustAsk({"CLUSTER", "COUNTKEYSINSLOT", slot_})
        .integer;
  }

 private:
  void Set(int at, std::string_view what, int node) {
    cluster_->node(at).MustAsk({"CLUSTER", "SETSLOT", slot_, what, cluster_->IdOf(node)});
  }

  RedisCluster* const cluster_;
  const std::string slot_;
  const int from_, to_;
};

std::vector<PageKey> LayerOfEight() {
  std::vector<PageKey> layer;
  for (int page = 0; page < 8; ++page) layer.push_back(SampleKey("b", page));
  return layer;
}

TEST_F(RespClusterTest, FollowsASlotThatMoves) {
  std::vector<PageKey> layer = LayerOfEight();
  ASSERT_OK(PutAll(store_.get(), layer));
  SlotMove move(cluster_.get(), RespPageKey(layer[0]));
  move.BeginWithHalf(layer);
  EXPECT_TRUE(AllServed(store_.get(), {layer[0]}));  // ASK
  EXPECT_TRUE(AllServed(store_.get(), layer));       // the batch is on two servers
  const PageKey fresh = SampleKey("b", 8);
  ASSERT_OK(PutPage(store_.get(), fresh, SamplePage(fresh)));
  layer.push_back(fresh);
  EXPECT_TRUE(AllServed(store_.get(), layer));
  EXPECT_EQ(move.KeysAt(true), 5);  // the new page went to the target
  ExpectError(ReadPage(store_.get(), SampleKey("b", 99)).status, StatusCode::kNotFound, "page 99");

  move.MoveAllKeys();
  move.End();
  EXPECT_TRUE(AllServed(store_.get(), layer));  // MOVED
  EXPECT_TRUE(AllServed(store_.get(), keys_));
  EXPECT_TRUE(store_->PutRecord({FingerprintOf("t"), "r"}, "x").value());
  EXPECT_OK(store_->RemoveContext(layer[0].context));
  EXPECT_EQ(move.KeysAt(true), 0);
}

TEST_F(RespClusterTest, RemovesAContextWhoseSlotIsMoving) {
  std::vector<PageKey> layer = LayerOfEight();
  ASSERT_OK(PutAll(store_.get(), layer));
  SlotMove move(cluster_.get(), RespPageKey(layer[0]));
  move.BeginWithHalf(layer);
  EXPECT_OK(store_->RemoveContext(layer[0].context));
  EXPECT_EQ(move.KeysAt(true) + move.KeysAt(false), 0);
}

// Scripted servers from here on.

Status ReadFrom(ScriptedServer::Answer answer) {
  ScriptedServer server(ScriptedServer::Standalone(std::move(answer)));
  const std::unique_ptr<PageStore> store = Open(server.spec());
  const std::vector<PageRead> reads = ReadAll(store.get(), {SampleKey("a", 0), SampleKey("a", 1)});
  const PageStoreStats stats = store->stats();
  EXPECT_EQ(stats.unreachable_pages, reads[0].status.code() == StatusCode::kIoError ? 2u : 0u);
  return reads[0].status;
}

TEST(RespClusterScripted, CallsUnreachableWhatGivesNoAnswer) {
  const std::vector<ScriptedServer::Answer> scripts = {
      [](Peer& peer, const Words&) { peer.Stall(); },
      [](Peer& peer, const Words&) {
        peer.Send("*2\r\n$100\r\nhalf");
        peer.Stall();
      },
      [](Peer& peer, const Words&) { peer.Trickle("*2\r\n$-1\r\n$999\r\nxxxxxxxxxx", 50ms); },
      [](Peer& peer, const Words&) { peer.Send("garbage\r\n"); },
      [](Peer& peer, const Words&) { peer.Send("$99999999999\r\n"); },
      [](Peer& peer, const Words&) { peer.Send("-ERR out of order\r\n"); },
      [](Peer& peer, const Words&) { peer.Send("-CLUSTERDOWN The cluster is down\r\n"); },
      [](Peer& peer, const Words&) { peer.Send("-LOADING Redis is loading\r\n"); },
      [](Peer& peer, const Words&) { peer.Send("-TRYAGAIN Multiple keys\r\n"); },
      [](Peer& peer, const Words&) { peer.Send("*1\r\n$-1\r\n"); },
      [](Peer& peer, const Words&) { peer.Send("*2\r\n:1\r\n*0\r\n"); },
      [](Peer& peer, const Words&) { peer.Send("+OK\r\n"); }};
  for (size_t i = 0; i < scripts.size(); ++i) {
    const Status status = ReadFrom(scripts[i]);
    EXPECT_EQ(status.code(), StatusCode::kIoError) << i << ": " << status.message();
  }
}

TEST(RespClusterScripted, GivesUpOnRedirectionsWithoutEnd) {
  int port = 0;
  ScriptedServer server(ScriptedServer::Standalone([&](Peer& peer, const Words&) {
    peer.Send("-MOVED 1 127.0.0.1:" + std::to_string(port) + "\r\n");
  }));
  port = server.address().port;
  const std::unique_ptr<PageStore> store = Open(server.spec());
  const PageRead read = ReadPage(store.get(), SampleKey("a", 0));
  ExpectError(read.status, StatusCode::kIoError, "redirected more than 5 times");
}

std::string AllSlotsAt(const ScriptedServer& server) {
  return "*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:" +
         std::to_string(server.address().port) + "\r\n";
}

// The seed only knows who holds the slots; then somebody else holds them.
TEST(RespClusterScripted, FindsTheServersAgainUnderANewMap) {
  const auto holder = [](const std::string& mark) {
    return ScriptedServer::Greeting(
        [] { return "*0\r\n"; },
        [mark](Peer& peer, const Words& command) {
          peer.Send(command[0] == "HGET" ? "$1\r\n" + mark + "\r\n" : ":1\r\n");
        });
  };
  auto first = std::make_unique<ScriptedServer>(holder("1"));
  ScriptedServer second(holder("2"));
  std::mutex mutex;
  std::string map = AllSlotsAt(*first);
  ScriptedServer seed(ScriptedServer::Greeting(
      [&] {
        const std::lock_guard lock(mutex);
        return map;
      },
      [](Peer&, const Words&) {}));
  const std::unique_ptr<PageStore> store = Open(seed.spec());
  const RecordKey key = {FingerprintOf("t"), "r"};
  EXPECT_EQ(store->GetRecord(key).value(), "1");
  first->Stop();
  ExpectError(store->GetRecord(key), StatusCode::kIoError, first->address().ToString());
  {
    const std::lock_guard lock(mutex);
    map = AllSlotsAt(second);
  }
  EXPECT_TRUE(Eventually([&] {
    const Result<std::string> value = store->GetRecord(key);
    return value.ok() && *value == "2";
  }));
}

// One redirection is enough for all later calls.
TEST(RespClusterScripted, LearnsFromARedirection) {
  ScriptedServer target(ScriptedServer::Greeting(
      [] { return "*0\r\n"; }, [](Peer& peer, const Words&) { peer.Send("$1\r\nx\r\n"); }));
  std::atomic<int> asked = 0;
  int port = 0;
  ScriptedServer seed(ScriptedServer::Greeting(
      [&] {
        return "*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:" +
               std::to_string(asked == 0 ? port : target.address().port) + "\r\n";
      },
      [&](Peer& peer, const Words&) {
        ++asked;
        peer.Send("-MOVED 1 127.0.0.1:" + std::to_string(target.address().port) + "\r\n");
      }));
  port = seed.address().port;
  const std::unique_ptr<PageStore> store = Open(seed.spec());
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(store->GetRecord({FingerprintOf("t"), "r"}).value(), "x");
  }
  EXPECT_EQ(asked, 1);
}

// A single writer must not be told that it lost: what failed may be sent again only by the caller.
TEST(RespClusterScripted, SendsNoCommandTwice) {
  std::atomic<int> puts = 0;
  ScriptedServer server(ScriptedServer::Standalone([&](Peer&, const Words&) { ++puts; }));
  const std::unique_ptr<PageStore> store = Open(server.spec());
  EXPECT_EQ(store->PutRecord({FingerprintOf("t"), "r"}, "x").status().code(), StatusCode::kIoError);
  EXPECT_EQ(puts, 1);
}

}  // namespace
}  // namespace pqcache::storage
