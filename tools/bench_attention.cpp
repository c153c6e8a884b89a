#include "tools/bench_attention.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>

#include "attention/cache_attention.h"
#include "attention/sdpa_reference.h"
#include "attention/torch/sdpa_torch.h"
#include "pqcache/base/random.h"
#include "pqcache/cache/kv_cache.h"
#include "pqcache/index/quantised_scan.h"
#include "storage/memory_page_store.h"
#include "tools/bench_frequencies.h"
#include "tools/bench_selection.h"
#include "tools/medians.h"
#include "tools/stopwatch.h"
#include "tools/timed_rows.h"

namespace pqcache::tools {
namespace {

using attention::AttentionInput;
using attention::CacheAttention;
using attention::CacheAttentionOptions;

constexpr int64_t kChunk = 1024;          // tokens that are appended at a time
constexpr int64_t kChecked = 5000;        // tokens of the context that answers are checked on
constexpr double kTolerance = 0.01;       // of the largest output; bfloat16 rows
constexpr size_t kNumbers = 1 << 16;      // that rows are drawn from
constexpr double kMostFloatCopies = 3e9;  // bytes of keys and values for libtorch

// A way to attend, and its times at the running context.
struct Method {
  std::string name;
  CacheAttentionOptions options;
  std::unique_ptr<CacheAttention> attention;
  std::vector<double> ms;
};

class AttentionBench {
 public:
  AttentionBench(const AttentionBenchOptions& options, ThreadPool* pool)
      : o_(options), pool_(pool), random_(options.seed), flush_(pool->threads()) {
    for (size_t i = 0; i < kNumbers; ++i) numbers_.push_back(random_.Normal());
  }

  Status Run(Json* rows, std::string* text) {
    PQCACHE_RETURN_IF_ERROR(Open());
    PQCACHE_RETURN_IF_ERROR(Grow(std::min(kChecked, o_.contexts.front())));
    PQCACHE_RETURN_IF_ERROR(CheckAnswers());
    for (const int64_t context : o_.contexts) {
      PQCACHE_RETURN_IF_ERROR(Grow(context));
      for (Method& method : methods_) method.ms.clear();
      for (int round = -1; round < o_.rounds; ++round) {  // the first one only warms up
        for (Method& method : methods_) PQCACHE_RETURN_IF_ERROR(Time(round, &method));
      }
      for (const Method& method : methods_) Describe(method, rows, text);
      PQCACHE_RETURN_IF_ERROR(RunMatmuls(rows, text));
      PQCACHE_RETURN_IF_ERROR(RunIndex(rows, text));
      if (o_.position_mean) continue;
      const SelectionBenchOptions selection{
          o_.heads, std::max<int64_t>(1, methods_[1].options.budget.TokensFor(tokens())), o_.rounds,
          o_.seed};
      PQCACHE_RETURN_IF_ERROR(BenchSelection(*cache_, selection, pool_, rows, text));
    }
    return Status::Ok();
  }

 private:
  int dim() const { return o_.pq.dim; }
  int64_t tokens() const { return cache_->tokens(0); }

  Status Open() {
    KvCacheOptions kept;
    kept.layers = 1;
    kept.kv_heads = o_.kv_heads;
    kept.page = {.layout = PageLayout::kKeyValue,
                 .dtype = DType::kBF16,
                 .dim = dim(),
                 .page_tokens = o_.page_tokens};
    kept.value_sums = false;
    PQCACHE_ASSIGN_OR_RETURN(auto codebooks, RandomCodebooks());
    PQCACHE_ASSIGN_OR_RETURN(cache_, KvCache::Create(kept, std::move(codebooks), &store_, pool_));
    PQCACHE_RETURN_IF_ERROR(Add("exact", "exact", {}, false));
    PQCACHE_RETURN_IF_ERROR(Add("pq shared", "pq", {.ratio = o_.ratio}, false));
    PQCACHE_RETURN_IF_ERROR(Add("pq per head", "pq", {.ratio = o_.ratio}, true));
    return Add("pq shared top-k", "pq", {.tokens = o_.top_k}, false);
  }

  Result<std::shared_ptr<const CodebookSet>> RandomCodebooks() {
    auto set = std::make_shared<CodebookSet>();
    set->rotation = "none";
    set->layers = 1;
    set->kv_heads = o_.kv_heads;
    for (int h = 0; h < o_.kv_heads; ++h) {
      HeadCodebook::Parts parts;
      parts.shape = o_.pq;
      parts.centroids = Normals(static_cast<size_t>(o_.pq.centroids()) * dim());
      if (o_.position_mean) {
        PQCACHE_ASSIGN_OR_RETURN(parts.position_mean,
                                 PositionMean::Create(dim(), Normals(static_cast<size_t>(dim())),
                                                      LlamaFrequencies(dim())));
      }
      PQCACHE_ASSIGN_OR_RETURN(HeadCodebook head, HeadCodebook::Create(std::move(parts)));
      set->heads.push_back(std::move(head));
    }
    return std::shared_ptr<const CodebookSet>(std::move(set));
  }

  Status Add(const char* name, const char* policy, SelectionBudget budget, bool per_head) {
    Method method;
    method.name = name;
    method.options.heads = o_.heads;
    PQCACHE_ASSIGN_OR_RETURN(method.options.policy, CreatePolicy(policy));
    method.options.budget = budget;
    method.options.per_head = per_head;
    PQCACHE_ASSIGN_OR_RETURN(method.attention,
                             CacheAttention::Create(method.options, cache_.get(), pool_));
    method.attention->set_prefill(false);
    methods_.push_back(std::move(method));
    return Status::Ok();
  }

  std::vector<float> Normals(size_t n) {
    std::vector<float> x(n);
    for (float& value : x) value = numbers_[random_.Next() % kNumbers];
    return x;
  }

  Status Grow(int64_t context) {
    while (tokens() < context) {
      const int64_t n = std::min(kChunk, context - tokens());
      const auto size = static_cast<size_t>(n * o_.kv_heads * dim());
      PQCACHE_RETURN_IF_ERROR(cache_->Append(0, n, Normals(size).data(), Normals(size).data()));
    }
    return Status::Ok();
  }

  // One step with a token that is appended by it.
  Result<std::vector<float>> Step(CacheAttention* attention, const std::vector<float>& queries,
                                  double* ms) {
    const auto row = static_cast<size_t>(o_.kv_heads * dim());
    const std::vector<float> keys = Normals(row), values = Normals(row);
    std::vector<float> out(queries.size());
    const int64_t position = tokens();
    const AttentionInput input{0, 1, &position, queries.data(), keys.data(), values.data()};
    flush_.Run(pool_);
    const Stopwatch watch;
    PQCACHE_RETURN_IF_ERROR(attention->Attend(input, out.data()));
    if (ms != nullptr) *ms = watch.milliseconds();
    return out;
  }

  Status Time(int round, Method* method) {
    double ms = 0;
    const auto queries = Normals(static_cast<size_t>(o_.heads * dim()));
    PQCACHE_RETURN_IF_ERROR(Step(method->attention.get(), queries, &ms).status());
    if (round >= 0) method->ms.push_back(ms);
    return Status::Ok();
  }

  Status CheckAnswers() {
    const auto queries = Normals(static_cast<size_t>(o_.heads * dim()));
    PQCACHE_ASSIGN_OR_RETURN(const auto exact, Step(methods_[0].attention.get(), queries, nullptr));
    PQCACHE_ASSIGN_OR_RETURN(const auto truth, Reference(queries));
    PQCACHE_RETURN_IF_ERROR(CheckClose(exact, truth, "exact attention"));
    CacheAttentionOptions all = methods_[1].options;
    all.budget = {.ratio = 1.0};
    PQCACHE_ASSIGN_OR_RETURN(auto everything, CacheAttention::Create(all, cache_.get(), pool_));
    everything->set_prefill(false);
    PQCACHE_ASSIGN_OR_RETURN(const auto selected, Step(everything.get(), queries, nullptr));
    PQCACHE_ASSIGN_OR_RETURN(const auto later, Reference(queries));
    return CheckClose(selected, later, "attention to a selection of everything");
  }

  // Of the rows that the cache holds.
  Result<std::vector<double>> Reference(const std::vector<float>& queries) const {
    const int64_t t = tokens();
    const auto size = static_cast<size_t>(t * dim());
    std::vector<double> out;
    const int group = o_.heads / o_.kv_heads;
    for (int h = 0; h < o_.kv_heads; ++h) {
      std::vector<float> keys(size), values(size);
      PQCACHE_RETURN_IF_ERROR(cache_->ReadRows(0, h, 0, t, keys.data(), values.data()));
      const attention::SdpaShape shape{.n = 1, .t = t, .heads = group, .kv_heads = 1, .dim = dim()};
      const auto head =
          attention::SdpaReference(shape, queries.data() + static_cast<size_t>(h * group * dim()),
                                   keys.data(), values.data());
      out.insert(out.end(), head.out.begin(), head.out.end());
    }
    return out;
  }

  static Status CheckClose(const std::vector<float>& found, const std::vector<double>& expected,
                           const char* what) {
    double largest = 0, off = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      largest = std::max(largest, std::abs(expected[i]));
      off = std::max(off, std::abs(found[i] - expected[i]));
    }
    if (off <= kTolerance * largest) return Status::Ok();
    return Status::Internal(std::string(what) + " is off by " + std::to_string(off / largest) +
                            " of the largest output, expected at most " +
                            std::to_string(kTolerance));
  }

  // Times in milliseconds, with flushed caches.
  Result<std::vector<double>> TimeHeads(const std::function<Status(int64_t head)>& work) {
    std::vector<double> ms;
    for (int round = -1; round < o_.rounds; ++round) {
      flush_.Run(pool_);
      const Stopwatch watch;
      PQCACHE_RETURN_IF_ERROR(pool_->RunChecked(o_.kv_heads, work));
      if (round >= 0) ms.push_back(watch.milliseconds());
    }
    return ms;
  }

  Status RunMatmuls(Json* rows, std::string* text) {
    const int64_t t = tokens();
    const auto size = static_cast<size_t>(t * dim());
    const auto copies = static_cast<double>(size * sizeof(float)) * 2 * o_.kv_heads;
    char line[160];
    if (copies > kMostFloatCopies) {
      std::snprintf(
          line, sizeof(line),
          "%9lld tokens  libtorch matmul f32  not run: float32 keys and values would take "
          "%.1f GB\n",
          static_cast<long long>(t), copies / 1e9);
      *text += line;
      return Status::Ok();
    }
    std::vector<std::vector<float>> keys(static_cast<size_t>(o_.kv_heads)), values(keys.size());
    for (size_t h = 0; h < keys.size(); ++h) {
      keys[h].resize(size);
      values[h].resize(size);
      PQCACHE_RETURN_IF_ERROR(
          cache_->ReadRows(0, static_cast<int>(h), 0, t, keys[h].data(), values[h].data()));
    }
    const int group = o_.heads / o_.kv_heads;
    const auto queries = Normals(static_cast<size_t>(o_.heads * dim()));
    std::vector<float> out(queries.size());
    PQCACHE_ASSIGN_OR_RETURN(const auto ms, TimeHeads([&](int64_t h) {
                               const int64_t first = h * group * dim();
                               return attention::MatmulAttentionTorch(
                                   group, t, dim(), queries.data() + first,
                                   keys[static_cast<size_t>(h)].data(),
                                   values[static_cast<size_t>(h)].data(), out.data() + first);
                             }));
    PQCACHE_ASSIGN_OR_RETURN(const auto truth, Reference(queries));
    PQCACHE_RETURN_IF_ERROR(CheckClose(out, truth, "libtorch's attention"));
    const double ratio = Median(methods_[0].ms) / Median(ms);
    Json row = TimedRow("libtorch matmul f32", t, pool_->threads(), ms);
    rows->Push(std::move(row.Set("ratio_to_exact", ratio)));
    std::snprintf(line, sizeof(line), "  %6.2f x as fast as exact\n", ratio);
    *text += TimedLine("libtorch matmul f32", t, ms) + line;
    return Status::Ok();
  }

  // What a step does with the codebooks: the new token's codes and the tables of its queries.
  Status RunIndex(Json* rows, std::string* text) {
    const int group = o_.heads / o_.kv_heads;
    const auto queries = Normals(static_cast<size_t>(o_.heads * dim()));
    const auto keys = Normals(static_cast<size_t>(o_.kv_heads * dim()));
    const int table_size = o_.pq.subspaces * o_.pq.centroids();
    const auto work = [&](int64_t h) {
      thread_local std::vector<uint8_t> codes;
      thread_local std::vector<float> floats;
      thread_local QuantisedTables made;
      const HeadCodebook& codebook = cache_->head(0, static_cast<int>(h)).codes()->codebook();
      codes.resize(static_cast<size_t>(o_.pq.subspaces));
      codebook.Encode(tokens(), 1, keys.data() + h * dim(), codes.data());
      floats.resize(static_cast<size_t>(group * table_size));
      codebook.BuildTables(group, queries.data() + h * group * dim(), 1, floats.data());
      for (int g = 0; g < group; g += kScanQueries) {
        MakeTables(o_.pq, std::min(kScanQueries, group - g), floats.data() + g * table_size,
                   TableSteps::kOne, {}, &made);
      }
      return Status::Ok();
    };
    PQCACHE_ASSIGN_OR_RETURN(const auto ms, TimeHeads(work));
    rows->Push(TimedRow("encode + tables", tokens(), pool_->threads(), ms));
    *text += TimedLine("encode + tables", tokens(), ms) + "\n";
    return Status::Ok();
  }

  struct StepBytes {
    double sequential = 0;  // codes with sinks and window, or all rows
    double random = 0;      // selected rows
  };

  StepBytes BytesOf(const Method& method) const {
    const double t = static_cast<double>(tokens());
    const double row = 4.0 * dim(), code = o_.pq.bytes_per_key();
    if (method.options.policy->attends_all()) return {o_.kv_heads * t * row, 0};
    const KvCacheOptions& kept = cache_->options();
    const double always = std::min(t, static_cast<double>(kept.n_sink + kept.local_window));
    // Lists of query heads that share rows overlap; no more than all rows are read.
    const double lists = method.options.per_head ? o_.heads / o_.kv_heads : 1;
    const double selected = std::min(
        t - always, lists * static_cast<double>(method.options.budget.TokensFor(tokens())));
    return {o_.kv_heads * (t * code + always * row), o_.kv_heads * selected * row};
  }

  void Describe(const Method& method, Json* rows, std::string* text) const {
    const double ms = Median(method.ms), exact = Median(methods_[0].ms);
    const StepBytes bytes = BytesOf(method);
    const double limit_ms = 1e3 * (bytes.sequential / (1e9 * o_.ceilings.sequential_gb_per_second) +
                                   bytes.random / (1e9 * o_.ceilings.random_gb_per_second));
    const double share = limit_ms / ms;
    Json row = TimedRow(method.name, tokens(), pool_->threads(), method.ms);
    row.Set("ratio_to_exact", exact / ms).Set("share_of_byte_limit", share);
    row.Set("bytes", bytes.sequential + bytes.random);
    rows->Push(std::move(row));
    char line[160];
    std::snprintf(line, sizeof(line),
                  "  %6.2f x as fast as exact  %8.2f MB, %3.0f %% of the byte limit\n", exact / ms,
                  (bytes.sequential + bytes.random) / 1e6, 100 * share);
    *text += TimedLine(method.name, tokens(), method.ms) + line;
  }

  const AttentionBenchOptions o_;
  ThreadPool* const pool_;
  Random random_;
  CacheFlush flush_;
  std::vector<float> numbers_;
  storage::MemoryPageStore store_{storage::kNoMemoryLimit};
  std::unique_ptr<KvCache> cache_;
  std::vector<Method> methods_;  // the first is exact
};

}  // namespace

Status BenchAttention(const AttentionBenchOptions& options, ThreadPool* pool, Json* rows,
                      std::string* text) {
  return AttentionBench(options, pool).Run(rows, text);
}

}  // namespace pqcache::tools
