// pqcache bench model: prefill and decoding of a whole model.

#include "tools/bench_machine.h"
#include "tools/bench_model.h"
#include "tools/commands.h"
#include "tools/model_flags.h"

namespace pqcache::tools {
namespace {

class BenchModelCommand : public Command {
 public:
  void Declare(Flags* flags) override {
    model_.Declare(flags);
    flags->Text("--codebooks", &codebooks_, "of the model");
    flags->Count("--ctx", &options_.tokens, "tokens of the context");
    flags->Number("--attn-ratio", &options_.ratio, "share of the context that a step selects");
    flags->Count("--page-tokens", &page_tokens_, "tokens of a page");
    flags->Count("--rounds", &rounds_, "measurements of decoding, of which the medians are given");
  }

  Status Prepare() override {
    PQCACHE_RETURN_IF_ERROR(model_.Prepare());
    if (codebooks_.empty()) return Status::InvalidArgument("--codebooks is missing");
    PQCACHE_RETURN_IF_ERROR(CheckShare("--attn-ratio", options_.ratio));
    PQCACHE_RETURN_IF_ERROR(CheckRange("--ctx", options_.tokens, 1, 1 << 24));
    PQCACHE_RETURN_IF_ERROR(CheckRange("--page-tokens", page_tokens_, 1, kMaxPageTokens));
    return CheckRange("--rounds", rounds_, 1, 1000);
  }

  Result<Report> Run(bool) override {
    PQCACHE_ASSIGN_OR_RETURN(const Model model, LoadModel(model_));
    PQCACHE_ASSIGN_OR_RETURN(options_.codebooks, LoadCodebooks(codebooks_));
    options_.page_tokens = static_cast<int>(page_tokens_);
    options_.rounds = static_cast<int>(rounds_);
    options_.seed = static_cast<uint64_t>(model_.seed);
    const int64_t positions = model.decoder->spec().max_positions;
    const int64_t needed = options_.tokens + (rounds_ + 1) * kModelBenchSteps;
    if (needed > positions) {
      return Status::InvalidArgument("--ctx and --rounds take " + std::to_string(needed) +
                                     " positions, expected at most the model's " +
                                     std::to_string(positions));
    }
    Report report;
    report.json.Set("machine", DescribeMachine(MeasureCeilings()));
    Json rows = Json::Array();
    PQCACHE_RETURN_IF_ERROR(BenchModel(*model.decoder, options_, &rows, &report.text));
    report.json.Set("rows", std::move(rows));
    return report;
  }

 private:
  ModelFlags model_;
  std::string codebooks_;
  int64_t page_tokens_ = 16, rounds_ = 5;
  ModelBenchOptions options_;
};

}  // namespace

std::unique_ptr<Command> CreateBenchModelCommand() { return std::make_unique<BenchModelCommand>(); }

}  // namespace pqcache::tools
