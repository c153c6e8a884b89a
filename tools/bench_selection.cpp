#include "tools/bench_selection.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <vector>

#include "pqcache/base/random.h"
#include "pqcache/index/best_codes.h"
#include "tools/medians.h"
#include "tools/stopwatch.h"
#include "tools/timed_rows.h"
#include "train/faiss_selection.h"

namespace pqcache::tools {
namespace {

// Tables of whole numbers find the tokens that FAISS' float tables find, but for the last ones: of
// few, that is one.
constexpr double kLeastCommon = 0.9;

using Lists = std::vector<std::vector<int64_t>>;  // [Hq] of k tokens

struct Selector {
  std::string name;
  std::function<Status(int64_t head, const float* queries, std::span<std::vector<int64_t>>)> select;
  std::vector<double> ms;
};

class SelectionBench {
 public:
  SelectionBench(const KvCache& cache, const SelectionBenchOptions& options, ThreadPool* pool)
      : cache_(cache),
        o_(options),
        pool_(pool),
        random_(options.seed),
        flush_(pool->threads()),
        kv_heads_(cache.options().kv_heads),
        group_(options.heads / kv_heads_) {}

  Status Run(Json* rows, std::string* text) {
    AddOwn();
    PQCACHE_RETURN_IF_ERROR(AddFaiss(train::FaissKind::kIndexPq, "select: FAISS IndexPQ"));
    if (index(0).codebook().shape().bits == 4) {
      PQCACHE_RETURN_IF_ERROR(AddFaiss(train::FaissKind::kFastScan, "select: FAISS FastScan"));
    }
    PQCACHE_RETURN_IF_ERROR(CheckAnswers());
    for (int round = -1; round < o_.rounds; ++round) {  // the first one only warms up
      for (Selector& selector : selectors_) {
        Lists lists(static_cast<size_t>(o_.heads));
        const std::vector<float> queries = Queries();
        flush_.Run(pool_);
        const Stopwatch watch;
        PQCACHE_RETURN_IF_ERROR(Select(selector, queries, &lists));
        if (round >= 0) selector.ms.push_back(watch.milliseconds());
      }
    }
    for (const Selector& selector : selectors_) Describe(selector, rows, text);
    return Status::Ok();
  }

 private:
  const PqIndex& index(int64_t h) const { return *cache_.head(0, static_cast<int>(h)).codes(); }

  void AddOwn() {
    const auto own = [this](int64_t h, const float* queries, std::span<std::vector<int64_t>> out) {
      thread_local BestCodes best;
      thread_local Lists lists;
      best.Select(index(h),
                  {.g = group_,
                   .queries = queries,
                   .scale = 1,
                   .begin = 0,
                   .end = index(h).size(),
                   .k = o_.k},
                  &lists);
      std::copy(lists.begin(), lists.end(), out.begin());
      return Status::Ok();
    };
    selectors_.push_back({"select: pqcache", own, {}});
  }

  Status AddFaiss(train::FaissKind kind, const char* name) {
    auto heads = std::make_shared<std::vector<std::unique_ptr<train::FaissSelection>>>();
    for (int64_t h = 0; h < kv_heads_; ++h) {
      PQCACHE_ASSIGN_OR_RETURN(auto head, train::FaissSelection::Create(kind, index(h)));
      heads->push_back(std::move(head));
    }
    const auto faiss = [this, heads](int64_t h, const float* queries,
                                     std::span<std::vector<int64_t>> out) {
      std::vector<int64_t> rows;
      PQCACHE_RETURN_IF_ERROR((*heads)[static_cast<size_t>(h)]->Search(
          group_, queries, std::min(o_.k, index(h).size()), &rows));
      const int64_t found = std::ssize(rows) / group_;
      for (int64_t g = 0; g < group_; ++g) {
        out[static_cast<size_t>(g)].assign(rows.begin() + g * found,
                                           rows.begin() + (g + 1) * found);
      }
      return Status::Ok();
    };
    selectors_.push_back({name, faiss, {}});
    return Status::Ok();
  }

  std::vector<float> Queries() {
    std::vector<float> queries(static_cast<size_t>(o_.heads * cache_.options().page.dim));
    for (float& x : queries) x = random_.Normal();
    return queries;
  }

  Status Select(const Selector& selector, const std::vector<float>& queries, Lists* lists) {
    return pool_->RunChecked(kv_heads_, [&](int64_t h) {
      const auto first = static_cast<size_t>(h * group_);
      return selector.select(
          h, queries.data() + first * static_cast<size_t>(cache_.options().page.dim),
          std::span(*lists).subspan(first, static_cast<size_t>(group_)));
    });
  }

  Status CheckAnswers() {
    const std::vector<float> queries = Queries();
    Lists own(static_cast<size_t>(o_.heads));
    PQCACHE_RETURN_IF_ERROR(Select(selectors_[0], queries, &own));
    for (size_t i = 1; i < selectors_.size(); ++i) {
      Lists other(own.size());
      PQCACHE_RETURN_IF_ERROR(Select(selectors_[i], queries, &other));
      double common = 0, all = 0;
      for (size_t h = 0; h < own.size(); ++h) {
        std::sort(other[h].begin(), other[h].end());
        std::vector<int64_t> both;
        std::set_intersection(own[h].begin(), own[h].end(), other[h].begin(), other[h].end(),
                              std::back_inserter(both));
        common += static_cast<double>(both.size());
        all += static_cast<double>(other[h].size());
      }
      if (common + static_cast<double>(own.size()) < kLeastCommon * all) {
        return Status::Internal("a check of the bench failed: " + selectors_[i].name + " shares " +
                                std::to_string(common / all) +
                                " of its tokens with this project, expected at least " +
                                std::to_string(kLeastCommon));
      }
    }
    return Status::Ok();
  }

  void Describe(const Selector& selector, Json* rows, std::string* text) const {
    const int64_t ctx = cache_.tokens(0);
    const double times = Median(selector.ms) / Median(selectors_[0].ms);
    Json row = TimedRow(selector.name, ctx, pool_->threads(), selector.ms);
    row.Set("k", o_.k).Set("times_own", times);
    rows->Push(std::move(row));
    char line[64];
    std::snprintf(line, sizeof(line), "  %6.2f x as long as own\n", times);
    *text += TimedLine(selector.name, ctx, selector.ms) + line;
  }

  const KvCache& cache_;
  const SelectionBenchOptions o_;
  ThreadPool* const pool_;
  Random random_;
  CacheFlush flush_;
  const int kv_heads_, group_;
  std::vector<Selector> selectors_;
};

}  // namespace

Status BenchSelection(const KvCache& cache, const SelectionBenchOptions& options, ThreadPool* pool,
                      Json* rows, std::string* text) {
  return SelectionBench(cache, options, pool).Run(rows, text);
}

}  // namespace pqcache::tools
