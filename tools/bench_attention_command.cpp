// pqcache bench attention: a decode step of one layer, exact and approximate, on the CPU or a GPU.

#include <algorithm>
#include <cstdio>

#include "pqcache/base/isa.h"
#include "tools/bench_attention.h"
#include "tools/bench_gpu_attention.h"
#include "tools/commands.h"
#include "tools/model_flags.h"
#include "train/kmeans.h"

namespace pqcache::tools {
namespace {

class BenchAttentionCommand : public Command {
 public:
  void Declare(Flags* flags) override {
    flags->Text("--device", &device_, "cpu or cuda");
    flags->Count("--batch", &batch_, "with --device cuda: sequences of a step");
    flags->Count("-t,--threads", &threads_, "threads (0: one per core)");
    flags->Count("--seed", &seed_, "seed of everything random");
    flags->Texts("--ctx", &contexts_, "tokens of the context (default: 8k,32k,128k)");
    flags->Count("--heads", &heads_, "query heads");
    flags->Count("--kv-heads", &kv_heads_, "KV heads");
    flags->Count("--dim", &dim_, "head size");
    flags->Text("--pq", &pq_, "sub-spaces x bits");
    flags->Number("--attn-ratio", &options_.ratio, "share of the context that a step selects");
    flags->Count("--attn-top-k", &options_.top_k, "a fixed number of tokens, also measured");
    flags->Count("--page-tokens", &page_tokens_, "tokens of a page");
    flags->Switch("--position-mean", &options_.position_mean,
                  "codebooks with position means, as train makes them; without the rows of FAISS, "
                  "which knows none");
    flags->Count("--rounds", &rounds_, "measurements, of which the medians are given");
  }

  Status Prepare() override {
    if (contexts_.empty()) contexts_ = {"8k", "32k", "128k"};
    for (const std::string& text : contexts_) {
      PQCACHE_ASSIGN_OR_RETURN(const int64_t tokens, ParseCount(text, "--ctx"));
      PQCACHE_RETURN_IF_ERROR(CheckRange("--ctx", tokens, 1024, 1 << 24));
      options_.contexts.push_back(tokens);
    }
    std::sort(options_.contexts.begin(), options_.contexts.end());
    if (device_ != "cpu" && device_ != "cuda") {
      return Status::InvalidArgument("--device is '" + device_ + "', expected cpu or cuda");
    }
    const int64_t numbers = batch_ * kv_heads_ * dim_;
    if (device_ == "cuda" && numbers > 1 << 22) {
      return Status::InvalidArgument("a token of all sequences and heads has " +
                                     std::to_string(numbers) + " numbers, expected at most " +
                                     std::to_string(1 << 22));
    }
    if (device_ == "cpu" && batch_ != 1) {
      return Status::InvalidArgument("--batch is " + std::to_string(batch_) +
                                     ", expected 1 without --device cuda");
    }
    PQCACHE_RETURN_IF_ERROR(CheckRange("--batch", batch_, 1, 256));
    PQCACHE_RETURN_IF_ERROR(CheckRange("--threads", threads_, 0, 1024));
    PQCACHE_RETURN_IF_ERROR(CheckRange("--kv-heads", kv_heads_, 1, 128));
    PQCACHE_RETURN_IF_ERROR(CheckRange("--heads", heads_, kv_heads_, 16 * kv_heads_));
    if (heads_ % kv_heads_ != 0) {
      return Status::InvalidArgument("--heads is " + std::to_string(heads_) +
                                     ", expected a multiple of --kv-heads, " +
                                     std::to_string(kv_heads_));
    }
    PQCACHE_RETURN_IF_ERROR(CheckRange("--dim", dim_, 2, 1024));
    PQCACHE_ASSIGN_OR_RETURN(options_.pq, PqShape::Parse(pq_, static_cast<int>(dim_)));
    PQCACHE_RETURN_IF_ERROR(CheckShare("--attn-ratio", options_.ratio));
    PQCACHE_RETURN_IF_ERROR(CheckRange("--attn-top-k", options_.top_k, 1, 1 << 24));
    PQCACHE_RETURN_IF_ERROR(CheckRange("--page-tokens", page_tokens_, 1, kMaxPageTokens));
    return CheckRange("--rounds", rounds_, 1, 1000);
  }

  Result<Report> Run(bool) override { return device_ == "cuda" ? RunGpu() : RunCpu(); }

 private:
  Result<Report> RunGpu() {
    PQCACHE_ASSIGN_OR_RETURN(const attention::GpuInfo gpu, FirstGpu());
    GpuAttentionBenchOptions options;
    options.contexts = options_.contexts;
    options.batch = static_cast<int>(batch_);
    options.heads = static_cast<int>(heads_);
    options.kv_heads = static_cast<int>(kv_heads_);
    options.pq = options_.pq;
    options.ratio = options_.ratio;
    options.rounds = static_cast<int>(rounds_);
    options.seed = static_cast<uint64_t>(seed_);
    options.position_mean = options_.position_mean;
    Report report;
    report.text = gpu.name + ", batch " + std::to_string(batch_) + ", codes " + pq_ + "\n";
    Json machine;
    machine.Set("gpu", gpu.name);
    report.json.Set("machine", std::move(machine));
    Json settings;
    settings.Set("heads", heads_).Set("kv_heads", kv_heads_).Set("dim", dim_).Set("pq", pq_);
    settings.Set("attn_ratio", options.ratio).Set("most_tokens", options.most);
    settings.Set("rounds", rounds_).Set("batch", batch_);
    settings.Set("position_mean", options.position_mean);
    report.json.Set("settings", std::move(settings));
    Json rows = Json::Array();
    PQCACHE_RETURN_IF_ERROR(BenchGpuAttention(options, &rows, &report.text));
    report.json.Set("rows", std::move(rows));
    return report;
  }

  Result<Report> RunCpu() {
    options_.heads = static_cast<int>(heads_);
    options_.kv_heads = static_cast<int>(kv_heads_);
    options_.page_tokens = static_cast<int>(page_tokens_);
    options_.rounds = static_cast<int>(rounds_);
    options_.seed = static_cast<uint64_t>(seed_);
    ThreadPool pool(ThreadsOf(threads_));
    options_.ceilings = MeasureReadCeilings(&pool, 4 * dim_);
    Report report;
    Json machine = DescribeMachine(MeasureCeilings());
    machine.Set("sequential_gb_per_second", options_.ceilings.sequential_gb_per_second);
    machine.Set("random_gb_per_second", options_.ceilings.random_gb_per_second);
    char line[240];
    std::snprintf(
        line, sizeof(line),
        "%s, %d threads, %s: reads %.1f GB/s in order, %.1f GB/s by random rows\ncodes %s, FAISS "
        "%s\n",
        machine.Find("cpu")->AsString().c_str(), pool.threads(),
        std::string(IsaName(ActiveIsa())).c_str(), options_.ceilings.sequential_gb_per_second,
        options_.ceilings.random_gb_per_second, pq_.c_str(), train::FaissVersion().c_str());
    report.text = line;
    report.json.Set("machine", std::move(machine));
    report.json.Set("settings", Settings());
    Json rows = Json::Array();
    PQCACHE_RETURN_IF_ERROR(BenchAttention(options_, &pool, &rows, &report.text));
    report.json.Set("rows", std::move(rows));
    return report;
  }

  Json Settings() const {
    Json settings;
    settings.Set("heads", heads_).Set("kv_heads", kv_heads_).Set("dim", dim_).Set("pq", pq_);
    settings.Set("attn_ratio", options_.ratio).Set("attn_top_k", options_.top_k);
    settings.Set("page_tokens", page_tokens_).Set("rounds", rounds_);
    settings.Set("position_mean", options_.position_mean);
    settings.Set("instruction_set", std::string(IsaName(ActiveIsa())));
    settings.Set("faiss", train::FaissVersion());
    return settings;
  }

  std::vector<std::string> contexts_;
  std::string device_ = "cpu";
  int64_t batch_ = 1, threads_ = 0, seed_ = 0, heads_ = 32, kv_heads_ = 8, dim_ = 128,
          page_tokens_ = 16, rounds_ = 9;
  std::string pq_ = "16x8";
  AttentionBenchOptions options_;
};

}  // namespace

std::unique_ptr<Command> CreateBenchAttentionCommand() {
  return std::make_unique<BenchAttentionCommand>();
}

}  // namespace pqcache::tools
