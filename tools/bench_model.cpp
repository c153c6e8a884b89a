#include "tools/bench_model.h"

#include <algorithm>
#include <cstdio>
#include <utility>
#include <vector>

#include "attention/decoder/session.h"
#include "attention/gemm.h"
#include "attention/prefill_attention.h"
#include "attention/sliding_window.h"
#include "attention/torch/linear.h"
#include "pqcache/base/random.h"
#include "storage/memory_page_store.h"
#include "tools/medians.h"
#include "tools/stopwatch.h"

namespace pqcache::tools {
namespace {

using attention::AttentionBackend;
using attention::AttentionInput;
using attention::kPrefillBlockKeys;
using attention::kPrefillTileTokens;
using attention::Session;

class TimedAttention : public AttentionBackend {
 public:
  explicit TimedAttention(AttentionBackend* inner) : inner_(inner) {}
  Status Attend(const AttentionInput& input, float* out) override {
    const Stopwatch watch;
    Status status = inner_->Attend(input, out);
    ms_ += watch.milliseconds();
    return status;
  }
  // Since the last call.
  double TakeMs() { return std::exchange(ms_, 0.0); }

 private:
  AttentionBackend* inner_;
  double ms_ = 0;
};

// A policy over the context, and its times of a token.
struct Side {
  std::string name;
  std::unique_ptr<Session> session;
  std::unique_ptr<TimedAttention> attention;
  std::vector<double> ms, attention_ms;
};

class ModelBench {
 public:
  ModelBench(const attention::Decoder& decoder, const ModelBenchOptions& options)
      : decoder_(decoder), o_(options), random_(options.seed) {}

  Status Run(Json* rows, std::string* text) {
    PQCACHE_RETURN_IF_ERROR(Prefill());
    PQCACHE_RETURN_IF_ERROR(TimeProducts());
    for (int round = -1; round < o_.rounds; ++round) {  // the first one only warms up
      for (Side& side : sides_) PQCACHE_RETURN_IF_ERROR(Decode(round, &side));
    }
    Describe(rows, text);
    return Status::Ok();
  }

 private:
  int64_t RandomToken() {
    return static_cast<int64_t>(random_.Below(static_cast<uint64_t>(decoder_.spec().vocab)));
  }

  // The exact side computes the context, the other one continues it.
  Status Prefill() {
    attention::SessionStorage kept;
    kept.store = &store_;
    kept.codebooks = o_.codebooks;
    kept.page_tokens = o_.page_tokens;
    kept.value_sums = false;
    Side& exact = sides_[0];
    exact.name = "exact";
    PQCACHE_ASSIGN_OR_RETURN(exact.session,
                             Session::Create(&decoder_, kept, attention::ExactAttention()));
    Watch(&exact);
    std::vector<int64_t> tokens(static_cast<size_t>(o_.tokens));
    for (int64_t& token : tokens) token = RandomToken();
    std::vector<float> logits;
    const Stopwatch watch;
    PQCACHE_RETURN_IF_ERROR(exact.session->Prefill(tokens, 0, &logits));
    prefill_ms_ = watch.milliseconds();
    prefill_attention_ms_ = exact.attention->TakeMs();
    attention::CacheAttentionOptions pq;
    PQCACHE_ASSIGN_OR_RETURN(pq.policy, CreatePolicy("pq"));
    pq.budget.ratio = o_.ratio;
    sides_[1].name = "pq";
    PQCACHE_ASSIGN_OR_RETURN(sides_[1].session, exact.session->Fork(std::move(pq)));
    Watch(&sides_[1]);
    return Status::Ok();
  }

  static void Watch(Side* side) {
    side->attention = std::make_unique<TimedAttention>(side->session->attention());
    side->session->set_wrapper(side->attention.get());
  }

  Status Decode(int round, Side* side) {
    std::vector<float> logits;
    const Stopwatch watch;
    for (int i = 0; i < kModelBenchSteps; ++i) {
      PQCACHE_RETURN_IF_ERROR(side->session->Step(RandomToken(), &logits));
    }
    const double ms = watch.milliseconds(), attention_ms = side->attention->TakeMs();
    if (round < 0) return Status::Ok();
    side->ms.push_back(ms / kModelBenchSteps);
    side->attention_ms.push_back(attention_ms / kModelBenchSteps);
    return Status::Ok();
  }

  // The products of the prefill, of the same shapes and spread in the same way, and nothing else.
  Status TimeProducts() {
    const attention::ModelSpec& spec = decoder_.spec();
    const int64_t queries = int64_t{spec.heads} * spec.head_dim;
    const int64_t qkv = queries + 2 * int64_t{spec.kv_heads} * spec.head_dim;
    PQCACHE_RETURN_IF_ERROR(TimeLinear(spec.hidden, qkv));
    PQCACHE_RETURN_IF_ERROR(TimeLinear(queries, spec.hidden));
    if (!spec.names.gate.empty()) {
      PQCACHE_RETURN_IF_ERROR(TimeLinear(spec.hidden, spec.intermediate));
    }
    PQCACHE_RETURN_IF_ERROR(TimeLinear(spec.hidden, spec.intermediate));
    PQCACHE_RETURN_IF_ERROR(TimeLinear(spec.intermediate, spec.hidden));
    TimeAttentionProducts();
    linear_ms_ *= static_cast<double>(spec.layers);
    attention_products_ms_ *= static_cast<double>(spec.layers);
    return Status::Ok();
  }

  std::vector<float> Normals(int64_t n) {
    std::vector<float> x(static_cast<size_t>(n));
    for (float& value : x) value = random_.Normal();
    return x;
  }

  Status TimeLinear(int64_t in, int64_t out) {
    PQCACHE_ASSIGN_OR_RETURN(
        const auto linear,
        attention::Linear::Create(Normals(in * out), {}, in, out, decoder_.compute_dtype()));
    const std::vector<float> x = Normals(Session::kChunkTokens * in);
    std::vector<float> y(static_cast<size_t>(Session::kChunkTokens * out));
    const Stopwatch watch;
    for (int64_t begin = 0; begin < o_.tokens; begin += Session::kChunkTokens) {
      const int64_t n = std::min(Session::kChunkTokens, o_.tokens - begin);
      PQCACHE_RETURN_IF_ERROR(linear.Apply(n, x.data(), y.data(), decoder_.pool()));
    }
    linear_ms_ += watch.milliseconds();
    return Status::Ok();
  }

  // Every tile of queries by every block of keys that one of them sees.
  void TimeAttentionProducts() {
    const attention::ModelSpec& spec = decoder_.spec();
    const int64_t dim = spec.head_dim, most_rows = spec.group() * kPrefillTileTokens;
    const std::vector<float> queries = Normals(most_rows * dim),
                             keys = Normals(kPrefillBlockKeys * dim);
    const int64_t tiles = (o_.tokens + kPrefillTileTokens - 1) / kPrefillTileTokens;
    const Stopwatch watch;
    decoder_.pool()->Run(spec.kv_heads * tiles, [&](int64_t task) {
      thread_local std::vector<float> logits, out;
      const int64_t first = task / spec.kv_heads * kPrefillTileTokens;
      const int64_t end = std::min(o_.tokens, first + kPrefillTileTokens);
      const int64_t rows = spec.group() * (end - first);
      logits.resize(static_cast<size_t>(most_rows * kPrefillBlockKeys));
      out.assign(static_cast<size_t>(rows * dim), 0.0f);
      const int64_t seen = attention::FirstVisible(first, spec.sliding_window);
      for (int64_t begin = seen / kPrefillBlockKeys * kPrefillBlockKeys; begin < end;
           begin += kPrefillBlockKeys) {
        const int64_t count = std::min(kPrefillBlockKeys, o_.tokens - begin);
        attention::GemmTransposedB(rows, count, dim, 1, queries.data(), dim, keys.data(), dim,
                                   logits.data(), kPrefillBlockKeys);
        attention::GemmAdd(rows, dim, count, logits.data(), kPrefillBlockKeys, keys.data(), dim,
                           out.data(), dim);
      }
    });
    attention_products_ms_ = watch.milliseconds();
  }

  void Describe(Json* rows, std::string* text) const {
    const double products = linear_ms_ + attention_products_ms_;
    const int threads = decoder_.pool()->threads();
    Json prefill;
    prefill.Set("name", "prefill").Set("ctx", o_.tokens).Set("threads", threads);
    prefill.Set("ms", prefill_ms_).Set("attention_ms", prefill_attention_ms_);
    prefill.Set("products_ms", products).Set("attention_products_ms", attention_products_ms_);
    prefill.Set("ratio_to_products", prefill_ms_ / products);
    rows->Push(std::move(prefill));
    char line[200];
    std::snprintf(line, sizeof(line),
                  "prefill  %lld tokens %9.0f ms (attention %.0f)  products alone %.0f ms "
                  "(attention's %.0f): %.2f times as long\n",
                  static_cast<long long>(o_.tokens), prefill_ms_, prefill_attention_ms_, products,
                  attention_products_ms_, prefill_ms_ / products);
    *text += line;
    const double exact = Median(sides_[0].attention_ms);
    for (const Side& side : sides_) {
      const double ms = Median(side.ms), attention_ms = Median(side.attention_ms);
      Json row;
      row.Set("name", "decode").Set("policy", side.name).Set("ctx", o_.tokens);
      row.Set("threads", threads).Set("ms", ms).Set("tokens_per_second", 1e3 / ms);
      row.Set("attention_ms", attention_ms).Set("attention_ratio_to_exact", exact / attention_ms);
      rows->Push(std::move(row));
      std::snprintf(line, sizeof(line),
                    "decode   %-8s %8.2f ms a token, %6.1f tokens/s  attention %7.2f ms: %5.2f x "
                    "as fast as exact\n",
                    side.name.c_str(), ms, 1e3 / ms, attention_ms, exact / attention_ms);
      *text += line;
    }
  }

  const attention::Decoder& decoder_;
  const ModelBenchOptions o_;
  Random random_;
  storage::MemoryPageStore store_{storage::kNoMemoryLimit};
  Side sides_[2];  // exact, pq
  double prefill_ms_ = 0, prefill_attention_ms_ = 0;
  double linear_ms_ = 0, attention_products_ms_ = 0;
};

}  // namespace

Status BenchModel(const attention::Decoder& decoder, const ModelBenchOptions& options, Json* rows,
                  std::string* text) {
  return ModelBench(decoder, options).Run(rows, text);
}

}  // namespace pqcache::tools
