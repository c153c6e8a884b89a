// StreamingLLM, H2O with its local baseline, and SnapKV: which tokens stay.

#include "pqcache/policy/token_retention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "pqcache/policy/selection_policy.h"
#include "tests/support/positions.h"
#include "tests/support/random_data.h"

namespace pqcache {
namespace {

using testing::Joined;
using testing::RandomNormals;
using testing::Range;

std::unique_ptr<TokenRetention> Retention(const std::string& policy, const RetentionShape& shape) {
  return CreatePolicy(policy).value()->NewRetention(shape);
}

// A list as a sequence keeps it.
struct List {
  std::vector<int64_t> positions;
  std::vector<float> received;

  void Begin(const TokenRetention& retention, int list, const ReceivedAttention& prompt) {
    retention.Begin(list, prompt, &positions);
    for (const int64_t t : positions) {
      received.push_back(prompt.sums == nullptr ? 0 : prompt.sums[list * prompt.tokens + t]);
    }
  }
  void Add(const TokenRetention& retention, int list, int64_t position) {
    std::vector<size_t> places;
    retention.Drop(list, {positions, received}, 1, &places);
    EXPECT_TRUE(std::is_sorted(places.begin(), places.end()));
    for (size_t i = places.size(); i-- > 0;) {
      positions.erase(positions.begin() + static_cast<int64_t>(places[i]));
      received.erase(received.begin() + static_cast<int64_t>(places[i]));
    }
    positions.push_back(position);
    received.push_back(0);
  }
};

TEST(Streaming, KeepsFirstTokensAndTheNewestAndNeverMore) {
  for (const int64_t prompt : {0, 3, 9, 10, 11, 50}) {
    const auto retention =
        Retention("streaming:n_sink=4,tokens=10", {.group = 2, .prompt = prompt});
    List list;
    list.Begin(*retention, 0, {});
    for (int64_t t = prompt; t < prompt + 30; ++t) {
      list.Add(*retention, 0, t);
      const int64_t tokens = t + 1;
      EXPECT_EQ(list.positions,
                tokens <= 10 ? Range(0, tokens) : Joined(Range(0, 4), Range(tokens - 6, tokens)));
    }
  }
}

// The length of the original's longest stream.
TEST(Streaming, FourMillionTokensLaterItKeepsTheSame) {
  constexpr int64_t kTokens = 4'000'000, kPrompt = kTokens - 100;
  const auto retention = Retention("streaming:n_sink=4,tokens=10", {.group = 1, .prompt = kPrompt});
  List list;
  list.Begin(*retention, 0, {});
  for (int64_t t = kPrompt; t < kTokens; ++t) list.Add(*retention, 0, t);
  EXPECT_EQ(list.positions, Joined(Range(0, 4), Range(kTokens - 6, kTokens)));
}

TEST(Streaming, SizesComeFromParametersOrFromWhatOtherPoliciesAttendTo) {
  const auto kept = [](const std::string& policy) {
    List list;
    list.Begin(*Retention(policy, {.group = 1, .prompt = 1000, .n_sink = 2, .budget = 50}), 0, {});
    return list.positions;
  };
  EXPECT_EQ(kept("streaming"), Joined(Range(0, 2), Range(952, 1000)));
  EXPECT_EQ(kept("streaming:ratio=0.3,n_sink=4"), Joined(Range(0, 4), Range(704, 1000)));
  EXPECT_EQ(kept("streaming:tokens=7"), Joined(Range(0, 2), Range(995, 1000)));
}

TEST(Streaming, FirstTokensMoveUnlessPositionsAreThoseOfTheText) {
  const RetentionShape shape{.group = 1, .prompt = 5, .n_sink = 4, .budget = 20};
  EXPECT_EQ(Retention("streaming", shape)->moving_sinks(), 4);
  EXPECT_EQ(Retention("streaming:positions=text", shape)->moving_sinks(), 0);
  EXPECT_TRUE(CreatePolicy("streaming").value()->bounds_distances());
  EXPECT_FALSE(CreatePolicy("streaming:positions=text").value()->bounds_distances());
}

TEST(Recent, KeepsTheNewestAlone) {
  const auto retention = Retention("recent:ratio=0.2", {.group = 1, .prompt = 100, .n_sink = 16});
  List list;
  list.Begin(*retention, 0, {});
  EXPECT_EQ(list.positions, Range(80, 100));
  for (int64_t t = 100; t < 150; ++t) list.Add(*retention, 0, t);
  EXPECT_EQ(list.positions, Range(130, 150));
  // A share of the prompt is rounded down.
  List odd;
  odd.Begin(*Retention("recent:ratio=0.2", {.group = 1, .prompt = 104}), 0, {});
  EXPECT_EQ(odd.positions, Range(84, 104));
}

TEST(H2o, KeepsTheNewestAndTheHeaviestOfEveryQueryHead) {
  std::vector<float> sums = RandomNormals(2 * 100, 1);
  for (float& x : sums) x = x * x;
  const ReceivedAttention received{sums.data(), 100};
  const auto retention = Retention("h2o:tokens=20", {.group = 2, .prompt = 100});
  ASSERT_EQ(retention->lists(), 2);
  EXPECT_TRUE(retention->needs_received());
  for (int head = 0; head < 2; ++head) {
    List list;
    list.Begin(*retention, head, received);
    std::vector<int64_t> order = Range(0, 90);
    std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return sums[static_cast<size_t>(head * 100 + a)] > sums[static_cast<size_t>(head * 100 + b)];
    });
    order.resize(10);
    std::sort(order.begin(), order.end());
    EXPECT_EQ(list.positions, Joined(order, Range(90, 100)));
  }
}

TEST(H2o, HoldsItsSizeAndNothingThatWentComesBack) {
  std::vector<float> sums = RandomNormals(60, 2);
  const auto retention = Retention("h2o:tokens=16,heavy=0.25", {.group = 1, .prompt = 60});
  List list;
  list.Begin(*retention, 0, {sums.data(), 60});
  std::vector<char> gone(200, 0);
  const std::vector<float> attention = RandomNormals(200 * 16, 3);
  for (int64_t t = 60; t < 200; ++t) {
    list.Add(*retention, 0, t);
    ASSERT_EQ(list.positions.size(), 16u);
    // The newest twelve, one of which has just come.
    EXPECT_EQ(std::vector<int64_t>(list.positions.end() - 12, list.positions.end()),
              Range(t - 11, t + 1));
    for (int64_t u = 0; u <= t; ++u) {
      const bool kept = std::binary_search(list.positions.begin(), list.positions.end(), u);
      EXPECT_FALSE(kept && gone[static_cast<size_t>(u)] != 0) << u;
      gone[static_cast<size_t>(u)] = kept ? 0 : 1;
    }
    for (size_t i = 0; i < 16; ++i) {
      const float x = attention[static_cast<size_t>(t * 16) + i];
      list.received[i] += x * x;
    }
  }
}

TEST(H2o, WithoutHeavyHittersItIsRecent) {
  const std::vector<float> sums(100, 1.0f);
  const RetentionShape shape{.group = 1, .prompt = 100};
  const auto none = Retention("h2o:tokens=20,heavy=0", shape);
  const auto recent = Retention("recent:tokens=20", shape);
  List a, b;
  a.Begin(*none, 0, {sums.data(), 100});
  b.Begin(*recent, 0, {});
  for (int64_t t = 100; t < 140; ++t) {
    a.Add(*none, 0, t);
    b.Add(*recent, 0, t);
    EXPECT_EQ(a.positions, b.positions);
  }
}

TEST(SnapKv, KeepsItsCapacityWithTheLastWindowInIt) {
  const std::vector<float> sums = RandomNormals(2 * 500, 4);
  const auto retention = Retention("snapkv:tokens=100", {.group = 2, .prompt = 500});
  ASSERT_EQ(retention->lists(), 2);
  for (int head = 0; head < 2; ++head) {
    List list;
    list.Begin(*retention, head, {sums.data(), 500});
    EXPECT_EQ(list.positions.size(), 100u);
    EXPECT_EQ(std::vector<int64_t>(list.positions.end() - 32, list.positions.end()),
              Range(468, 500));
    for (int64_t t = 500; t < 600; ++t) list.Add(*retention, head, t);
    EXPECT_EQ(list.positions.size(), 200u);  // what comes later stays
  }
  List shorter;
  shorter.Begin(*Retention("snapkv:tokens=100", {.group = 1, .prompt = 60}), 0, {sums.data(), 60});
  EXPECT_EQ(shorter.positions, Range(0, 60));
}

TEST(SnapKv, ASpikeSpreadsToItsNeighbours) {
  std::vector<float> sums(300, 0.0f);
  sums[100] = 1.0f;
  const auto kept = [&](const std::string& policy) {
    List list;
    list.Begin(*Retention(policy, {.group = 1, .prompt = 300}), 0, {sums.data(), 300});
    list.positions.resize(list.positions.size() - 32);
    return list.positions;
  };
  EXPECT_EQ(kept("snapkv:tokens=37"), Range(98, 103));
  EXPECT_EQ(kept("snapkv:tokens=39,kernel=7,pool=max"), Range(97, 104));
  EXPECT_EQ(kept("snapkv:tokens=33,kernel=1"), Range(100, 101));
}

TEST(SnapKv, QueryHeadsCanVoteTogether) {
  std::vector<float> sums(2 * 200, 0.0f);
  sums[50] = 1.0f;        // of the first query head
  sums[200 + 90] = 0.8f;  // of the second
  sums[70] = sums[200 + 70] = 0.6f;
  const auto kept = [&](const std::string& policy) {
    const auto retention = Retention(policy, {.group = 2, .prompt = 200});
    EXPECT_EQ(retention->lists(), 1);
    List list;
    list.Begin(*retention, 0, {sums.data(), 200});
    return list.positions.front();
  };
  EXPECT_EQ(kept("snapkv:tokens=33,kernel=1,share=mean"), 70);
  EXPECT_EQ(kept("snapkv:tokens=33,kernel=1,share=max"), 50);
}

}  // namespace
}  // namespace pqcache
