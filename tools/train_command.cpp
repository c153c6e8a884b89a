// pqcache train: run the model over text, sample keys and queries, train codebooks, judge them on
// text they have not seen, write one file.

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "attention/decoder/self_text.h"
#include "attention/decoder/session.h"
#include "attention/model/rope.h"
#include "pqcache/base/log.h"
#include "storage/stores.h"
#include "tools/commands.h"
#include "tools/model_flags.h"
#include "tools/recording_attention.h"
#include "tools/stopwatch.h"
#include "train/codebook_judge.h"
#include "train/codebook_trainer.h"
#include "train/kmeans.h"

namespace pqcache::tools {
namespace {

// Queries of a head that are kept for the weighting, and judged at the end of the held-out text.
constexpr int64_t kTrainQueries = 4096;
constexpr int64_t kJudgedTokens = 256;

std::string Percent(double share) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f %%", 100 * share);
  return text;
}

class TrainCommand : public Command {
 public:
  void Declare(Flags* flags) override {
    model_.Declare(flags);
    flags->Specs("--text", &texts_,
                 "text file (repeatable), or self (default): the model writes it");
    flags->Count("--tokens", &tokens_, "tokens to run the model over");
    flags->Count("--ctx", &context_, "tokens of a sequence (0: the model's range, at most 16000)");
    flags->Count("--samples", &samples_, "keys kept per layer and head");
    flags->Text("--pq", &pq_, "sub-spaces x bits");
    flags->Text("--rotation", &rotation_name_, "none, pca or query");
    flags->Switch("--no-position-mean", &no_position_mean_,
                  "leave what keys are on average at their position to the codes");
    flags->Text("--trainer", &options_.trainer, TrainerHelp());
    flags->Count("--iterations", &iterations_, "k-means rounds");
    flags->Text("-o,--output", &output_, "codebook file");
    flags->Switch("--overwrite", &overwrite_, "replace a file that is there already");
  }

  Status Prepare() override {
    PQCACHE_RETURN_IF_ERROR(model_.Prepare());
    if (output_.empty()) return Status::InvalidArgument("-o FILE is absent");
    if (texts_.empty()) texts_ = {"self"};
    if (tokens_ < 1 || samples_ < 1 || iterations_ < 1 || iterations_ > 10000) {
      return Status::InvalidArgument("--tokens, --samples and --iterations must be positive");
    }
    PQCACHE_RETURN_IF_ERROR(CheckTrainer());
    PQCACHE_RETURN_IF_ERROR(CheckOutput());
    PQCACHE_ASSIGN_OR_RETURN(options_.rotation, train::ParseRotation(rotation_name_));
    options_.iterations = static_cast<int>(iterations_);
    options_.seed = static_cast<uint64_t>(model_.seed);
    return Status::Ok();
  }

  Result<Report> Run(bool) override {
    const Stopwatch start;
    PQCACHE_ASSIGN_OR_RETURN(const Model model, LoadModel(model_));
    const attention::ModelSpec& spec = model.decoder->spec();
    PQCACHE_ASSIGN_OR_RETURN(options_.shape, PqShape::Parse(pq_, spec.head_dim));
    if (!no_position_mean_) {
      const attention::Rope rope(spec.rope);
      options_.frequencies.assign(rope.frequencies().begin(), rope.frequencies().end());
    }
    if (context_ == 0) context_ = std::min<int64_t>(16000, spec.max_positions);
    if (context_ < 2 || context_ > spec.max_positions) {
      return Status::InvalidArgument("--ctx is " + std::to_string(context_) +
                                     ", expected 2 to the model's " +
                                     std::to_string(spec.max_positions));
    }
    if (samples_ < options_.shape.centroids()) {
      return Status::InvalidArgument("--samples is " + std::to_string(samples_) +
                                     ", expected at least the " +
                                     std::to_string(options_.shape.centroids()) + " centroids");
    }
    // One sequence more than is trained on: the last one is the judge's.
    const int64_t sequences = std::max<int64_t>(1, (tokens_ + context_ - 1) / context_) + 1;
    tokens_ = (sequences - 1) * context_;
    std::fprintf(stderr,
                 "pqcache: training on %lld sequences of %lld tokens, judging on one more\n",
                 static_cast<long long>(sequences - 1), static_cast<long long>(context_));
    PQCACHE_ASSIGN_OR_RETURN(const std::vector<int64_t> text,
                             CollectTokens(*model.decoder, sequences * context_));

    PQCACHE_ASSIGN_OR_RETURN(train::KeySampler sampler, MakeSampler(spec));
    HeldOutRecorder held_out(spec, context_, kJudgedTokens);
    PQCACHE_RETURN_IF_ERROR(RunSequences(*model.decoder, text, sequences, &sampler, &held_out));
    const double collect_seconds = start.seconds();

    const Stopwatch train_start;
    Result<CodebookSet> trained = Train(sampler.Finish(), model.pool.get());
    PQCACHE_RETURN_IF_ERROR(trained.status());
    CodebookSet set = std::move(*trained);
    const double train_seconds = train_start.seconds();
    PQCACHE_ASSIGN_OR_RETURN(
        const train::JudgeReport judged,
        train::JudgeCodebooks(set, held_out.held_out(), train::JudgeOptions(), model.pool.get()));

    PQCACHE_RETURN_IF_ERROR(train::TakeResiduals(judged, &set));

    Report report = MakeReport(set, judged, collect_seconds, train_seconds);
    set.model = model.decoder->fingerprint();
    set.report = FileReport(set.report, judged).Dump();
    PQCACHE_RETURN_IF_ERROR(SaveCodebooks(set, output_));
    return report;
  }

 private:
  static std::string TrainerHelp() {
    std::string help = "k-means: ";
    for (const auto& entry : train::KMeansTrainers()) {
      help += (help.size() > 9 ? ", " : "") + std::string(entry.name);
    }
    return help;
  }

  Status CheckTrainer() const {
    for (const auto& entry : train::KMeansTrainers()) {
      if (entry.name == options_.trainer) return Status::Ok();
    }
    return Status::InvalidArgument("--trainer is '" + options_.trainer + "', expected " +
                                   TrainerHelp());
  }

  // Before hours of work, not after them.
  Status CheckOutput() const {
    const std::filesystem::path path(output_);
    const std::string folder = path.has_parent_path() ? path.parent_path().string() : ".";
    std::error_code error;
    if (std::filesystem::is_directory(path, error)) {
      return Status::InvalidArgument("-o " + output_ + " is a folder, expected a file");
    }
    if (std::filesystem::exists(path, error) && !overwrite_) {
      return Status::InvalidArgument(
          "-o " + output_ + " is there already, expected a new name, or --overwrite (stored " +
          "contexts cannot be used with other codebooks than theirs)");
    }
    if (::access(folder.c_str(), W_OK) != 0) {
      return Status::IoError("-o " + output_ + ": cannot write into " + folder + ": " +
                             std::strerror(errno));
    }
    return Status::Ok();
  }

  Result<train::KeySampler> MakeSampler(const attention::ModelSpec& spec) const {
    train::KeySamplerOptions options;
    options.layers = static_cast<int>(spec.layers);
    options.kv_heads = spec.kv_heads;
    options.group = spec.group();
    options.dim = spec.head_dim;
    options.key_capacity = samples_;
    options.query_capacity = kTrainQueries;
    options.seed = static_cast<uint64_t>(model_.seed);
    return train::KeySampler::Create(options);
  }

  // `wanted` tokens, all files together or the model's own; fewer is an error.
  Result<std::vector<int64_t>> CollectTokens(const attention::Decoder& decoder, int64_t wanted) {
    std::vector<int64_t> text;
    if (texts_.size() == 1 && texts_[0] == "self") {
      ProgressBar bar("sampling text");
      attention::SelfTextOptions options;
      options.tokens = wanted;
      options.seed = static_cast<uint64_t>(model_.seed);
      PQCACHE_ASSIGN_OR_RETURN(
          const auto sequences,
          attention::SampleSelfText(decoder, options, [&](double done) { bar.Update(done); }));
      for (const auto& sequence : sequences)
        text.insert(text.end(), sequence.begin(), sequence.end());
    } else {
      PQCACHE_ASSIGN_OR_RETURN(const attention::Tokenizer tokenizer, LoadTokenizer(model_.model));
      for (const std::string& path : texts_) {
        PQCACHE_ASSIGN_OR_RETURN(const std::string contents, ReadText(path));
        PQCACHE_ASSIGN_OR_RETURN(const auto ids, tokenizer.Encode(contents, false));
        text.insert(text.end(), ids.begin(), ids.end());
      }
    }
    if (static_cast<int64_t>(text.size()) < wanted) {
      return Status::InvalidArgument(
          "the text has " + std::to_string(text.size()) + " tokens, expected at least " +
          std::to_string(wanted) +
          ": --tokens rounded up to whole sequences of --ctx, and one more "
          "to judge on");
    }
    return text;
  }

  // Sequences are spread evenly over the text; the last one is for the judge alone.
  Status RunSequences(const attention::Decoder& decoder, std::span<const int64_t> text,
                      int64_t sequences, train::KeySampler* sampler,
                      HeldOutRecorder* held_out) const {
    ProgressBar bar("sampling keys");
    const int64_t step = static_cast<int64_t>(text.size()) / sequences;
    PQCACHE_ASSIGN_OR_RETURN(const auto store, storage::OpenPageStore("memory"));
    for (int64_t i = 0; i < sequences; ++i) {
      attention::SessionStorage kept;
      kept.store = store.get();
      PQCACHE_ASSIGN_OR_RETURN(
          const auto session,
          attention::Session::Create(&decoder, kept, attention::ExactAttention()));
      const bool judged = i + 1 == sequences;
      SamplingAttention sampling(session->attention(), sampler);
      held_out->set_inner(session->attention());
      session->set_wrapper(judged ? static_cast<attention::AttentionBackend*>(held_out)
                                  : &sampling);
      const auto tokens =
          text.subspan(static_cast<size_t>(i * step), static_cast<size_t>(context_));
      PQCACHE_RETURN_IF_ERROR(session->Prefill(tokens, 0, nullptr, [&](double done) {
        bar.Update((static_cast<double>(i) + done) / static_cast<double>(sequences));
      }));
    }
    return Status::Ok();
  }

  Result<CodebookSet> Train(const train::KeySamples& samples, ThreadPool* pool) const {
    if (samples.left_out > 0) {
      Log(LogLevel::kWarning,
          std::to_string(samples.left_out) + " keys and queries were NaN or infinite and left out");
    }
    ProgressBar bar("k-means");
    return train::TrainCodebooks(samples, options_, pool, [&](double done) { bar.Update(done); });
  }

  Json FileReport(const std::string& training, const train::JudgeReport& judged) const {
    Json json;
    json.Set("tokens", tokens_).Set("context", context_).Set("judged", judged.ToJson());
    Result<Json> parsed = Json::Parse(training);
    if (parsed.ok()) json.Set("training", std::move(*parsed));
    return json;
  }

  Report MakeReport(const CodebookSet& set, const train::JudgeReport& judged,
                    double collect_seconds, double train_seconds) const {
    Report report;
    Json recall, in_400, mass;
    recall.Set("mean", judged.mean.recall_at_100).Set("worst", judged.worst.recall_at_100);
    in_400.Set("mean", judged.mean.recall_in_400).Set("worst", judged.worst.recall_in_400);
    mass.Set("mean", judged.mean.mass_at_2pct).Set("worst", judged.worst.mass_at_2pct);
    report.json.Set("layers", set.layers)
        .Set("kv_heads", set.kv_heads)
        .Set("pq", set.shape().Name());
    report.json.Set("rotation", set.rotation).Set("position_mean", !options_.frequencies.empty());
    report.json.Set("trainer", options_.trainer);
    report.json.Set("bytes_per_key", set.shape().bytes_per_key());
    report.json.Set("collect_seconds", collect_seconds).Set("train_seconds", train_seconds);
    report.json.Set("recall_at_100", std::move(recall)).Set("mass_at_2pct", std::move(mass));
    report.json.Set("recall_in_400", std::move(in_400));
    report.json.Set("relative_mse", judged.mean.relative_mse);
    report.json.Set("residual_growth", judged.mean.residual_growth).Set("file", output_);
    report.text = output_ + ": " + std::to_string(set.layers) + " layers x " +
                  std::to_string(set.kv_heads) + " KV heads, " + set.shape().Name() + " codes, " +
                  std::to_string(set.shape().bytes_per_key()) + " bytes a key, rotation " +
                  set.rotation + (options_.frequencies.empty() ? "" : ", position means") + "\n";
    char line[256];
    std::snprintf(line, sizeof(line), "text and keys %.1f s, training %.1f s\n", collect_seconds,
                  train_seconds);
    report.text += line;
    report.text += "on text not trained on, " + std::to_string(judged.tokens) + " tokens:\n";
    const auto row = [&](const char* what, double mean, double worst) {
      std::snprintf(line, sizeof(line), "  %-58s mean %8s   worst head %8s\n", what,
                    Percent(mean).c_str(), Percent(worst).c_str());
      report.text += line;
    };
    row("of the 100 best keys, found among the 100 best codes", judged.mean.recall_at_100,
        judged.worst.recall_at_100);
    row("of the 100 best keys, found among the 400 best codes", judged.mean.recall_in_400,
        judged.worst.recall_in_400);
    row("of the attention mass of the best 2 % of tokens, caught", judged.mean.mass_at_2pct,
        judged.worst.mass_at_2pct);
    row("quantisation error, share of the keys' variance", judged.mean.relative_mse,
        judged.worst.relative_mse);
    std::snprintf(line, sizeof(line), "  %-58s mean %6.2f     worst head %6.2f\n",
                  "squared distance of keys to codes, over the training's",
                  judged.mean.residual_growth, judged.worst.residual_growth);
    report.text += line;
    return report;
  }

  ModelFlags model_;
  std::vector<std::string> texts_;
  int64_t tokens_ = 65536, context_ = 0, samples_ = 16384, iterations_ = 25;
  std::string pq_ = "32x4", rotation_name_ = "query", output_;
  bool overwrite_ = false, no_position_mean_ = false;
  train::TrainOptions options_;
};

}  // namespace

std::unique_ptr<Command> CreateTrainCommand() { return std::make_unique<TrainCommand>(); }

}  // namespace pqcache::tools
