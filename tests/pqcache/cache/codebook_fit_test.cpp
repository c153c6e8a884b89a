#include "pqcache/cache/codebook_fit.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "storage/memory_page_store.h"
#include "tests/pqcache/index/codebook_samples.h"
#include "tests/support/status_matchers.h"

namespace pqcache {
namespace {

using namespace pqcache::testing;

constexpr PqShape kShape = {16, 4, 4};
constexpr int64_t kTokens = 2000;

struct Keys {
  float residual = 1;  // as the codebooks say
  int64_t tokens = kTokens;
  // Keys of layer 1, head 0 from this token on are so many times as long.
  int64_t first_long = 0;
  float factor = 1;
};

class CodebookFitTest : public ::testing::Test {
 protected:
  CodebookFit FitOfKeys(const Keys& k) {
    auto set = std::make_shared<CodebookSet>();
    set->layers = set->kv_heads = 2;
    for (uint64_t i = 0; i < 4; ++i) {
      HeadCodebook::Parts parts = RandomParts(kShape, false, i);
      parts.residual = k.residual;
      set->heads.push_back(HeadCodebook::Create(std::move(parts)).value());
    }
    KvCacheOptions options;
    options.layers = options.kv_heads = 2;
    options.page.dim = kShape.dim;
    options.page.page_tokens = 16;
    options.local_window = 8;
    options.context = NewContextId({}, FingerprintOf("model"));
    cache_ = KvCache::Create(options, set, &store_, &pool_).value();
    EXPECT_EQ(FitOf(*cache_).mean, 0);
    for (int layer = 0; layer < 2; ++layer) {
      std::vector<float> keys = RandomNormals(k.tokens * 2 * kShape.dim, 7);
      for (int64_t i = 0; i < std::ssize(keys); ++i) {
        const int64_t token = i / kShape.dim / 2, head = i / kShape.dim % 2;
        if (layer == 1 && head == 0 && token >= k.first_long) keys[i] *= k.factor;
      }
      // In chunks, as a prompt and its continuation come.
      const int64_t row = 2 * kShape.dim;
      for (int64_t begin = 0; begin < k.tokens; begin += 100) {
        const float* at = keys.data() + begin * row;
        EXPECT_OK(cache_->Append(layer, std::min<int64_t>(100, k.tokens - begin), at, at));
      }
    }
    return FitOf(*cache_);
  }

  ThreadPool pool_{1};
  storage::MemoryPageStore store_{storage::kNoMemoryLimit};
  std::unique_ptr<KvCache> cache_;
};

TEST_F(CodebookFitTest, IsTheDistanceOverThatOfTheTraining) {
  const CodebookFit one = FitOfKeys({.residual = 1}), four = FitOfKeys({.residual = 4});
  EXPECT_GT(one.mean, 0);
  EXPECT_NEAR(one.mean, 4 * four.mean, 1e-5 * one.mean);
  EXPECT_NEAR(one.newest, one.mean, 0.1 * one.mean);
  EXPECT_GE(one.worst, one.mean);
}

TEST_F(CodebookFitTest, NamesTheWorstHead) {
  const CodebookFit even = FitOfKeys({}), odd = FitOfKeys({.factor = 5});
  EXPECT_EQ(odd.layer, 1);
  EXPECT_EQ(odd.kv_head, 0);
  EXPECT_GT(odd.worst, 4 * even.worst);
  EXPECT_GT(odd.mean, even.mean);
}

// A text that changes its kind.
TEST_F(CodebookFitTest, TheNewestTokensAreToldApart) {
  const CodebookFit even = FitOfKeys({});
  const CodebookFit late = FitOfKeys({.first_long = kTokens - 700, .factor = 5});
  EXPECT_GT(late.newest, 1.5 * late.mean);
  EXPECT_GT(late.newest, 2 * even.newest);
  // Long ago is forgotten, but not by the mean of all.
  const CodebookFit early = FitOfKeys({.first_long = 0, .factor = 5});
  EXPECT_GT(early.mean, 2 * even.mean);
}

// Attention sinks lie far from everything.
TEST_F(CodebookFitTest, TheFirstBlockDoesNotCount) {
  const CodebookFit even = FitOfKeys({});
  const Keys sinks{.tokens = kTokens, .first_long = kTokens - 1};
  EXPECT_DOUBLE_EQ(FitOfKeys(sinks).mean, even.mean);
  KvCacheOptions options = cache_->options();
  auto set = std::make_shared<CodebookSet>();
  set->layers = set->kv_heads = 1;
  HeadCodebook::Parts parts = RandomParts(kShape, false, 0);
  parts.residual = 1;
  set->heads.push_back(HeadCodebook::Create(std::move(parts)).value());
  options.layers = options.kv_heads = 1;
  double means[2];
  for (const bool far : {false, true}) {
    const auto cache = KvCache::Create(options, set, &store_, &pool_).value();
    std::vector<float> keys = RandomNormals(kTokens * kShape.dim, 7);
    for (int d = 0; d < kShape.dim && far; ++d) keys[d] *= 1000;
    EXPECT_OK(cache->Append(0, kTokens, keys.data(), keys.data()));
    means[far ? 1 : 0] = FitOf(*cache).mean;
  }
  EXPECT_EQ(means[0], means[1]);
}

TEST_F(CodebookFitTest, IsNotKnownWithoutResidualsAndOfFewTokens) {
  EXPECT_EQ(FitOfKeys({.residual = 0}).mean, 0);
  EXPECT_EQ(FitOfKeys({.tokens = 64 + 8 + kFitTokens - 1}).mean, 0);
  EXPECT_GT(FitOfKeys({.tokens = 64 + 8 + kFitTokens}).mean, 0);
  EXPECT_EQ(DescribeMisfit({}), "");
}

TEST_F(CodebookFitTest, AHeadThatIsNotFiniteDoesNotCount) {
  const CodebookFit fit = FitOfKeys({.first_long = 1000, .factor = NAN});
  EXPECT_GT(fit.mean, 0);
  EXPECT_FALSE(fit.layer == 1 && fit.kv_head == 0);
}

TEST_F(CodebookFitTest, OneHeadMayBeAMisfitAndOthersNot) {
  const float residual = static_cast<float>(FitOfKeys({.residual = 1}).worst);
  FitOfKeys({.residual = residual, .first_long = kTokens - 700, .factor = 5});
  for (int layer = 0; layer < 2; ++layer) {
    for (int head = 0; head < 2; ++head) {
      EXPECT_EQ(IsMisfit(cache_->head(layer, head)), layer == 1 && head == 0);
    }
  }
  FitOfKeys({.residual = 0, .factor = 5});
  EXPECT_FALSE(IsMisfit(cache_->head(1, 0)));  // not known
}

TEST_F(CodebookFitTest, AForkRemembers) {
  const CodebookFit fit = FitOfKeys({});
  const auto fork = cache_->Fork(NewContextId({}, FingerprintOf("model"))).value();
  EXPECT_DOUBLE_EQ(FitOf(*fork).mean, fit.mean);
  EXPECT_DOUBLE_EQ(FitOf(*fork).newest, fit.newest);
}

TEST(CodebookFit, WarnsWhereTheyDoNotFit) {
  EXPECT_EQ(DescribeMisfit({.mean = 1.29, .newest = 1.29, .worst = 9, .layer = 3, .kv_head = 1}),
            "");
  EXPECT_NE(DescribeMisfit({.mean = 1.1, .newest = 1.6, .worst = 9, .layer = 3, .kv_head = 1}), "");
  const std::string text =
      DescribeMisfit({.mean = 1.51, .newest = 1.2, .worst = 9, .layer = 3, .kv_head = 1});
  EXPECT_NE(text.find("1.51 times those of text like the training's (of the newest tokens 1.20, of "
                      "layer 3 KV head 1 9.00)"),
            std::string::npos)
      << text;
}

}  // namespace
}  // namespace pqcache
