// Questions about a context that a cluster of three servers keeps, while one of them dies: the same
// answer, no wait past the time limit, and the cluster is used again once it is whole.

#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "storage/resp_keys.h"
#include "storage/stores.h"
#include "tests/attention/decoder/stored_session.h"
#include "tests/support/redis_cluster.h"

namespace pqcache::attention {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using testing::RedisCluster;

class ClusterSession : public testing::StoredSession {
 protected:
  void SetUp() override {
    StoredSession::SetUp();
    auto cluster = RedisCluster::Start(3, {"--cluster-require-full-coverage", "no"});
    ASSERT_OK(cluster);
    cluster_ = *std::move(cluster);
    auto store = storage::OpenPageStore(cluster_->spec() + ",timeout_ms=500");
    ASSERT_OK(store);
    store_ = *std::move(store);
  }
  int HomeOfLayer(int layer) {
    const ContextManifest manifest = *ContextCatalog(store_.get(), {}).Find("c");
    return cluster_->HomeOf(storage::RespPageKey({manifest.id(), layer, 0, 0}));
  }

  // The store waits a while before it asks a server again that did not answer.
  bool AllServersAreAsked() {
    for (int layer = 0; layer < 60; ++layer) {
      PageRead read{{ContextId{}, layer, 0, 0}, nullptr, Status::Ok()};
      store_->Read({&read, 1});
      if (read.status.code() == StatusCode::kIoError) return false;
    }
    return true;
  }

  std::unique_ptr<RedisCluster> cluster_;
  std::unique_ptr<PageStore> store_;
};

TEST_F(ClusterSession, AnswersLikeTheRunThatStoredIt) {
  const auto expected = Uninterrupted();
  Save(store_.get());
  EXPECT_EQ(Ask(Open(store_.get(), OnMissing::kFail).get()), expected);
}

TEST_F(ClusterSession, AServerThatDiesIsComputedAroundAndTakenBack) {
  const auto expected = Uninterrupted();
  for (const int layer : {0, 1}) {
    SCOPED_TRACE("the server of layer " + std::to_string(layer));
    Save(store_.get());
    const int down = HomeOfLayer(layer);
    const auto session = Open(store_.get(), OnMissing::kRecompute);
    cluster_->node(down).Kill();
    const auto start = Clock::now();
    EXPECT_EQ(Ask(session.get()), expected);
    EXPECT_EQ(session->recomputations(), 1);
    EXPECT_NE(&session->store(), store_.get());
    // What was pending at the time, once each, and the computation.
    EXPECT_LT(Clock::now() - start, 5s);

    ASSERT_OK(cluster_->node(down).Restart());
    ASSERT_TRUE(cluster_->WaitUntilOk());
    cluster_->FlushAll();
    ASSERT_TRUE(testing::Eventually([&] { return AllServersAreAsked(); }));
    Save(store_.get());
    EXPECT_EQ(Ask(Open(store_.get(), OnMissing::kFail).get()), expected);
    cluster_->FlushAll();
  }
}

}  // namespace
}  // namespace pqcache::attention
