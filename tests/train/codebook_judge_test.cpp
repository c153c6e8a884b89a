#include "train/codebook_judge.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "pqcache/index/pq_index.h"
#include "tests/support/status_matchers.h"
#include "tests/train/synthetic.h"
#include "train/codebook_trainer.h"

namespace pqcache::train {
namespace {

using testing::ExpectError;
using testing::NormalRows;

HeldOut MakeHeldOut(int layers, int kv_heads, int group, int dim, int64_t tokens, int64_t queries) {
  HeldOut held_out;
  held_out.kv_heads = kv_heads;
  held_out.group = group;
  held_out.dim = dim;
  held_out.tokens = tokens;
  for (int64_t i = 0; i < queries; ++i) held_out.query_positions.push_back(tokens - queries + i);
  for (int l = 0; l < layers; ++l) {
    const auto seed = static_cast<uint64_t>(10 * l + 1);
    held_out.layers.push_back({NormalRows(tokens * kv_heads, dim, seed),
                               NormalRows(queries * kv_heads * group, dim, seed + 1)});
  }
  return held_out;
}

CodebookSet Train(int layers, int kv_heads, int dim, const char* shape) {
  ThreadPool pool(1);
  TrainOptions options;
  options.shape = PqShape::Parse(shape, dim).value();
  options.iterations = 5;
  return TrainCodebooks(testing::AnisotropicSamples(layers, kv_heads, dim, 600), options, &pool)
      .value();
}

std::vector<int64_t> Best(const std::vector<double>& scores, size_t k) {
  std::vector<int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return scores[a] > scores[b]; });
  order.resize(std::min(k, order.size()));
  return order;
}

// The definitions, by loops in double.
HeadJudgement PlainJudge(const CodebookSet& set, const HeldOut& x, int layer, int h,
                         const JudgeOptions& options) {
  const HeadCodebook& book = set.head(layer, h);
  std::vector<float> keys;
  for (int64_t t = 0; t < x.tokens; ++t) {
    const float* key = &x.layers[layer].keys[(t * x.kv_heads + h) * x.dim];
    keys.insert(keys.end(), key, key + x.dim);
  }
  std::vector<uint8_t> codes(static_cast<size_t>(x.tokens) * book.shape().subspaces);
  std::vector<float> decoded(keys.size());
  book.Encode(0, x.tokens, keys.data(), codes.data());
  book.Decode(0, x.tokens, codes.data(), decoded.data());

  HeadJudgement mean;
  int count = 0;
  for (size_t i = 0; i < x.query_positions.size(); ++i) {
    for (int g = 0; g < x.group; ++g) {
      const size_t row = (i * x.kv_heads + h) * x.group + g;
      const float* query = &x.layers[layer].queries[row * x.dim];
      std::vector<double> exact, approximate;
      for (int64_t t = options.n_sink; t <= x.query_positions[i] - options.window; ++t) {
        double e = 0, a = 0;
        for (int d = 0; d < x.dim; ++d) {
          e += double{query[d]} * keys[t * x.dim + d];
          a += double{query[d]} * decoded[t * x.dim + d];
        }
        exact.push_back(e / std::sqrt(x.dim));
        approximate.push_back(a);
      }
      if (exact.empty()) continue;
      ++count;
      double common = 0;
      const std::vector<int64_t> wanted = Best(exact, 100), found = Best(approximate, 100);
      for (int64_t p : found) common += std::count(wanted.begin(), wanted.end(), p);
      mean.recall_at_100 += common / static_cast<double>(wanted.size());
      double in_400 = 0;
      for (int64_t p : Best(approximate, 400))
        in_400 += std::count(wanted.begin(), wanted.end(), p);
      mean.recall_in_400 += in_400 / static_cast<double>(wanted.size());
      double caught = 0, possible = 0;
      const auto share = static_cast<size_t>(std::ceil(static_cast<double>(exact.size()) / 50));
      for (int64_t p : Best(approximate, share)) caught += std::exp(exact[p]);
      for (int64_t p : Best(exact, share)) possible += std::exp(exact[p]);
      mean.mass_at_2pct += caught / possible;
    }
  }
  mean.recall_at_100 /= count;
  mean.recall_in_400 /= count;
  mean.mass_at_2pct /= count;
  double error = 0, sum_of_squares = 0;
  std::vector<double> sums(static_cast<size_t>(x.dim), 0.0);
  for (size_t i = 0; i < keys.size(); ++i) {
    error += (double{keys[i]} - decoded[i]) * (double{keys[i]} - decoded[i]);
    sum_of_squares += double{keys[i]} * keys[i];
    sums[i % sums.size()] += keys[i];
  }
  for (double s : sums) sum_of_squares -= s * s / static_cast<double>(x.tokens);
  mean.relative_mse = error / sum_of_squares;
  return mean;
}

TEST(CodebookJudgeTest, MatchesTheDefinitions) {
  const CodebookSet set = Train(2, 2, 16, "4x4");
  const HeldOut held_out = MakeHeldOut(2, 2, 3, 16, 900, 9);
  // The queries see 845 to 853 keys: 17 or 18 are 2 %.
  const JudgeOptions options{.n_sink = 5, .window = 42};
  ThreadPool pool(2);
  const auto report = JudgeCodebooks(set, held_out, options, &pool);
  ASSERT_OK(report);
  EXPECT_EQ(report->queries, 27);
  ASSERT_EQ(report->heads.size(), 4u);
  for (int layer = 0; layer < 2; ++layer) {
    for (int h = 0; h < 2; ++h) {
      const HeadJudgement plain = PlainJudge(set, held_out, layer, h, options);
      const HeadJudgement& judged = report->heads[static_cast<size_t>(layer * 2 + h)];
      // One position in a hundred may fall to the other side of a rounding.
      EXPECT_NEAR(judged.recall_at_100, plain.recall_at_100, 0.0011);
      EXPECT_NEAR(judged.recall_in_400, plain.recall_in_400, 0.0011);
      EXPECT_GT(judged.recall_in_400, judged.recall_at_100);
      EXPECT_NEAR(judged.mass_at_2pct, plain.mass_at_2pct, 1e-4);
      EXPECT_NEAR(judged.relative_mse, plain.relative_mse, 1e-5);
      EXPECT_LT(judged.recall_at_100, 0.95);
    }
  }
}

// What lies as far from its codes as the held-out keys do is no stranger.
TEST(CodebookJudgeTest, ResidualsAreTakenFromHeldOutKeys) {
  CodebookSet set = Train(1, 2, 16, "4x8");  // 256 centroids for 600 keys
  const HeldOut held_out = MakeHeldOut(1, 2, 1, 16, 900, 9);
  ThreadPool pool(1);
  const auto report = JudgeCodebooks(set, held_out, {.n_sink = 5, .window = 42}, &pool);
  ASSERT_OK(report);
  const std::vector<float> before = {set.heads[0].residual(), set.heads[1].residual()};
  EXPECT_OK(TakeResiduals(*report, &set));
  for (size_t h = 0; h < 2; ++h) {
    EXPECT_GT(report->heads[h].residual_growth, 1.3);
    const int64_t first = PqIndex::kBlockTokens;  // those before do not count
    double sum = 0;
    for (int64_t t = first; t < 900; ++t) {
      uint8_t code[4];
      set.heads[h].Encode(t, 1, &held_out.layers[0].keys[(t * 2 + h) * 16], code, &sum);
    }
    EXPECT_NEAR(set.heads[h].residual(), sum / static_cast<double>(900 - first), 1e-4 * sum / 800);
    EXPECT_NEAR(set.heads[h].residual() / before[h], report->heads[h].residual_growth, 1e-5);
  }
  const auto again = JudgeCodebooks(set, held_out, {.n_sink = 5, .window = 42}, &pool);
  ASSERT_OK(again);
  EXPECT_NEAR(again->mean.residual_growth, 1, 1e-5);
  EXPECT_NEAR(again->worst.residual_growth, 1, 1e-5);
}

TEST(CodebookJudgeTest, FewerCandidatesThanAHundred) {
  const CodebookSet set = Train(1, 1, 16, "4x4");
  const HeldOut held_out = MakeHeldOut(1, 1, 1, 16, 60, 20);
  ThreadPool pool(1);
  // Positions 40 .. 59 see 40 .. 59 - 49 keys; position 50 is the first with any.
  const JudgeOptions options{.n_sink = 2, .window = 48};
  const auto report = JudgeCodebooks(set, held_out, options, &pool);
  ASSERT_OK(report);
  EXPECT_EQ(report->queries, 10);
  // All candidates are wanted and found.
  EXPECT_EQ(report->mean.recall_at_100, 1.0);
  EXPECT_NEAR(report->mean.mass_at_2pct, PlainJudge(set, held_out, 0, 0, options).mass_at_2pct,
              1e-4);
}

// Keys that are exactly the centroids.
TEST(CodebookJudgeTest, PerfectCodebookFindsEverything) {
  const PqShape shape{.dim = 4, .subspaces = 2, .bits = 8};
  const std::vector<float> rows = NormalRows(256, 4, 3);
  std::vector<float> centroids;
  for (int m = 0; m < 2; ++m) {
    for (int j = 0; j < 256; ++j) {
      centroids.insert(centroids.end(), {rows[j * 4 + 2 * m], rows[j * 4 + 2 * m + 1]});
    }
  }
  CodebookSet set;
  set.layers = set.kv_heads = 1;
  set.heads.push_back(HeadCodebook::Create({.shape = shape, .centroids = centroids}).value());
  HeldOut held_out = MakeHeldOut(1, 1, 2, 4, 256, 5);
  held_out.layers[0].keys = rows;
  ThreadPool pool(1);
  const auto report = JudgeCodebooks(set, held_out, {.n_sink = 1, .window = 8}, &pool);
  ASSERT_OK(report);
  EXPECT_EQ(report->worst.recall_at_100, 1.0);
  EXPECT_NEAR(report->worst.mass_at_2pct, 1.0, 1e-6);
  EXPECT_NEAR(report->worst.relative_mse, 0.0, 1e-9);
}

TEST(CodebookJudgeTest, QueryRotationBeatsNone) {
  constexpr int kDim = 32;
  const KeySamples samples = testing::AnisotropicSamples(1, 1, kDim, 3000);
  HeldOut held_out = MakeHeldOut(1, 1, 2, kDim, 2000, 50);
  held_out.layers[0] = {testing::AnisotropicRows(2000, kDim, 0.93f, 0, 71),
                        testing::AnisotropicRows(100, kDim, 0.9f, 2, 72)};
  ThreadPool pool(1);
  JudgeReport reports[2];
  for (int i = 0; i < 2; ++i) {
    TrainOptions options;
    options.shape = {.dim = kDim, .subspaces = 8, .bits = 8};
    options.rotation = i == 0 ? Rotation::kNone : Rotation::kQuery;
    const CodebookSet set = TrainCodebooks(samples, options, &pool).value();
    reports[i] = JudgeCodebooks(set, held_out, {}, &pool).value();
  }
  EXPECT_GT(reports[1].mean.recall_at_100, reports[0].mean.recall_at_100 + 0.05);
  EXPECT_GT(reports[1].mean.mass_at_2pct, reports[0].mean.mass_at_2pct);
}

TEST(CodebookJudgeTest, ThreadsAndJson) {
  const CodebookSet set = Train(2, 2, 16, "4x4");
  const HeldOut held_out = MakeHeldOut(2, 2, 1, 16, 500, 4);
  ThreadPool one(1);
  ThreadPool three(3);
  const auto report = JudgeCodebooks(set, held_out, {}, &one);
  ASSERT_OK(report);
  const Json json = report->ToJson();
  EXPECT_EQ(json.Dump(), JudgeCodebooks(set, held_out, {}, &three).value().ToJson().Dump());
  EXPECT_EQ(json.GetInt("tokens").value(), 500);
  EXPECT_EQ(json.GetInt("queries").value(), 4);
  const Json::Array& heads = json.Find("heads")->AsArray();
  ASSERT_EQ(heads.size(), 4u);
  EXPECT_EQ(heads[3].GetInt("layer").value(), 1);
  EXPECT_EQ(heads[2].GetInt("kv_head").value(), 0);
  double smallest = 1, sum = 0;
  for (const Json& head : heads) {
    const double recall = head.GetDouble("recall_at_100").value();
    smallest = std::min(smallest, recall);
    sum += recall;
  }
  EXPECT_EQ(json.Find("worst")->GetDouble("recall_at_100").value(), smallest);
  EXPECT_NEAR(json.Find("mean")->GetDouble("recall_at_100").value(), sum / 4, 1e-12);
}

TEST(CodebookJudgeTest, SizesAreChecked) {
  const CodebookSet set = Train(1, 2, 16, "4x4");
  const HeldOut good = MakeHeldOut(1, 2, 1, 16, 300, 4);
  ThreadPool pool(1);
  const auto judge = [&](const HeldOut& held_out) {
    return JudgeCodebooks(set, held_out, {}, &pool);
  };
  ASSERT_OK(judge(good));
  ExpectError(judge(MakeHeldOut(2, 2, 1, 16, 300, 4)), StatusCode::kInvalidArgument,
              "layer count is 2, expected 1");
  ExpectError(judge(MakeHeldOut(1, 1, 1, 16, 300, 4)), StatusCode::kInvalidArgument,
              "KV head count is 1, expected 2");
  ExpectError(judge(MakeHeldOut(1, 2, 1, 8, 300, 4)), StatusCode::kInvalidArgument,
              "head size is 8, expected 16");
  ExpectError(judge(MakeHeldOut(1, 2, 1, 16, 200, 4)), StatusCode::kInvalidArgument,
              "more than 16 sinks and a window of 256");
  HeldOut bad = good;
  bad.layers[0].keys.pop_back();
  ExpectError(judge(bad), StatusCode::kInvalidArgument, "number count of the keys");
  bad = good;
  bad.query_positions.pop_back();
  ExpectError(judge(bad), StatusCode::kInvalidArgument, "number count of the queries");
  bad = good;
  bad.query_positions[0] = 300;
  ExpectError(judge(bad), StatusCode::kInvalidArgument, "position is 300, expected one of 0 to");
  bad = good;
  bad.layers[0].keys[16 * 2 * 7 + 16] = NAN;
  ExpectError(judge(bad), StatusCode::kInvalidArgument, "layer 0 head 1: held-out keys");
}

}  // namespace
}  // namespace pqcache::train
