// pqcache bench store: speed, beside the strongest alternative in the same run and the machine's
// ceilings.

#include <algorithm>
#include <cstdio>

#include "tools/bench_decode.h"
#include "tools/bench_machine.h"
#include "tools/bench_store.h"
#include "tools/commands.h"
#include "tools/model_flags.h"

namespace pqcache::tools {
namespace {

class BenchStoreCommand : public Command {
 public:
  void Declare(Flags* flags) override {
    model_.Declare(flags);
    flags->Text("--codebooks", &codebooks_, "with a model: also measures its decoding");
    flags->Number("--attn-ratio", &ratio_, "share of the context that a decode step selects");
    flags->Text("--folder", &options_.folder, "folder on the disk to measure (default: here)");
    flags->Count("--ctx", &options_.tokens, "tokens of the context");
    flags->Count("--layers", &layers_, "layers");
    flags->Count("--kv-heads", &kv_heads_, "KV heads");
    flags->Count("--dim", &dim_, "head size");
    flags->Count("--page-tokens", &page_tokens_, "tokens of a page");
    flags->Count("--rounds", &rounds_, "measurements, of which the medians are given");
  }

  Status Prepare() override {
    if (model_.model.empty() != codebooks_.empty()) {
      return Status::InvalidArgument("expected --model and --codebooks together, or neither");
    }
    if (!model_.model.empty()) PQCACHE_RETURN_IF_ERROR(model_.Prepare());
    PQCACHE_RETURN_IF_ERROR(CheckShare("--attn-ratio", ratio_));
    PQCACHE_RETURN_IF_ERROR(CheckRange("--ctx", options_.tokens, 1, 1 << 24));
    PQCACHE_RETURN_IF_ERROR(CheckRange("--layers", layers_, 1, 1024));
    PQCACHE_RETURN_IF_ERROR(CheckRange("--kv-heads", kv_heads_, 1, 128));
    PQCACHE_RETURN_IF_ERROR(CheckRange("--dim", dim_, 1, 1024));
    PQCACHE_RETURN_IF_ERROR(CheckRange("--page-tokens", page_tokens_, 1, kMaxPageTokens));
    PQCACHE_RETURN_IF_ERROR(CheckRange("--rounds", rounds_, 1, 1000));
    return Status::Ok();
  }

  Result<Report> Run(bool) override {
    options_.page = {.layout = PageLayout::kKeyValue,
                     .dtype = DType::kBF16,
                     .dim = static_cast<int>(dim_),
                     .page_tokens = static_cast<int>(page_tokens_)};
    options_.layers = static_cast<int>(layers_);
    options_.kv_heads = static_cast<int>(kv_heads_);
    options_.rounds = static_cast<int>(rounds_);
    options_.seed = static_cast<uint64_t>(model_.seed);
    options_.threads = ThreadsOf(model_.threads);
    const MachineCeilings ceilings = MeasureCeilings();
    options_.ceilings = ceilings;
    Report report;
    report.json.Set("machine", DescribeMachine(ceilings));
    char line[128];
    std::snprintf(line, sizeof(line), "%s\ncopying %.1f GB/s, checksums %.1f GB/s on one core\n",
                  report.json.Find("machine")->Find("cpu")->AsString().c_str(),
                  ceilings.copy_gb_per_second, ceilings.checksum_gb_per_second);
    report.text = line;
    Json rows = Json::Array();
    PQCACHE_RETURN_IF_ERROR(BenchStore(options_, &rows, &report.text));
    if (!model_.model.empty()) PQCACHE_RETURN_IF_ERROR(Decode(&rows, &report.text));
    report.json.Set("rows", std::move(rows));
    return report;
  }

 private:
  Status Decode(Json* rows, std::string* text) {
    PQCACHE_ASSIGN_OR_RETURN(const Model model, LoadModel(model_));
    DecodeBenchOptions options;
    options.folder = options_.folder;
    PQCACHE_ASSIGN_OR_RETURN(options.codebooks, LoadCodebooks(codebooks_));
    const int64_t positions = model.decoder->spec().max_positions;
    options.tokens = std::min(options_.tokens, positions - rounds_ * kDecodeSteps);
    if (options.tokens < 1) {
      return Status::InvalidArgument(
          "--rounds is " + std::to_string(rounds_) + ", expected fewer: the model has " +
          std::to_string(positions) + " positions, a round takes " + std::to_string(kDecodeSteps));
    }
    options.page_tokens = options_.page.page_tokens;
    options.ratio = ratio_;
    options.rounds = options_.rounds;
    options.seed = options_.seed;
    return BenchDecode(*model.decoder, options, rows, text);
  }

  ModelFlags model_;
  std::string codebooks_;
  double ratio_ = 0.02;
  StoreBenchOptions options_;
  int64_t layers_ = 8, kv_heads_ = 4, dim_ = 128, page_tokens_ = 16, rounds_ = 5;
};

}  // namespace

std::unique_ptr<Command> CreateBenchStoreCommand() { return std::make_unique<BenchStoreCommand>(); }

}  // namespace pqcache::tools
