#include "attention/reference_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <vector>

#include "attention/cache_attention.h"
#include "tests/support/attention_fixture.h"
#include "tests/support/status_matchers.h"

namespace pqcache::attention {
namespace {

using testing::RandomSequence;
using testing::Sequence;

// Prefills and decodes with `policy`; the judge's largest deviation.
double DeviationOf(const std::string& policy, int64_t sliding_window) {
  const Sequence s = RandomSequence(1, 100, 4, 2, 16);
  storage::MemoryPageStore store(storage::kNoMemoryLimit);
  ThreadPool pool(1);
  KvCacheOptions cache_options;
  cache_options.layers = 1;
  cache_options.kv_heads = 2;
  cache_options.page.dim = 16;
  cache_options.page.page_tokens = 8;
  cache_options.n_sink = 2;
  cache_options.keep_keys = true;
  cache_options.local_window = 10;
  const auto cache = KvCache::Create(cache_options, nullptr, &store, &pool).value();
  CacheAttentionOptions options;
  options.heads = 4;
  options.policy = CreatePolicy(policy).value();
  options.sliding_window = sliding_window;
  const auto inner = CacheAttention::Create(options, cache.get(), &pool).value();
  ReferenceAttention judge(inner.get(), cache.get(), 4, sliding_window);
  EXPECT_EQ(judge.deviation(), 0);
  std::vector<int64_t> positions(100);
  std::iota(positions.begin(), positions.end(), 0);
  std::vector<float> out(100 * 4 * 16);
  const auto attend = [&](int64_t begin, int64_t n) {
    inner->set_prefill(n > 1);
    EXPECT_OK(judge.Attend({0, n, &positions[static_cast<size_t>(begin)], s.query(begin, 0),
                            s.key(begin, 0), s.value(begin, 0)},
                           out.data()));
    EXPECT_LT(testing::MaxDifference(std::span(out).first(64),
                                     testing::ExactRow(s, begin, {}, sliding_window)),
              policy == "exact" ? 1e-5 : 1e9);
  };
  attend(0, 50);
  attend(50, 40);
  EXPECT_LT(judge.deviation(), 1e-5);
  for (int64_t t = 90; t < 100; ++t) attend(t, 1);
  return judge.deviation();
}

TEST(ReferenceAttention, ExactAttentionDoesNotDeviate) {
  EXPECT_LT(DeviationOf("exact", 0), 1e-5);
  EXPECT_LT(DeviationOf("exact", 30), 1e-5);
}

TEST(ReferenceAttention, WhatIsLeftOutShows) {
  EXPECT_GT(DeviationOf("flat", 0), 0.05);
  EXPECT_GT(DeviationOf("flat", 30), 0.05);
  EXPECT_LT(DeviationOf("flat", 10), 1e-5);  // the model sees no more than the local window
}

// Writes what it is told to, and NaN once.
class NanOnce : public AttentionBackend {
 public:
  NanOnce(AttentionBackend* inner, int64_t token) : inner_(inner), token_(token) {}
  Status Attend(const AttentionInput& input, float* out) override {
    PQCACHE_RETURN_IF_ERROR(inner_->Attend(input, out));
    if (input.positions[0] == token_) out[0] = std::numeric_limits<float>::quiet_NaN();
    return Status::Ok();
  }

 private:
  AttentionBackend* inner_;
  int64_t token_;
};

TEST(ReferenceAttention, NanIsNotForgotten) {
  const Sequence s = RandomSequence(1, 20, 2, 2, 16);
  storage::MemoryPageStore store(storage::kNoMemoryLimit);
  ThreadPool pool(1);
  KvCacheOptions cache_options;
  cache_options.layers = 1;
  cache_options.kv_heads = 2;
  cache_options.page.dim = 16;
  const auto cache = KvCache::Create(cache_options, nullptr, &store, &pool).value();
  CacheAttentionOptions options;
  options.heads = 2;
  options.policy = CreatePolicy("exact").value();
  const auto exact = CacheAttention::Create(options, cache.get(), &pool).value();
  exact->set_prefill(false);
  NanOnce broken(exact.get(), 7);
  ReferenceAttention judge(&broken, cache.get(), 2, 0);
  std::vector<float> out(2 * 16);
  for (int64_t t = 0; t < 20; ++t) {
    ASSERT_OK(judge.Attend({0, 1, &t, s.query(t, 0), s.key(t, 0), s.value(t, 0)}, out.data()));
    EXPECT_EQ(std::isnan(judge.deviation()), t >= 7) << t;
  }
}

}  // namespace
}  // namespace pqcache::attention
