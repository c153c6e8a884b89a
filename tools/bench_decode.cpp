#include "tools/bench_decode.h"

#include <algorithm>
#include <cstdio>
#include <vector>

#include "attention/decoder/self_text.h"
#include "attention/decoder/session.h"
#include "storage/stores.h"
#include "tools/medians.h"
#include "tools/scratch_folder.h"
#include "tools/stopwatch.h"

namespace pqcache::tools {
namespace {

// One place for the pages, a session over it, and its times.
struct Side {
  std::unique_ptr<PageStore> store;
  std::unique_ptr<attention::Session> session;
  std::vector<double> ms;  // of a step, by round
  uint64_t disk_bytes = 0;
};

class DecodeBench {
 public:
  DecodeBench(const attention::Decoder& decoder, const DecodeBenchOptions& options)
      : decoder_(decoder), o_(options) {}

  Status Run() {
    PQCACHE_RETURN_IF_ERROR(MakeTokens());
    PQCACHE_ASSIGN_OR_RETURN(scratch_, ScratchFolder::Make(o_.folder));
    const std::string quarter = "memory:limit=" + std::to_string(KvBytes() / 4) +
                                "+rocksdb:path=" + scratch_->path() + "/store";
    PQCACHE_RETURN_IF_ERROR(Start("memory", &sides_[0]));
    PQCACHE_RETURN_IF_ERROR(Start(quarter, &sides_[1]));
    for (int round = 0; round < o_.rounds; ++round) {
      for (int i = 0; i < 2; ++i) {
        PQCACHE_RETURN_IF_ERROR(Decode(round, &sides_[(i + round) % 2]));
      }
    }
    return Status::Ok();
  }

  void Describe(Json* rows, std::string* text) const {
    static constexpr const char* kStores[2] = {"memory", "1/4 memory + rocksdb"};
    const double all = Median(sides_[0].ms);
    for (int i = 0; i < 2; ++i) {
      const double ms = Median(sides_[i].ms);
      const double read = static_cast<double>(sides_[i].disk_bytes) / (o_.rounds * kDecodeSteps);
      Json row;
      row.Set("name", "decode").Set("store", kStores[i]).Set("ctx", o_.tokens);
      row.Set("threads", decoder_.pool()->threads()).Set("ms", ms);
      row.Set("ratio_to_memory", all / ms).Set("disk_bytes_per_token", read);
      rows->Push(std::move(row));
      char line[160];
      std::snprintf(
          line, sizeof(line),
          "decode         %-20s %7.1f ms a token  %5.2f of the speed in memory, %.1f MB a "
          "token from disk\n",
          kStores[i], ms, all / ms, read / 1e6);
      *text += line;
    }
  }

 private:
  Status MakeTokens() {
    attention::SelfTextOptions sample;
    sample.tokens = o_.tokens + int64_t{o_.rounds} * kDecodeSteps;
    sample.seed = o_.seed;
    PQCACHE_ASSIGN_OR_RETURN(const auto sequences, attention::SampleSelfText(decoder_, sample));
    for (const auto& part : sequences) tokens_.insert(tokens_.end(), part.begin(), part.end());
    return Status::Ok();
  }

  // Exact keys and values of the context.
  uint64_t KvBytes() const {
    const attention::ModelSpec& spec = decoder_.spec();
    const auto numbers = static_cast<uint64_t>(spec.layers * spec.kv_heads * spec.head_dim * 2);
    return static_cast<uint64_t>(o_.tokens) * numbers * DTypeSize(decoder_.compute_dtype());
  }

  Status Start(const std::string& spec, Side* side) {
    PQCACHE_ASSIGN_OR_RETURN(side->store, storage::OpenPageStore(spec));
    attention::SessionStorage kept;
    kept.store = side->store.get();
    kept.codebooks = o_.codebooks;
    kept.page_tokens = o_.page_tokens;
    kept.value_sums = false;
    attention::CacheAttentionOptions attention;
    PQCACHE_ASSIGN_OR_RETURN(attention.policy, CreatePolicy("pq"));
    attention.budget.ratio = o_.ratio;
    PQCACHE_ASSIGN_OR_RETURN(side->session,
                             attention::Session::Create(&decoder_, kept, std::move(attention)));
    std::vector<float> logits;
    const auto context = std::span(tokens_).first(static_cast<size_t>(o_.tokens));
    return side->session->Prefill(context, 0, &logits);
  }

  // The tokens that follow the context, whatever the model would have chosen: alike on both sides.
  Status Decode(int round, Side* side) {
    const uint64_t before = DiskBytes(*side->store);
    const auto first = static_cast<size_t>(o_.tokens + int64_t{round} * kDecodeSteps);
    std::vector<float> logits;
    const Stopwatch watch;
    for (int i = 0; i < kDecodeSteps; ++i) {
      PQCACHE_RETURN_IF_ERROR(
          side->session->Step(tokens_[first + static_cast<size_t>(i)], &logits));
    }
    side->ms.push_back(watch.milliseconds() / kDecodeSteps);
    side->disk_bytes += DiskBytes(*side->store) - before;
    return Status::Ok();
  }

  static uint64_t DiskBytes(const PageStore& store) {
    const PageStoreStats stats = store.stats();
    const auto it = stats.bytes_read.find("rocksdb");
    return it == stats.bytes_read.end() ? 0 : it->second;
  }

  const attention::Decoder& decoder_;
  const DecodeBenchOptions o_;
  std::unique_ptr<ScratchFolder> scratch_;
  std::vector<int64_t> tokens_;
  Side sides_[2];  // all in memory; a quarter
};

}  // namespace

Status BenchDecode(const attention::Decoder& decoder, const DecodeBenchOptions& options, Json* rows,
                   std::string* text) {
  DecodeBench bench(decoder, options);
  PQCACHE_RETURN_IF_ERROR(bench.Run());
  bench.Describe(rows, text);
  return Status::Ok();
}

}  // namespace pqcache::tools
