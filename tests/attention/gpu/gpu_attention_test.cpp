#include "attention/gpu/gpu_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <iterator>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "attention/sdpa_reference.h"
#include "pqcache/index/best_codes.h"
#include "pqcache/policy/tail_mode.h"
#include "tests/attention/gpu/gpu_world.h"
#include "tests/support/tolerances.h"

namespace pqcache::attention {
namespace {

using namespace pqcache::testing;

std::unique_ptr<GpuAttention> Attention(const GpuWorld& world, const char* policy,
                                        SelectionBudget budget, bool per_head,
                                        bool estimate_tail = false) {
  GpuAttentionOptions options;
  options.heads = world.heads();
  options.estimate_tail = estimate_tail;
  options.policy = *CreatePolicy(policy);
  options.budget = budget;
  options.per_head = per_head;
  auto made = GpuAttention::Create(std::move(options), world.cache.get());
  PQCACHE_CHECK(made.ok(), made.status().message().c_str());
  return *std::move(made);
}

// Of the last selection.
std::vector<std::vector<int32_t>> Lists(GpuAttention* attention) {
  const auto lists = static_cast<size_t>(attention->lists());
  const auto room = static_cast<size_t>(attention->max_selected());
  const auto counts = ToHost<int32_t>(attention->counts(), lists);
  const auto positions = ToHost<int32_t>(attention->positions(), lists * room);
  std::vector<std::vector<int32_t>> result;
  for (size_t i = 0; i < lists; ++i) {
    const auto first = positions.begin() + static_cast<std::ptrdiff_t>(i * room);
    result.emplace_back(first, first + counts[i]);
  }
  return result;
}

std::vector<std::vector<int32_t>> Select(const GpuWorld& world, GpuAttention* attention) {
  const auto queries = ToDevice(world.queries);
  EXPECT_OK(attention->Select(0, queries.as<float>(), nullptr));
  EXPECT_OK(WaitFor(nullptr));
  return Lists(attention);
}

float Scale(const GpuWorld& world) { return 1 / std::sqrt(static_cast<float>(world.dim())); }

// By the definition of the header: every candidate's rank, in table steps, for the query heads of a
// list.
class SlowSelection {
 public:
  SlowSelection(const GpuWorld& world, int b, int first, int g) : world_(world) {
    const int h = first / world.shape.group;
    const PqShape& shape = world.shape.pq;
    const int k = shape.centroids();
    const size_t table_size = static_cast<size_t>(shape.subspaces) * k;
    std::vector<float> tables(g * table_size);
    const HeadCodebook& codebook = world.set.heads[static_cast<size_t>(h)];
    codebook.BuildTables(g, world.query(b, first), Scale(world), tables.data());
    const int64_t tokens = world.shape.tokens[static_cast<size_t>(b)];
    end_ = std::max<int64_t>(0, tokens - world.shape.window.local_window);
    begin_ = std::min<int64_t>(world.shape.window.n_sink, end_);
    // One step for all queries, as QuantisedTables has for kScanQueries of them.
    std::vector<float> low(static_cast<size_t>(g * shape.subspaces)), base(static_cast<size_t>(g));
    float range = 0;
    for (int i = 0; i < g * shape.subspaces; ++i) {
      const auto entries = tables.begin() + i * k;
      low[i] = *std::min_element(entries, entries + k);
      range = std::max(range, *std::max_element(entries, entries + k) - low[i]);
      base[i / shape.subspaces] += low[i];
    }
    const PositionMean& mean = codebook.position_mean();
    std::vector<float> bounds(static_cast<size_t>(g), 0.0f), of_pages;
    if (!mean.empty()) {
      of_pages.resize(static_cast<size_t>(g * GpuPagesOf(tokens)));
      mean.Score(g, world.query(b, first), 0, GpuPagesOf(tokens), of_pages.data());
      for (int q = 0; q < g; ++q) {
        bounds[q] = Scale(world) * mean.Bound(world.query(b, first + q));
        base[q] -= bounds[q];
        const float room = 32767 - 127.0f * static_cast<float>(shape.subspaces) - 1;
        range = std::max(range, 2 * bounds[q] / room * 127);
      }
    }
    const float step = range / 127;
    const PqIndex index = world.Index(b, h);
    std::vector<uint8_t> codes(static_cast<size_t>(tokens * shape.subspaces));
    index.CopyCodes(0, tokens, codes.data());
    std::vector<std::vector<int>> sums(static_cast<size_t>(g));
    std::vector<double> lse(static_cast<size_t>(g));
    for (int q = 0; q < g; ++q) {
      double total = 0;
      for (int64_t t = begin_; t < end_; ++t) {
        int sum = 0;
        for (int m = 0; m < shape.subspaces; ++m) {
          const int i = q * shape.subspaces + m;
          const float entry = tables[i * k + codes[t * shape.subspaces + m]];
          sum += static_cast<int>((entry - low[i]) * (1.0f / step) + 0.5f);
        }
        if (!mean.empty()) {
          const float score =
              Scale(world) * of_pages[static_cast<size_t>(t / kGpuPageTokens * g + q)];
          sum += static_cast<int>((score + bounds[q]) / step + 0.5f);
        }
        sums[q].push_back(sum);
        total += std::exp(base[q] + double{step} * sum);
      }
      lse[q] = std::log(total);
      base_.push_back(base[q]);
      nats_.push_back(codebook.ScoreNats(world.query(b, first + q), Scale(world)));
    }
    double origin = base[0] - lse[0];
    for (int q = 1; q < g; ++q) origin = std::min(origin, base[q] - lse[q]);
    for (int64_t i = 0; i < end_ - begin_; ++i) {
      double rank = 0;
      for (int q = 0; q < g; ++q) {
        rank = std::max(rank, sums[q][i] + std::rint((base[q] - lse[q] - origin) / step));
      }
      ranks_.push_back(rank);
    }
    step_ = step;
    sums_ = std::move(sums);
  }

  // Of the candidates that the list lacks, by query q's scores and what those lack.
  double UnselectedLse(int q, const std::vector<int32_t>& list) const {
    const std::set<int32_t> chosen(list.begin(), list.end());
    double total = 0;
    for (size_t i = 0; i < ranks_.size(); ++i) {
      if (chosen.contains(static_cast<int32_t>(begin_ + static_cast<int64_t>(i)))) continue;
      total += std::exp(base_[static_cast<size_t>(q)] + step_ * sums_[static_cast<size_t>(q)][i]);
    }
    return std::log(total) + nats_[static_cast<size_t>(q)];
  }

  void ExpectUnselected(int q, const std::vector<int32_t>& list, float found) const {
    const double expected = UnselectedLse(q, list);
    if (std::isinf(expected)) {
      EXPECT_EQ(found, expected);
    } else if (expected < UnselectedLse(q, {}) - 9) {
      // Of hardly any mass the logarithm is that of the rounding of float shares.
      EXPECT_LT(found, UnselectedLse(q, {}) - 8);
    } else {
      EXPECT_NEAR(found, expected, 1e-2 + step_) << "query " << q;
    }
  }

  // Differences of a step come from the rounding of a log-sum-exp in float, or of what a page adds.
  void ExpectBest(const std::vector<int32_t>& list, int64_t k) const {
    ASSERT_EQ(std::ssize(list), k);
    if (k == 0) return;
    std::vector<double> sorted = ranks_;
    std::sort(sorted.rbegin(), sorted.rend());
    const double kth = sorted[static_cast<size_t>(k - 1)];
    const double accepted = world_.shape.means ? 3 : 1;
    std::set<int32_t> chosen(list.begin(), list.end());
    ASSERT_EQ(chosen.size(), list.size());
    ASSERT_TRUE(std::is_sorted(list.begin(), list.end()));
    for (size_t i = 0; i < ranks_.size(); ++i) {
      const int64_t token = begin_ + static_cast<int64_t>(i);
      if (chosen.contains(static_cast<int32_t>(token))) {
        EXPECT_GE(ranks_[i], kth - accepted) << "token " << token;
      } else {
        EXPECT_LE(ranks_[i], kth + accepted) << "token " << token;
      }
    }
  }

 private:
  const GpuWorld& world_;
  int64_t begin_ = 0, end_ = 0;
  std::vector<double> ranks_, base_, nats_;
  double step_ = 0;
  std::vector<std::vector<int>> sums_;
};

struct Case {
  std::string name;
  GpuWorldShape world;
  SelectionBudget budget;
};

class GpuSelection : public ::testing::TestWithParam<Case> {};

TEST_P(GpuSelection, CodesAreThoseOfTheCpu) {
  PQCACHE_NEEDS_GPU();
  const GpuWorld world(GetParam().world);
  const int bytes = world.shape.pq.bytes_per_key();
  const GpuLayer layer = world.cache->layer(0);
  for (int b = 0; b < world.batch(); ++b) {
    const auto pages = ToHost<uint8_t*>(layer.code_pages + b * layer.max_pages,
                                        static_cast<size_t>(layer.max_pages));
    for (int h = 0; h < world.shape.kv_heads; ++h) {
      const PqIndex index = world.Index(b, h);
      std::vector<uint8_t> expected(static_cast<size_t>(index.size() * bytes));
      index.CopyPacked(0, index.size(), expected.data());
      for (int64_t t = 0; t < index.size(); t += kGpuPageTokens) {
        const auto found = ToHost<uint8_t>(pages[t / kGpuPageTokens] + h * kGpuPageTokens * bytes,
                                           static_cast<size_t>(kGpuPageTokens * bytes));
        const int64_t n = std::min<int64_t>(kGpuPageTokens, index.size() - t) * bytes;
        ASSERT_TRUE(std::equal(found.begin(), found.begin() + n, expected.begin() + t * bytes))
            << "sequence " << b << " head " << h << " page " << t / kGpuPageTokens;
      }
    }
  }
}

TEST_P(GpuSelection, ListsOfOneQueryAreThoseOfTheCpu) {
  PQCACHE_NEEDS_GPU();
  const GpuWorld world(GetParam().world);
  const auto attention = Attention(world, "pq", GetParam().budget, true);
  const auto lists = Select(world, attention.get());
  const auto unselected = ToHost<float>(attention->unselected_lse(),
                                        static_cast<size_t>(world.batch() * world.heads()));
  BestCodes best;
  std::vector<std::vector<int64_t>> expected;
  for (int b = 0; b < world.batch(); ++b) {
    const int64_t tokens = world.shape.tokens[static_cast<size_t>(b)];
    const int64_t end = std::max<int64_t>(0, tokens - world.shape.window.local_window);
    const int64_t begin = std::min<int64_t>(world.shape.window.n_sink, end);
    for (int h = 0; h < world.shape.kv_heads; ++h) {
      const PqIndex index = world.Index(b, h);
      best.Select(index,
                  {.g = world.shape.group,
                   .queries = world.query(b, h * world.shape.group),
                   .scale = Scale(world),
                   .begin = begin,
                   .end = end,
                   .k = GetParam().budget.TokensFor(tokens)},
                  &expected);
      for (int g = 0; g < world.shape.group; ++g) {
        const auto row =
            static_cast<size_t>((b * world.shape.kv_heads + h) * world.shape.group + g);
        const auto& list = lists[row];
        SlowSelection(world, b, h * world.shape.group + g, 1)
            .ExpectUnselected(0, list, unselected[row]);
        std::vector<int32_t> want;
        for (const int64_t i : expected[static_cast<size_t>(g)]) {
          want.push_back(static_cast<int32_t>(begin + i));
        }
        if (world.shape.means) {  // products with a mean may round to the next step
          std::vector<int32_t> both;
          std::set_intersection(list.begin(), list.end(), want.begin(), want.end(),
                                std::back_inserter(both));
          EXPECT_EQ(list.size(), want.size());
          EXPECT_GE(both.size() + 3, want.size());
          continue;
        }
        EXPECT_EQ(list, want) << "sequence " << b << " head " << h << " query " << g;
      }
    }
  }
}

TEST_P(GpuSelection, SharedListsHoldTheBestShares) {
  PQCACHE_NEEDS_GPU();
  const GpuWorld world(GetParam().world);
  const auto attention = Attention(world, "pq", GetParam().budget, false);
  for (int round = 0; round < 2; ++round) {  // a second time with the workspace as it is left
    const auto lists = Select(world, attention.get());
    const auto unselected = ToHost<float>(attention->unselected_lse(),
                                          static_cast<size_t>(world.batch() * world.heads()));
    for (int b = 0; b < world.batch(); ++b) {
      const int64_t tokens = world.shape.tokens[static_cast<size_t>(b)];
      const int64_t k =
          std::min<int64_t>(GetParam().budget.TokensFor(tokens),
                            std::max<int64_t>(0, tokens - world.shape.window.local_window -
                                                     world.shape.window.n_sink));
      for (int h = 0; h < world.shape.kv_heads; ++h) {
        SCOPED_TRACE("sequence " + std::to_string(b) + " head " + std::to_string(h));
        const SlowSelection slow(world, b, h * world.shape.group, world.shape.group);
        const auto& list = lists[static_cast<size_t>(b * world.shape.kv_heads + h)];
        slow.ExpectBest(list, k);
        for (int g = 0; g < world.shape.group; ++g) {
          const auto row =
              static_cast<size_t>((b * world.shape.kv_heads + h) * world.shape.group + g);
          slow.ExpectUnselected(g, list, unselected[row]);
        }
      }
    }
  }
}

// Rows of the list, sinks and window by double precision.
TEST_P(GpuSelection, OutputsAreThoseOfTheSelectedRows) {
  PQCACHE_NEEDS_GPU();
  const GpuWorld world(GetParam().world);
  const auto queries = ToDevice(world.queries);
  for (const bool per_head : {false, true}) {
    for (const char* policy : {"pq", "exact"}) {
      const std::string name(policy);
      const auto attention = Attention(world, policy, GetParam().budget, per_head);
      const GpuBuffer out = ToDevice(std::vector<float>(world.queries.size(), NAN));
      EXPECT_OK(attention->Attend(0, queries.as<float>(), out.as<float>(), nullptr));
      EXPECT_OK(WaitFor(nullptr));
      const auto found = ToHost<float>(out.data(), world.queries.size());
      const auto lists =
          name == "pq" ? Select(world, attention.get()) : std::vector<std::vector<int32_t>>();
      for (int b = 0; b < world.batch(); ++b) {
        const int64_t tokens = world.shape.tokens[static_cast<size_t>(b)];
        for (int q = 0; q < world.heads(); ++q) {
          const int h = q / world.shape.group;
          std::vector<float> keys, values;
          std::vector<bool> keep(static_cast<size_t>(tokens), name == "exact");
          for (int64_t t = 0; t < tokens; ++t) {
            keys.insert(keys.end(), world.key(b, t, h), world.key(b, t, h) + world.dim());
            values.insert(values.end(), world.value(b, t, h), world.value(b, t, h) + world.dim());
            if (t < world.shape.window.n_sink || t >= tokens - world.shape.window.local_window) {
              keep[static_cast<size_t>(t)] = true;
            }
          }
          if (name == "pq") {
            const int list = per_head ? b * world.heads() + q : b * world.shape.kv_heads + h;
            for (const int32_t t : lists[static_cast<size_t>(list)])
              keep[static_cast<size_t>(t)] = true;
          }
          const SdpaShape shape{1, tokens, 1, 1, world.dim()};
          const auto truth =
              SdpaReference(shape, world.query(b, q), keys.data(), values.data(), keep);
          double magnitude = 0;
          for (const double x : truth.out) magnitude = std::max(magnitude, std::fabs(x));
          for (int d = 0; d < world.dim(); ++d) {
            ASSERT_NEAR(
                found[static_cast<size_t>((int64_t{b} * world.heads() + q) * world.dim() + d)],
                truth.out[static_cast<size_t>(d)], Tolerance(DType::kF16, magnitude))
                << name << (per_head ? " per head" : " shared") << " sequence " << b << " query "
                << q << " dimension " << d;
          }
        }
      }
    }
  }
}

std::vector<Case> Cases() {
  return {
      {"one_short", {.pq = {128, 16, 8}, .tokens = {300}}, {.tokens = 7}},
      {"few_candidates", {.pq = {128, 32, 4}, .tokens = {5000}}, {.ratio = 0.05}},
      {"many", {.pq = {128, 32, 4}, .tokens = {20011}}, {.ratio = 0.02}},
      {"many_8_bits", {.pq = {128, 16, 8}, .tokens = {20011}}, {.ratio = 0.02}},
      {"batch",
       {.pq = {128, 16, 8}, .kv_heads = 1, .tokens = {12000, 290, 9000}, .shared_tokens = 128},
       {.tokens = 100}},
      {"dim_64", {.pq = {64, 16, 4}, .group = 2, .tokens = {11000}}, {.ratio = 0.02}},
      {"dim_64_8_bits", {.pq = {64, 8, 8}, .group = 1, .tokens = {11000}}, {.tokens = 256}},
      {"group_7",
       {.pq = {128, 32, 4}, .kv_heads = 1, .group = 7, .tokens = {10000}},
       {.tokens = 500}},
      {"group_8",
       {.pq = {128, 16, 8}, .kv_heads = 1, .group = 8, .tokens = {10000}},
       {.tokens = 500}},
      {"wide_codes", {.pq = {128, 32, 8}, .kv_heads = 1, .tokens = {9000}}, {.tokens = 500}},
      {"not_turned", {.pq = {128, 32, 4}, .tokens = {9000}, .rotated = false}, {.tokens = 300}},
      {"equal_keys", {.pq = {128, 16, 8}, .tokens = {9000}, .equal_keys = true}, {.tokens = 300}},
      {"one_candidate", {.pq = {128, 32, 4}, .tokens = {273}}, {.tokens = 5}},
      {"no_candidates", {.pq = {128, 32, 4}, .tokens = {100}}, {.tokens = 5}},
      {"window_of_one", {.pq = {64, 16, 4}, .tokens = {3000}, .window = {0, 1}}, {.tokens = 50}},
      {"eight_bytes", {.pq = {128, 8, 8}, .group = 5, .tokens = {5000}}, {.tokens = 50}},
      {"more_than_there_are", {.pq = {128, 16, 8}, .tokens = {9000}}, {.tokens = 1000000}},
      {"nothing", {.pq = {128, 16, 8}, .tokens = {9000}}, {}},
      {"means", {.pq = {128, 32, 4}, .tokens = {20011}, .means = true}, {.ratio = 0.02}},
      {"means_8_bits",
       {.pq = {64, 16, 8}, .group = 6, .tokens = {9001}, .rotated = false, .means = true},
       {.tokens = 300}},
      {"means_dim_64",
       {.pq = {64, 16, 4}, .kv_heads = 1, .group = 8, .tokens = {20011}, .means = true},
       {.ratio = 0.02}},
      {"long_means",
       {.pq = {128, 16, 8}, .tokens = {12000}, .means = true, .mean_length = 30},
       {.ratio = 0.02}},
      {"means_batch",
       {.pq = {128, 32, 4},
        .kv_heads = 1,
        .tokens = {12000, 290, 9000},
        .shared_tokens = 128,
        .means = true},
       {.tokens = 100}},
      {"means_few", {.pq = {128, 16, 8}, .tokens = {1500}, .means = true}, {.tokens = 30}},
      {"rows_in_host_memory",
       {.pq = {128, 32, 4}, .tokens = {9000}, .host_begin = 64, .host_end = 8700},
       {.tokens = 300}},
  };
}

INSTANTIATE_TEST_SUITE_P(Shapes, GpuSelection, ::testing::ValuesIn(Cases()),
                         [](const auto& test) { return test.param.name; });

// Where the sample of a scan misleads: the runs of 32 tokens that it takes hold all good keys, or
// one token of it has most of a query's mass.
TEST(GpuSelectionRetry, WhatTheSampleDoesNotShowIsFound) {
  PQCACHE_NEEDS_GPU();
  const GpuWorldShape shape{.pq = {128, 32, 4}, .kv_heads = 2, .tokens = {40000}};
  const int begin = shape.window.n_sink, end = shape.tokens[0] - shape.window.local_window;
  const int first = (begin + 31) / 32, runs = end / 32 - first;
  for (const int planted_runs : {1, 3, 128}) {
    std::vector<int> planted;
    for (int i = 0; i < planted_runs; ++i) {
      const int run = first + i * runs / 128;
      for (int t = run * 32; t < run * 32 + (planted_runs == 1 ? 1 : 32); ++t) planted.push_back(t);
    }
    const GpuWorld world(shape, planted, 4);
    const auto attention = Attention(world, "pq", {.tokens = 6000}, false);
    const auto lists = Select(world, attention.get());
    for (int h = 0; h < shape.kv_heads; ++h) {
      SCOPED_TRACE(std::to_string(planted_runs) + " runs, head " + std::to_string(h));
      SlowSelection(world, 0, h * world.shape.group, world.shape.group)
          .ExpectBest(lists[static_cast<size_t>(h)], 6000);
    }
  }
}

TEST(GpuMissedMass, IsTheEstimatedShareOfWhatIsNotAttended) {
  PQCACHE_NEEDS_GPU();
  const GpuWorld world({.pq = {128, 32, 4}, .kv_heads = 2, .tokens = {10000}});
  const auto queries = ToDevice(world.queries);
  const GpuBuffer out = ToDevice(std::vector<float>(world.queries.size(), NAN));
  const auto attention = Attention(world, "pq", {.tokens = 200}, false);
  for (int i = 0; i < 2; ++i) {
    ASSERT_OK(attention->Attend(0, queries.as<float>(), out.as<float>(), nullptr));
  }
  ASSERT_OK(WaitFor(nullptr));
  const auto heads = static_cast<size_t>(world.heads());
  const auto missed = ToHost<float>(attention->missed_mass(), heads);
  const auto unselected = ToHost<float>(attention->unselected_lse(), heads);
  const auto lists = Select(world, attention.get());
  for (int q = 0; q < world.heads(); ++q) {
    const int h = q / world.shape.group;
    const auto& list = lists[static_cast<size_t>(h)];
    const std::set<int32_t> chosen(list.begin(), list.end());
    double attended = 0;
    for (int64_t t = 0; t < 10000; ++t) {
      const bool always =
          t < world.shape.window.n_sink || t >= 10000 - world.shape.window.local_window;
      if (!always && !chosen.contains(static_cast<int32_t>(t))) continue;
      double logit = 0;
      for (int d = 0; d < world.dim(); ++d) {
        logit += double{world.query(0, q)[d]} * world.key(0, t, h)[d];
      }
      attended += std::exp(logit * Scale(world));
    }
    const double share = 1 / (1 + attended / std::exp(double{unselected[static_cast<size_t>(q)]}));
    EXPECT_NEAR(missed[static_cast<size_t>(q)], 2 * share, 1e-3) << "query " << q;
  }
  ASSERT_OK(attention->ClearMissedMass(nullptr));
  EXPECT_EQ(ToHost<float>(attention->missed_mass(), heads), std::vector<float>(heads, 0));
}

std::vector<float> Attend(const GpuWorld& world, GpuAttention* attention, int layer) {
  const auto queries = ToDevice(world.queries);
  const GpuBuffer out = ToDevice(std::vector<float>(world.queries.size(), NAN));
  EXPECT_OK(attention->Attend(layer, queries.as<float>(), out.as<float>(), nullptr));
  EXPECT_OK(WaitFor(nullptr));
  return ToHost<float>(out.data(), world.queries.size());
}

// Output [D] of attention to the listed tokens alone; zeros where none are.
std::vector<double> AttendListed(const GpuWorld& world, int b, int query,
                                 const std::vector<int32_t>& list) {
  if (list.empty()) return std::vector<double>(static_cast<size_t>(world.dim()), 0.0);
  const int head = query / world.shape.group;
  std::vector<float> keys, values;
  for (const int32_t t : list) {
    keys.insert(keys.end(), world.key(b, t, head), world.key(b, t, head) + world.dim());
    values.insert(values.end(), world.value(b, t, head), world.value(b, t, head) + world.dim());
  }
  const SdpaShape shape{1, std::ssize(list), 1, 1, world.dim()};
  return SdpaReference(shape, world.query(b, query), keys.data(), values.data()).out;
}

// By the shares that are missed without it.
void ExpectTailOfMeanAndChosen(const GpuWorld& world, const std::vector<int32_t>& tokens,
                               bool per_head, SelectionBudget budget = {.tokens = 100}) {
  const auto drop = Attention(world, "pq", budget, per_head);
  const auto estimate = Attention(world, "pq", budget, per_head, true);
  const int layer = world.shape.layers - 1;
  const std::vector<float> dropped = Attend(world, drop.get(), layer);
  const int rows = world.batch() * world.heads();
  const auto missed = ToHost<float>(drop->missed_mass() + layer * rows, static_cast<size_t>(rows));
  const auto lists = Lists(drop.get());
  for (int step = 0; step < 2; ++step) {  // the second finds the sums of the first
    const std::vector<float> found = Attend(world, estimate.get(), layer);
    for (int b = 0; b < world.batch(); ++b) {
      const int64_t begin = world.shape.window.n_sink;
      const int64_t end = tokens[static_cast<size_t>(b)] - world.shape.window.local_window;
      for (int q = 0; q < world.heads(); ++q) {
        const int row = b * world.heads() + q;
        const double share = missed[static_cast<size_t>(row)];
        EXPECT_EQ(share > 0, end - begin > budget.TokensFor(tokens[static_cast<size_t>(b)]))
            << "sequence " << b << " query " << q;
        const auto& list = lists[static_cast<size_t>(per_head ? row : row / world.shape.group)];
        const double like_chosen = list.empty() ? 0 : double{kTailLikeChosen};
        const std::vector<double> chosen = AttendListed(world, b, q, list);
        for (int d = 0; d < world.dim(); ++d) {
          const auto i = static_cast<size_t>(row * world.dim() + d);
          double rest = 0;
          if (share > 0) {
            for (int64_t t = begin; t < end; ++t) {
              rest += world.value(b, t, q / world.shape.group)[d];
            }
            rest *= (1 - like_chosen) / static_cast<double>(end - begin);
            rest += like_chosen * chosen[static_cast<size_t>(d)];
          }
          ASSERT_NEAR(found[i], (1 - share) * dropped[i] + share * rest, 1e-5)
              << "sequence " << b << " query " << q << " dimension " << d;
        }
      }
    }
  }
}

TEST(GpuTailEstimate, JoinsAsTheMeanOfAllCandidatesAndLikeTheChosen) {
  PQCACHE_NEEDS_GPU();
  const GpuWorldShape shape{.pq = {128, 16, 8},
                            .kv_heads = 2,
                            .tokens = {12000, 3000, 290, 100},
                            .shared_tokens = 64,
                            .layers = 2};
  for (const bool per_head : {false, true}) {
    SCOPED_TRACE(per_head ? "per head" : "shared");
    const GpuWorld world(shape);
    ExpectTailOfMeanAndChosen(world, shape.tokens, per_head);
    const std::vector<int32_t> fewer = {5000, 2000, 280, 272};
    ASSERT_OK(world.cache->SetTokens(fewer, nullptr));
    ExpectTailOfMeanAndChosen(world, fewer, per_head);
  }
}

TEST(GpuTailEstimate, IsTheMeanValueWhereNothingIsSelected) {
  PQCACHE_NEEDS_GPU();
  const GpuWorldShape shape{.pq = {128, 16, 8}, .tokens = {400, 2500}};
  for (const bool per_head : {false, true}) {
    ExpectTailOfMeanAndChosen(GpuWorld(shape), shape.tokens, per_head, {.ratio = 0.002});
  }
}

TEST(GpuTailEstimate, HeadSizeOf64) {
  PQCACHE_NEEDS_GPU();
  const GpuWorldShape shape{
      .pq = {64, 16, 4}, .group = 8, .tokens = {3001}, .host_begin = 64, .host_end = 2000};
  ExpectTailOfMeanAndChosen(GpuWorld(shape), shape.tokens, false);
}

// A graph that is recorded once appends and attends at every later length: rows, codes and outputs
// are those of a world that had all tokens from the beginning.
class GpuAttentionGraph : public ::testing::TestWithParam<bool> {};

TEST_P(GpuAttentionGraph, GrowsWithTheSequence) {
  PQCACHE_NEEDS_GPU();
  constexpr int kBefore = 9000, kMore = 60;
  const GpuWorldShape whole{.pq = {128, 16, 8},
                            .kv_heads = 1,
                            .tokens = {kBefore + kMore},
                            .means = GetParam(),
                            .window = {16, 32}};
  const GpuWorld truth(whole);
  const auto row = static_cast<int64_t>(truth.dim());
  GpuWorld world(whole);
  const GpuLayer layer = world.cache->layer(0);
  const auto pages = static_cast<size_t>(layer.max_pages);
  const auto code_pages = ToHost<uint8_t*>(layer.code_pages, pages);
  const auto row_pages = ToHost<char*>(layer.row_pages, pages);
  // What the graph has to write is wiped out.
  for (size_t page = kBefore / kGpuPageTokens; page < pages; ++page) {
    const size_t kept = page == kBefore / kGpuPageTokens ? kBefore % kGpuPageTokens : 0;
    const size_t gone = kGpuPageTokens - kept;
    ASSERT_OK(FillBytes(code_pages[page] + kept * 16, 0xff, gone * 16, nullptr));
    ASSERT_OK(FillBytes(row_pages[page] + kept * 512, 0xff, gone * 512, nullptr));
  }
  ASSERT_OK(world.cache->SetTokens(std::vector<int32_t>{kBefore}, nullptr));
  const auto attention = Attention(world, "pq", {.ratio = 0.02}, false, true);
  const auto queries = ToDevice(world.queries);
  auto keys = ToDevice(std::vector<float>(static_cast<size_t>(row), 0));
  auto values = ToDevice(std::vector<float>(static_cast<size_t>(row), 0));
  const GpuBuffer out = ToDevice(std::vector<float>(world.queries.size(), NAN));
  ASSERT_OK(WaitFor(nullptr));
  const auto stream = *OwnedStream::Create();
  const auto graph = GpuGraph::Record(stream.get(), [&]() -> Status {
    PQCACHE_RETURN_IF_ERROR(AdvanceTokens(world.cache->tokens(), 1, 1, stream.get()));
    return attention->Step(0, queries.as<float>(), keys.as<float>(), values.as<float>(),
                           out.as<float>(), stream.get());
  });
  ASSERT_OK(graph.status());
  const size_t bytes = static_cast<size_t>(row) * sizeof(float);
  for (int t = kBefore; t < kBefore + kMore; ++t) {
    ASSERT_OK(CopyBytes(keys.data(), truth.key(0, t, 0), bytes, stream.get()));
    ASSERT_OK(CopyBytes(values.data(), truth.value(0, t, 0), bytes, stream.get()));
    ASSERT_OK(graph->Launch(stream.get()));
    ASSERT_OK(WaitFor(stream.get()));
    EXPECT_EQ(ToHost<int32_t>(attention->counts(), 1)[0], std::llround(0.02 * (t + 1)));
  }
  EXPECT_EQ(ToHost<int32_t>(world.cache->tokens(), 1)[0], kBefore + kMore);
  const auto found = ToHost<float>(out.data(), world.queries.size());
  const auto other = Attention(truth, "pq", {.ratio = 0.02}, false, true);
  const GpuBuffer expected = ToDevice(std::vector<float>(world.queries.size(), NAN));
  ASSERT_OK(other->Attend(0, queries.as<float>(), expected.as<float>(), nullptr));
  ASSERT_OK(WaitFor(nullptr));
  EXPECT_EQ(found, ToHost<float>(expected.data(), world.queries.size()));
  const auto true_codes = ToHost<uint8_t*>(truth.cache->layer(0).code_pages, pages);
  for (int t = kBefore; t < kBefore + kMore; ++t) {
    const size_t at = static_cast<size_t>(t % kGpuPageTokens) * 16;
    EXPECT_EQ(ToHost<uint8_t>(code_pages[static_cast<size_t>(t / kGpuPageTokens)] + at, 16),
              ToHost<uint8_t>(true_codes[static_cast<size_t>(t / kGpuPageTokens)] + at, 16))
        << "token " << t;
  }
}

INSTANTIATE_TEST_SUITE_P(PositionMeans, GpuAttentionGraph, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "with" : "without"; });

// Each layer has pages, codebooks and counts of its own; those that attend to everything need other
// workspaces. Under per_head they have fewer lists than the sparse layers, in the same memory.
TEST(GpuAttentionLayers, DenseAndSparseLayersShareNothing) {
  PQCACHE_NEEDS_GPU();
  for (const bool per_head_with_tail : {false, true}) {
    const GpuWorld world(
        {.pq = {128, 32, 4}, .kv_heads = 8, .tokens = {300, 300, 300}, .layers = 3});
    const auto queries = ToDevice(world.queries);
    const GpuBuffer out = ToDevice(std::vector<float>(world.queries.size(), NAN));
    GpuAttentionOptions options;
    options.heads = world.heads();
    options.policy = *CreatePolicy("pq");
    options.budget = {.tokens = 10};
    options.dense_layers = 1;
    options.per_head = options.estimate_tail = per_head_with_tail;
    const auto mixed = *GpuAttention::Create(options, world.cache.get());
    const auto exact = Attention(world, "exact", {}, false);
    std::vector<std::vector<float>> outs;
    for (const int l : {0, 1, 2, 0, 1, 2}) {
      ASSERT_OK(mixed->Attend(l, queries.as<float>(), out.as<float>(), nullptr));
      ASSERT_OK(WaitFor(nullptr));
      outs.push_back(ToHost<float>(out.data(), world.queries.size()));
    }
    ASSERT_OK(exact->Attend(2, queries.as<float>(), out.as<float>(), nullptr));
    ASSERT_OK(WaitFor(nullptr));
    EXPECT_EQ(outs[0], ToHost<float>(out.data(), world.queries.size()));
    EXPECT_NE(outs[1], outs[0]);
    EXPECT_NE(outs[2], outs[1]);  // other codebooks, so other tokens
    for (size_t l = 0; l < 3; ++l) EXPECT_EQ(outs[l], outs[l + 3]) << "layer " << l;
    const auto rows = static_cast<size_t>(world.batch() * world.heads());
    const auto missed = ToHost<float>(mixed->missed_mass(), 3 * rows);
    for (size_t q = 0; q < rows; ++q) {
      EXPECT_EQ(missed[q], 0);
      EXPECT_GT(missed[rows + q], 0);
      EXPECT_GT(missed[2 * rows + q], 0);
    }
  }
}

TEST(GpuAttentionErrors, NameWhatThereIsNoKernelFor) {
  PQCACHE_NEEDS_GPU();
  const GpuWorld world({.pq = {128, 16, 8}, .tokens = {300}});
  GpuAttentionOptions options;
  options.heads = world.heads();
  options.policy = *CreatePolicy("flat");
  options.budget = {.tokens = 5};
  EXPECT_NE(GpuAttention::Create(options, world.cache.get()).status().message().find("exact, pq"),
            std::string::npos);
  options.policy = *CreatePolicy("exact");
  options.estimate_tail = true;
  EXPECT_NE(
      GpuAttention::Create(options, world.cache.get()).status().message().find("tail estimate"),
      std::string::npos);
  options.estimate_tail = false;
  options.policy = *CreatePolicy("pq");
  options.budget = {.mass = 0.9};
  EXPECT_EQ(GpuAttention::Create(options, world.cache.get()).status().code(),
            StatusCode::kUnsupported);
  options.heads = 18;
  EXPECT_NE(GpuAttention::Create(options, world.cache.get()).status().message().find("1 to 8"),
            std::string::npos);
}

}  // namespace
}  // namespace pqcache::attention
