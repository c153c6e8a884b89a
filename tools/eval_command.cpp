// pqcache eval: perplexity, generated retrieval tasks and files of benchmarks, the same samples for
// every policy and budget.

#include <algorithm>
#include <cmath>
#include <map>

#include "pqcache/base/log.h"
#include "pqcache/base/spec_string.h"
#include "tools/commands.h"
#include "tools/eval/file_tasks.h"
#include "tools/eval/generated_tasks.h"
#include "tools/eval/prediction_log.h"
#include "tools/eval/runner.h"

namespace pqcache::tools {
namespace {

constexpr std::string_view kPerplexity = "ppl";

std::string TaskHelp() {
  std::string help = "ppl: perplexity of texts";
  for (const TaskEntry& entry : GeneratedTasks()) {
    help += "; " + std::string(entry.name) + ": " + std::string(entry.help);
  }
  for (const FileTaskEntry& entry : FileTasks()) {
    help += "; " + std::string(entry.name) + ": " + std::string(entry.help);
  }
  return "tasks, repeatable or separated by commas. " + help;
}

// Commas separate tasks, but for those between the parameters of one.
std::vector<std::string> SplitTasks(const std::vector<std::string>& texts) {
  std::vector<std::string> tasks;
  for (const std::string& text : texts) {
    for (size_t begin = 0; begin <= text.size();) {
      const size_t end = std::min(text.find(',', begin), text.size());
      const std::string piece = text.substr(begin, end - begin);
      const bool parameter =
          piece.find('=') != std::string::npos && piece.find(':') == std::string::npos && begin > 0;
      if (parameter) {
        tasks.back() += "," + piece;
      } else {
        tasks.push_back(piece);
      }
      begin = end + 1;
    }
  }
  return tasks;
}

std::vector<std::string> Unique(const std::vector<std::string>& texts) {
  std::vector<std::string> unique;
  for (const std::string& text : texts) {
    if (std::find(unique.begin(), unique.end(), text) == unique.end()) unique.push_back(text);
  }
  return unique;
}

// The question is known before the context is compressed: it ends the prompt, whose exact
// attention gives the first token of the answer.
void MakeQueryAware(EvalSample* sample) {
  EvalQuestion& question = sample->questions.front();
  sample->context.insert(sample->context.end(), question.tokens.begin(), question.tokens.end());
  question.in_prompt = true;
}

class EvalCommand : public Command {
 public:
  void Declare(Flags* flags) override {
    model_.Declare(flags);
    attention_.Declare(flags);
    flags->Count(
        "--shadow", &attention_.shadow,
        "judge every n-th step against exact attention; adds recall, mass and output_error");
    flags->Specs("--task", &task_texts_, TaskHelp());
    flags->Specs("--policy", &policy_names_, PolicyHelp() + " (repeatable; default: exact and pq)");
    flags->Texts("--budgets", &budget_texts_,
                 "shares of the context, instead of --attn-ratio: every policy runs with each");
    flags->Texts("--ctx", &ctx_texts_, "context lengths");
    flags->Texts("--depths", &depth_texts_, "percent; default: samples spread over all depths");
    flags->Count("--num-samples", &num_samples_,
                 "samples of a task (with --depths: at each; of a file: at most, 0: all)");
    flags->Count("--turns", &turns_, "questions about each generated context, one after the other");
    flags->Switch("--query-aware", &query_aware_,
                  "the first question ends the prompt instead of coming after it");
    flags->Text("--haystack", &haystack_, "text file to hide facts in; default: noise sentences");
    flags->Text("--data-file", &data_file_, "samples of a task that is read from a file");
    flags->Specs("-f,--file", &files_, "text of the ppl task (repeatable)");
    flags->Count("--windows", &windows_, "ppl: consecutive windows of every file");
    flags->Count("--offset", &offset_, "ppl: first token of the first window");
    flags->Count("--last", &last_,
                 "ppl: score only the last so many tokens (0: all but the first)");
    flags->Switch("--step-exact", &step_exact_,
                  "ppl: exact attention decodes token by token, too, and is timed");
    flags->Text("-o,--output", &output_,
                "folder for predictions.jsonl, metrics.json, config.json; an interrupted run of "
                "the same flags goes on");
    flags->Switch("--overwrite", &overwrite_, "begin anew in a folder that holds another run");
  }

  Status Prepare() override {
    PQCACHE_RETURN_IF_ERROR(model_.Prepare());
    PQCACHE_RETURN_IF_ERROR(attention_.Prepare());
    PQCACHE_RETURN_IF_ERROR(PrepareTasks());
    PQCACHE_RETURN_IF_ERROR(PreparePolicies());
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
    PQCACHE_RETURN_IF_ERROR(CheckRange("--windows", windows_, 1, 1 << 20));
    PQCACHE_RETURN_IF_ERROR(CheckRange("--num-samples", num_samples_, 0, 1 << 30));
    return CheckRange("--turns", turns_, 1, 64);
  }

  Result<Report> Run(bool) override {
    PQCACHE_ASSIGN_OR_RETURN(const Model model, LoadModel(model_));
    PQCACHE_ASSIGN_OR_RETURN(const attention::Tokenizer tokenizer, LoadTokenizer(model_.model));
    EvalRunner runner(model.decoder.get(), &tokenizer, &attention_, &policies_, step_exact_);
    PQCACHE_RETURN_IF_ERROR(runner.Open());
    // A run that cannot be made must not touch the folder of another.
    PQCACHE_RETURN_IF_ERROR(CheckContexts(model.decoder->spec().max_positions));
    PQCACHE_RETURN_IF_ERROR(ReadInputs(tokenizer));
    PQCACHE_ASSIGN_OR_RETURN(const Json config, Config(*model.decoder));
    PQCACHE_ASSIGN_OR_RETURN(log_, PredictionLog::Open(output_, config, overwrite_));
    for (const int64_t ctx : ctxs_) {
      for (const std::string& task : tasks_) {
        PQCACHE_RETURN_IF_ERROR(RunTask(task, ctx, tokenizer, &runner));
      }
    }
    Report report;
    Json rows = SummariseResults(log_->results());
    report.text = ResultTable(rows);
    report.json.Set("results", std::move(rows)).Set("peak_rss_bytes", PeakRssBytes());
    // The results are not lost with the folder.
    if (const Status written = log_->Finish(report.json); !written.ok()) {
      Log(LogLevel::kWarning, written.message());
      report.passed = false;
    }
    return report;
  }

 private:
  Status PrepareTasks() {
    tasks_ = SplitTasks(task_texts_);
    if (tasks_.empty()) return Status::InvalidArgument("--task is absent");
    bool generates = false, from_file = false;
    for (const std::string& task : tasks_) {
      PQCACHE_ASSIGN_OR_RETURN(const SpecString spec, ParseSpec(task));
      if (task == kPerplexity) {
        if (files_.empty()) return Status::InvalidArgument("task ppl needs -f FILE");
      } else if (const FileTaskEntry* file_task = FindFileTask(spec.name); file_task != nullptr) {
        if (data_file_.empty()) {
          return Status::InvalidArgument("task " + spec.name + " needs --data-file FILE");
        }
        PQCACHE_RETURN_IF_ERROR(spec.CheckKnown(file_task->parameters));
        from_file = true;
      } else if (const auto generated = FindTask(task); !generated.ok()) {
        std::string known(kPerplexity);
        for (const FileTaskEntry& entry : FileTasks()) known += ", " + std::string(entry.name);
        return Status::InvalidArgument(generated.status().message() + ", " + known);
      } else {
        generates = true;
      }
    }
    const struct {
      const char* flag;
      bool given, used;
    } flags[] = {{"--turns", turns_ != 1, generates},
                 {"--depths", !depth_texts_.empty(), generates},
                 {"--haystack", !haystack_.empty(), generates},
                 {"--query-aware", query_aware_, generates || from_file},
                 {"--data-file", !data_file_.empty(), from_file}};
    for (const auto& f : flags) {
      if (f.given && !f.used) {
        return Status::InvalidArgument(std::string(f.flag) + " means nothing to these tasks");
      }
    }
    if (generates && num_samples_ == 0) {
      return Status::InvalidArgument("--num-samples is 0, expected 1 or more for generated tasks");
    }
    return Status::Ok();
  }

  Status PreparePolicies() {
    if (policy_names_.empty()) policy_names_ = {"exact", "pq"};
    std::vector<double> budgets;
    for (const std::string& text : Unique(budget_texts_)) {
      SpecString spec{"--budgets", {{"share", text}}};
      PQCACHE_ASSIGN_OR_RETURN(const double budget, spec.ShareOr("share", 0));
      budgets.push_back(budget);
    }
    if (!budgets.empty() &&
        (attention_.ratio != -1 || attention_.mass != -1 || attention_.top_k != -1)) {
      return Status::InvalidArgument(
          "--budgets and one of --attn-top-k, --attn-ratio and --attn-mass are given, expected "
          "one");
    }
    const bool ppl = std::find(tasks_.begin(), tasks_.end(), kPerplexity) != tasks_.end();
    for (const std::string& name : Unique(policy_names_)) {
      PQCACHE_ASSIGN_OR_RETURN(const auto options, attention_.OptionsFor(name));
      const SelectionPolicy& chosen = *options.policy;
      if (ppl && last_ == 0 && chosen.drops() && (chosen.uses_budget() || chosen.needs_prompt())) {
        return Status::InvalidArgument("policy " + name +
                                       " keeps a share of a prompt: task ppl needs --last, so that "
                                       "there is one, or the policy tokens=N");
      }
      if (budgets.empty() || !options.policy->uses_budget()) {
        const SelectionBudget& budget = options.budget;
        const bool is_share = budget.ratio > 0 && budget.mass == 0;
        policies_.push_back({name, is_share ? budget.ratio : -1, options});
        continue;
      }
      for (const double budget : budgets) {
        EvalPolicy policy{name, budget, options};
        policy.options.budget = {.ratio = budget};
        policies_.push_back(std::move(policy));
      }
    }
    return Status::Ok();
  }

  Status CheckContexts(int64_t limit) const {
    const bool any_length =
        std::all_of(policies_.begin(), policies_.end(), [](const EvalPolicy& policy) {
          return attention::RetainedAttention::BoundsDistances(policy.options);
        });
    for (const int64_t ctx : ctxs_) {
      if (ctx >= 2 && (ctx <= limit || any_length)) continue;
      return Status::InvalidArgument("--ctx is " + std::to_string(ctx) +
                                     ", expected 2 to the model's " + std::to_string(limit));
    }
    return Status::Ok();
  }

  // Policies that have not answered this sample yet; `add` gets their results into the log.
  struct Pending {
    std::vector<const EvalPolicy*> policies;
    EvalRunner::Sink add;
  };
  Pending PendingFor(const SampleKey& key) {
    Pending pending;
    const auto complete = [key](const EvalPolicy& policy) {
      SampleKey whole = key;
      whole.policy = policy.name;
      whole.budget = policy.budget;
      return whole;
    };
    for (const EvalPolicy& policy : policies_) {
      if (!log_->Has(complete(policy))) pending.policies.push_back(&policy);
    }
    pending.add = [this, complete](const EvalPolicy& policy, SampleResult result) {
      result.key = complete(policy);
      return log_->Add(std::move(result));
    };
    return pending;
  }

  Status RunTask(const std::string& task, int64_t ctx, const attention::Tokenizer& tokenizer,
                 EvalRunner* runner) {
    if (task == kPerplexity) return RunPerplexity(ctx, runner);
    if (samples_.contains(task)) return RunFile(task, ctx, tokenizer, runner);
    return RunGenerated(task, ctx, tokenizer, runner);
  }

  // Texts of perplexity and samples of files, for all contexts.
  Status ReadInputs(const attention::Tokenizer& tokenizer) {
    for (const std::string& task : tasks_) {
      if (task == kPerplexity) {
        PQCACHE_RETURN_IF_ERROR(ReadTexts(tokenizer));
        continue;
      }
      PQCACHE_ASSIGN_OR_RETURN(const SpecString spec, ParseSpec(task));
      if (FindFileTask(spec.name) == nullptr) continue;
      PQCACHE_ASSIGN_OR_RETURN(samples_[task], ReadTaskFile(spec, data_file_, num_samples_));
    }
    return Status::Ok();
  }

  Status ReadTexts(const attention::Tokenizer& tokenizer) {
    int64_t needed = 0;
    for (const int64_t ctx : ctxs_) {
      if (last_ >= ctx) {
        return Status::InvalidArgument("--last is " + std::to_string(last_) +
                                       ", expected less than --ctx " + std::to_string(ctx));
      }
      needed = std::max(needed, offset_ + windows_ * ctx);
    }
    texts_.clear();
    for (const std::string& path : files_) {
      PQCACHE_ASSIGN_OR_RETURN(const std::string text, ReadText(path));
      PQCACHE_ASSIGN_OR_RETURN(texts_.emplace_back(), tokenizer.Encode(text, false));
      if (std::ssize(texts_.back()) >= needed) continue;
      return Status::InvalidArgument(path + " has " + std::to_string(texts_.back().size()) +
                                     " tokens, expected at least " + std::to_string(needed) +
                                     " for --offset, --windows and --ctx");
    }
    return Status::Ok();
  }

  Status RunPerplexity(int64_t ctx, EvalRunner* runner) {
    const int64_t scored = last_ > 0 ? last_ : ctx - 1;
    ProgressBar bar("ppl");
    SampleKey key{std::string(kPerplexity), ctx, -1, 0, "", -1};
    for (const std::vector<int64_t>& tokens : texts_) {
      for (int64_t w = 0; w < windows_; ++w, ++key.sample) {
        const auto window = std::span(tokens).subspan(static_cast<size_t>(offset_ + w * ctx),
                                                      static_cast<size_t>(ctx));
        const Pending pending = PendingFor(key);
        PQCACHE_RETURN_IF_ERROR(runner->RunWindow(window, scored, pending.policies, pending.add));
        bar.Update(static_cast<double>(key.sample + 1) /
                   static_cast<double>(windows_ * std::ssize(files_)));
      }
    }
    return Status::Ok();
  }

  Status RunSample(EvalSample sample, const Pending& pending, EvalRunner* runner) const {
    if (query_aware_) MakeQueryAware(&sample);
    return runner->RunSample(sample, pending.policies, pending.add);
  }

  Status RunGenerated(const std::string& task, int64_t ctx, const attention::Tokenizer& tokenizer,
                      EvalRunner* runner) {
    PQCACHE_ASSIGN_OR_RETURN(const TaskEntry* entry, FindTask(task));
    PQCACHE_ASSIGN_OR_RETURN(const auto haystack, LoadHaystack(haystack_, ctx, tokenizer));
    const std::vector<double> groups = depths_.empty() ? std::vector<double>{-1} : depths_;
    const auto n = static_cast<double>(num_samples_);
    ProgressBar bar(task);
    uint64_t stream = 0;  // every sample has its own, whatever else runs
    for (size_t g = 0; g < groups.size(); ++g) {
      for (int64_t i = 0; i < num_samples_; ++i, ++stream) {
        Random random(MixSeed(MixSeed(static_cast<uint64_t>(model_.seed), stream),
                              static_cast<uint64_t>(ctx)));
        const Pending pending = PendingFor({task, ctx, groups[g], i, "", -1});
        if (pending.policies.empty()) continue;
        TaskRequest request{&tokenizer, haystack, ctx, 0, static_cast<int>(turns_), &random};
        request.depth = groups[g] >= 0 ? groups[g] : (static_cast<double>(i) + 0.5) / n;
        PQCACHE_ASSIGN_OR_RETURN(EvalSample sample, entry->generate(request));
        PQCACHE_RETURN_IF_ERROR(RunSample(std::move(sample), pending, runner));
        bar.Update((static_cast<double>(g) + (static_cast<double>(i) + 1) / n) /
                   static_cast<double>(groups.size()));
      }
    }
    return Status::Ok();
  }

  Status RunFile(const std::string& task, int64_t ctx, const attention::Tokenizer& tokenizer,
                 EvalRunner* runner) {
    const std::vector<TextSample>& samples = samples_.at(task);
    ProgressBar bar(task);
    int64_t truncated = 0;
    for (int64_t i = 0; i < std::ssize(samples); ++i) {
      const Pending pending = PendingFor({task, ctx, -1, i, "", -1});
      if (pending.policies.empty()) continue;
      Result<EvalSample> sample = Tokenise(samples[static_cast<size_t>(i)], ctx, tokenizer);
      PQCACHE_RETURN_IF_ERROR(
          sample.status().Annotate(data_file_ + ", sample " + std::to_string(i + 1)));
      truncated += sample->truncated ? 1 : 0;
      PQCACHE_RETURN_IF_ERROR(RunSample(*std::move(sample), pending, runner));
      bar.Update(static_cast<double>(i + 1) / static_cast<double>(samples.size()));
    }
    if (truncated > 0) {
      Log(LogLevel::kWarning,
          task + ": " + std::to_string(truncated) + " of " + std::to_string(samples.size()) +
              " samples lost tokens in their middle to fit into --ctx " + std::to_string(ctx));
    }
    return Status::Ok();
  }

  // Flags, and what the files that they name hold.
  Result<Json> Config(const attention::Decoder& decoder) const {
    Json contents;
    contents.Set("model", decoder.fingerprint().Hex());
    std::vector<std::string> paths = files_;
    paths.insert(paths.end(),
                 {attention_.codebooks, haystack_, data_file_, TokenizerPath(model_.model)});
    for (const std::string& task : tasks_) {
      PQCACHE_ASSIGN_OR_RETURN(const SpecString spec, ParseSpec(task));
      paths.push_back(spec.StringOr(kShots, ""));
    }
    for (const std::string& path : paths) {
      if (path.empty()) continue;
      PQCACHE_ASSIGN_OR_RETURN(const std::string bytes, ReadText(path));
      contents.Set(path, FingerprintOf(bytes).Hex());
    }
    const auto words = [](const std::vector<std::string>& list) {
      Json array = Json::Array();
      for (const std::string& word : list) array.Push(word);
      return array;
    };
    Json config;
    config.Set("model", model_.model).Set("dtype", DTypeName(decoder.compute_dtype()));
    config.Set("threads", model_.threads);
    config.Set("seed", model_.seed).Set("codebooks", attention_.codebooks);
    config.Set("attn_top_k", attention_.budget.tokens).Set("attn_ratio", attention_.budget.ratio);
    config.Set("attn_mass", attention_.budget.mass).Set("budgets", words(budget_texts_));
    config.Set("n_sink", attention_.n_sink).Set("local_window", attention_.local_window);
    config.Set("dense_layers", attention_.dense_layers).Set("tail", attention_.tail);
    config.Set("gqa", attention_.gqa).Set("on_misfit", attention_.on_misfit);
    config.Set("store", attention_.store);
    config.Set("page_tokens", attention_.page_tokens).Set("shadow", attention_.shadow);
    config.Set("task", words(tasks_)).Set("policy", words(policy_names_));
    config.Set("ctx", words(ctx_texts_)).Set("depths", words(depth_texts_));
    config.Set("num_samples", num_samples_).Set("turns", turns_).Set("query_aware", query_aware_);
    config.Set("haystack", haystack_).Set("data_file", data_file_).Set("file", words(files_));
    config.Set("windows", windows_).Set("offset", offset_).Set("last", last_);
    config.Set("step_exact", step_exact_).Set("contents", std::move(contents));
    return config;
  }

  ModelFlags model_;
  AttentionFlags attention_;
  std::vector<std::string> task_texts_, policy_names_, budget_texts_, ctx_texts_, depth_texts_,
      files_;
  std::string haystack_, data_file_, output_;
  int64_t num_samples_ = 20, turns_ = 1, windows_ = 1, offset_ = 0, last_ = 0;
  bool query_aware_ = false, step_exact_ = false, overwrite_ = false;

  std::vector<std::string> tasks_;
  std::vector<EvalPolicy> policies_;
  std::vector<int64_t> ctxs_;
  std::vector<double> depths_;
  std::vector<std::vector<int64_t>> texts_;                 // [files of ppl]
  std::map<std::string, std::vector<TextSample>> samples_;  // of tasks that are read from a file
  std::unique_ptr<PredictionLog> log_;
};

}  // namespace

std::unique_ptr<Command> CreateEvalCommand() { return std::make_unique<EvalCommand>(); }

}  // namespace pqcache::tools
