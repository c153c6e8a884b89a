// pqcache eval: perplexity and generated retrieval tasks, the same samples for every policy.

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "pqcache/base/file_io.h"
#include "pqcache/base/log.h"
#include "pqcache/base/spec_string.h"
#include "tools/commands.h"
#include "tools/eval_runner.h"

namespace pqcache::tools {
namespace {

constexpr std::string_view kPerplexity = "ppl";

std::string Fixed(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.2f", value);
  return text;
}

class EvalCommand : public Command {
 public:
  void Declare(Flags* flags) override {
    std::string help = "tasks: ppl";
    for (const TaskEntry& entry : GeneratedTasks()) help += ", " + std::string(entry.name);
    model_.Declare(flags);
    attention_.Declare(flags);
    flags->Count(
        "--shadow", &attention_.shadow,
        "judge every n-th step against exact attention; adds recall, mass and output_error "
        "to the JSON");
    flags->Texts("--task", &tasks_, help);
    flags->Specs("--policy", &policy_names_, PolicyHelp() + " (repeatable; default: exact and pq)");
    flags->Texts("--ctx", &ctx_texts_, "context lengths");
    flags->Texts("--depths", &depth_texts_, "percent; default: samples spread over all depths");
    flags->Count("--num-samples", &num_samples_, "samples of a task (with --depths: at each)");
    flags->Text("--haystack", &haystack_, "text file to hide facts in; default: noise sentences");
    flags->Specs("-f,--file", &files_, "text of the ppl task (repeatable)");
    flags->Count("--windows", &windows_, "ppl: consecutive windows of every file");
    flags->Count("--offset", &offset_, "ppl: first token of the first window");
    flags->Count("--last", &last_,
                 "ppl: score only the last so many tokens (0: all but the first)");
    flags->Text("-o,--output", &output_, "folder for predictions.jsonl, metrics.json, config.json");
  }

  Status Prepare() override {
    PQCACHE_RETURN_IF_ERROR(model_.Prepare());
    PQCACHE_RETURN_IF_ERROR(attention_.Prepare());
    if (tasks_.empty()) return Status::InvalidArgument("--task is absent");
    for (const std::string& task : tasks_) PQCACHE_RETURN_IF_ERROR(CheckTask(task));
    if (policy_names_.empty()) policy_names_ = {"exact", "pq"};
    for (const std::string& name : policy_names_) {
      PQCACHE_ASSIGN_OR_RETURN(auto options, attention_.OptionsFor(name));
      policies_.push_back({name, std::move(options)});
    }
    if (ctx_texts_.empty()) ctx_texts_ = {"4096"};
    for (const std::string& text : ctx_texts_) {
      PQCACHE_ASSIGN_OR_RETURN(const int64_t ctx, ParseCount(text, "--ctx"));
      ctxs_.push_back(ctx);
    }
    for (const std::string& text : depth_texts_) {
      PQCACHE_ASSIGN_OR_RETURN(const int64_t depth, ParseCount(text, "--depths"));
      if (depth > 100) {
        return Status::InvalidArgument("--depths has " + text + ", expected percent, 0 to 100");
      }
      depths_.push_back(static_cast<double>(depth) / 100);
    }
    if (num_samples_ < 1 || windows_ < 1 || windows_ > 1 << 20) {
      return Status::InvalidArgument("--num-samples is " + std::to_string(num_samples_) +
                                     ", --windows is " + std::to_string(windows_) +
                                     ", expected 1 or more, and at most 1M windows");
    }
    return Status::Ok();
  }

  Result<Report> Run(bool) override {
    if (!output_.empty() && ::mkdir(output_.c_str(), 0755) != 0 && errno != EEXIST) {
      return Status::IoError(output_ + ": cannot make the folder: " + std::strerror(errno));
    }
    PQCACHE_ASSIGN_OR_RETURN(const Model model, LoadModel(model_));
    PQCACHE_ASSIGN_OR_RETURN(const attention::Tokenizer tokenizer, LoadTokenizer(model_.model));
    EvalRunner runner(model.decoder.get(), &tokenizer, &attention_, &policies_);
    PQCACHE_RETURN_IF_ERROR(runner.Open());
    PQCACHE_RETURN_IF_ERROR(CheckContexts(model.decoder->spec().max_positions));
    for (int64_t ctx : ctxs_) {
      for (const std::string& task : tasks_) {
        PQCACHE_RETURN_IF_ERROR(task == kPerplexity ? RunPerplexity(ctx, tokenizer, &runner)
                                                    : RunTask(task, ctx, tokenizer, &runner));
      }
    }
    Report report = MakeReport();
    if (output_.empty()) return report;
    // The results are not lost with the folder.
    if (const Status written = WriteFolder(report.json); !written.ok()) {
      Log(LogLevel::kWarning, written.message());
      report.passed = false;
    }
    return report;
  }

 private:
  Status CheckTask(const std::string& task) const {
    if (task != kPerplexity) return FindTask(task).status();
    return files_.empty() ? Status::InvalidArgument("task ppl needs -f FILE") : Status::Ok();
  }

  Status CheckContexts(int64_t limit) const {
    const bool any_length = std::all_of(
        policies_.begin(), policies_.end(),
        [](const EvalPolicy& policy) { return policy.options.policy->bounds_distances(); });
    for (int64_t ctx : ctxs_) {
      if (ctx >= 2 && (ctx <= limit || any_length)) continue;
      return Status::InvalidArgument("--ctx is " + std::to_string(ctx) +
                                     ", expected 2 to the model's " + std::to_string(limit));
    }
    return Status::Ok();
  }

  // One result per policy, appended; the caller fills them.
  std::span<EvalResult> NewResults(const std::string& task, int64_t ctx, double depth) {
    const size_t first = results_.size();
    for (const EvalPolicy& policy : policies_) {
      EvalResult result;
      result.task = task;
      result.policy = policy.name;
      result.ctx = ctx;
      result.depth = depth;
      results_.push_back(result);
    }
    return std::span(results_).subspan(first);
  }

  Status RunPerplexity(int64_t ctx, const attention::Tokenizer& tokenizer, EvalRunner* runner) {
    const int64_t scored = last_ > 0 ? last_ : ctx - 1;
    if (scored >= ctx) {
      return Status::InvalidArgument("--last is " + std::to_string(last_) +
                                     ", expected less than --ctx " + std::to_string(ctx));
    }
    const std::span<EvalResult> results = NewResults(std::string(kPerplexity), ctx, -1);
    ProgressBar bar("ppl");
    double done = 0;
    for (const std::string& path : files_) {
      PQCACHE_ASSIGN_OR_RETURN(const std::string text, ReadText(path));
      PQCACHE_ASSIGN_OR_RETURN(const std::vector<int64_t> tokens, tokenizer.Encode(text, false));
      const int64_t needed = offset_ + windows_ * ctx;
      if (static_cast<int64_t>(tokens.size()) < needed) {
        return Status::InvalidArgument(path + " has " + std::to_string(tokens.size()) +
                                       " tokens, expected at least " + std::to_string(needed) +
                                       " for --offset, --windows and --ctx");
      }
      for (int64_t w = 0; w < windows_; ++w) {
        const auto window = std::span(tokens).subspan(static_cast<size_t>(offset_ + w * ctx),
                                                      static_cast<size_t>(ctx));
        PQCACHE_RETURN_IF_ERROR(runner->RunWindow(window, scored, results));
        done += 1;
        bar.Update(done / static_cast<double>(windows_ * static_cast<int64_t>(files_.size())));
      }
    }
    return Status::Ok();
  }

  Status RunTask(const std::string& task, int64_t ctx, const attention::Tokenizer& tokenizer,
                 EvalRunner* runner) {
    PQCACHE_ASSIGN_OR_RETURN(const TaskEntry* entry, FindTask(task));
    PQCACHE_ASSIGN_OR_RETURN(const auto haystack, LoadHaystack(haystack_, ctx, tokenizer));
    Random random(MixSeed(static_cast<uint64_t>(model_.seed), static_cast<uint64_t>(ctx)));
    TaskRequest request{&tokenizer, haystack, ctx, 0, &random};
    const std::vector<double> groups = depths_.empty() ? std::vector<double>{-1} : depths_;
    ProgressBar bar(task);
    for (size_t g = 0; g < groups.size(); ++g) {
      const std::span<EvalResult> results = NewResults(task, ctx, groups[g]);
      for (int64_t i = 0; i < num_samples_; ++i) {
        const double n = static_cast<double>(num_samples_);
        request.depth = groups[g] >= 0 ? groups[g] : (static_cast<double>(i) + 0.5) / n;
        PQCACHE_ASSIGN_OR_RETURN(const TaskSample sample, entry->generate(request));
        PQCACHE_RETURN_IF_ERROR(runner->RunSample(sample, results, &predictions_));
        bar.Update((static_cast<double>(g) + (static_cast<double>(i) + 1) / n) /
                   static_cast<double>(groups.size()));
      }
    }
    return Status::Ok();
  }

  Report MakeReport() const {
    Report report;
    Json rows = Json::Array();
    char line[256];
    std::snprintf(line, sizeof(line), "%-13s %-15s %7s %6s %7s %9s %9s %10s\n", "task", "policy",
                  "ctx", "depth", "samples", "score/ppl", "ms/token", "attended");
    report.text = line;
    for (const EvalResult& r : results_) {
      Json row = r.ToJson();
      const Json* value = row.Find(r.is_ppl ? "ppl" : "score");
      const Json* tpot = row.Find("tpot_ms");
      const std::string step = tpot->is_null() ? "-" : Fixed(tpot->AsDouble());
      const std::string depth =
          r.depth < 0 ? "all" : std::to_string(std::lround(r.depth * 100)) + " %";
      std::snprintf(line, sizeof(line), "%-13s %-15s %7ld %6s %7ld %9.3f %9s %8.2f %%\n",
                    r.task.c_str(), r.policy.c_str(), static_cast<long>(r.ctx), depth.c_str(),
                    static_cast<long>(r.samples), value->AsDouble(), step.c_str(),
                    100 * row.Find("selected_ratio")->AsDouble());
      report.text += line;
      rows.Push(std::move(row));
    }
    report.json.Set("results", std::move(rows));
    return report;
  }

  Status WriteFolder(const Json& metrics) const {
    std::string lines;
    for (const Prediction& p : predictions_) {
      Json j;
      j.Set("task", p.task).Set("policy", p.policy).Set("ctx", p.ctx).Set("sample", p.sample);
      j.Set("depth", p.depth < 0 ? Json() : Json(p.depth)).Set("answer", p.answer);
      j.Set("predicted", p.predicted).Set("right", p.right);
      lines += j.Dump() + "\n";
    }
    const auto words = [](const std::vector<std::string>& list) {
      Json array = Json::Array();
      for (const std::string& word : list) array.Push(word);
      return array;
    };
    Json config;
    config.Set("model", model_.model).Set("dtype", model_.dtype).Set("threads", model_.threads);
    config.Set("seed", model_.seed).Set("codebooks", attention_.codebooks);
    config.Set("attn_top_k", attention_.budget.tokens).Set("attn_ratio", attention_.budget.ratio);
    config.Set("attn_mass", attention_.budget.mass).Set("n_sink", attention_.n_sink);
    config.Set("local_window", attention_.local_window);
    config.Set("dense_layers", attention_.dense_layers).Set("tail", attention_.tail);
    config.Set("gqa", attention_.gqa).Set("store", attention_.store);
    config.Set("page_tokens", attention_.page_tokens);
    config.Set("task", words(tasks_)).Set("policy", words(policy_names_));
    config.Set("ctx", words(ctx_texts_)).Set("depths", words(depth_texts_));
    config.Set("num_samples", num_samples_).Set("haystack", haystack_).Set("file", words(files_));
    config.Set("windows", windows_).Set("offset", offset_).Set("last", last_);
    PQCACHE_RETURN_IF_ERROR(WriteFileAtomically(output_ + "/predictions.jsonl", lines));
    PQCACHE_RETURN_IF_ERROR(WriteFileAtomically(output_ + "/metrics.json", metrics.Dump(1) + "\n"));
    return WriteFileAtomically(output_ + "/config.json", config.Dump(1) + "\n");
  }

  ModelFlags model_;
  AttentionFlags attention_;
  std::vector<std::string> tasks_, policy_names_, ctx_texts_, depth_texts_, files_;
  std::string haystack_, output_;
  int64_t num_samples_ = 20, windows_ = 1, offset_ = 0, last_ = 0;

  std::vector<EvalPolicy> policies_;
  std::vector<int64_t> ctxs_;
  std::vector<double> depths_;
  std::vector<EvalResult> results_;
  std::vector<Prediction> predictions_;
};

}  // namespace

std::unique_ptr<Command> CreateEvalCommand() { return std::make_unique<EvalCommand>(); }

}  // namespace pqcache::tools
